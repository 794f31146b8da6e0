//! HTTPRoutes that attach to Services (GAMMA).

use palisade_model::{hash::HashError, origin::Origin, route::RouteEntry};

use crate::{
    lower::{assembly::Assembly, http_routes},
    object::{self, Head},
    resolve::services::{Registered, RegisteredPort},
};

/// Entries of a virtual host with the objects that they come from.
type Entries = (Vec<RouteEntry>, Vec<Origin>);

/// The entries of the HTTPRoutes that attach to a service port; `None` when there is none, or when a VirtualService for the
/// host is older than all of them: the oldest has the host, as everywhere.
pub(crate) fn service_routes(
    assembly: &mut Assembly<'_>,
    service: &Registered,
    port: &RegisteredPort,
    virtual_service: Option<&Head>,
) -> Result<Option<Entries>, HashError> {
    let client = assembly.client;
    let routes = client.resolved.gateway_api.service_routes(service, port.number, client.namespace());
    let Some(oldest) = routes.first() else { return Ok(None) };
    if virtual_service.is_some_and(|other| object::cmp_age(other, &oldest.head).is_lt()) {
        return Ok(None);
    }
    let entries = http_routes::add(assembly, &routes)?;
    let origins = routes.iter().map(|route| route.head.origin()).chain([service.origin.clone()]).collect();
    Ok(Some((entries, origins)))
}
