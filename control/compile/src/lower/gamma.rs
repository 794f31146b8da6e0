//! Routes that attach to Services (GAMMA).

use std::sync::Arc;

use palisade_model::{hash::HashError, host::HostPattern, listener::Protocol, origin::Origin, route::RouteEntry};

use crate::{
    hosts::Visibility,
    lower::{assembly::Assembly, client::Client, gateway_api, http_routes},
    object,
    resolve::{
        gateway_api::{Route, RouteKind},
        services::{Registered, RegisteredPort},
        virtual_services::Bound,
    },
};

/// Entries of a virtual host with the objects that they come from.
type Entries = (Vec<RouteEntry>, Vec<Origin>);

/// The entries of the HTTPRoutes and GRPCRoutes that attach to a service port; `None` when there is none, or when a
/// VirtualService for the host comes first.
pub(crate) fn service_routes(
    assembly: &mut Assembly<'_>,
    service: &Registered,
    port: &RegisteredPort,
    virtual_service: Option<&Bound>,
) -> Result<Option<Entries>, HashError> {
    let client = assembly.client;
    let routes =
        client.resolved.gateway_api.service_routes(service, port.number, client.namespace(), RouteKind::is_http);
    let Some(oldest) = routes.first() else { return Ok(None) };
    if virtual_service.is_some_and(|bound| precedes(client, bound, oldest)) {
        return Ok(None);
    }
    let entries = http_routes::add(assembly, &routes)?;
    let origins = routes.iter().map(|route| route.head.origin()).chain([service.origin.clone()]).collect();
    Ok(Some((entries, origins)))
}

/// Whether a VirtualService comes before a route: what is not for everyone comes before routes; of the rest the client's own
/// routes come first, then the oldest (Istio's `SelectVirtualServices`).
pub(super) fn precedes(client: Client<'_>, bound: &Bound, route: &Route) -> bool {
    let is_own = *route.head.key.namespace == *client.namespace();
    bound.visibility != Visibility::Public || (!is_own && object::cmp_age(&bound.head, &route.head).is_lt())
}

/// The routes for the bytes of a service port: TLSRoutes where it carries TLS, else the oldest TCPRoute, which takes all.
pub(super) fn byte_routes<'a>(client: Client<'a>, service: &Registered, port: &RegisteredPort) -> Vec<&'a Arc<Route>> {
    let api = &client.resolved.gateway_api;
    if port.protocol == Protocol::Tls {
        return api.service_routes(service, port.number, client.namespace(), |kind| kind == RouteKind::Tls);
    }
    let mut routes = api.service_routes(service, port.number, client.namespace(), |kind| kind == RouteKind::Tcp);
    routes.truncate(1);
    routes
}

/// Adds the rule of a TLSRoute or TCPRoute at a service port and gives its key.
pub(super) fn add_bytes(assembly: &mut Assembly<'_>, route: &Route, suffix: &str) -> Result<Arc<str>, HashError> {
    // What is no host was refused by validation and takes nothing. A route without any takes what comes.
    let hosts: Vec<HostPattern> = route.hostnames.iter().filter_map(|host| host.parse().ok()).collect();
    gateway_api::add_l4(assembly, suffix.trim_start_matches('@'), route, &hosts)
}
