//! Conditions of Gateways and routes, as compiling knows them.

use std::sync::{Arc, OnceLock};

use palisade_crds::gateway_api::{HttpBackendRef, LocalObjectReference, ParentReference};

use super::{GROUP, Grants, ISTIO_GROUP, Referrer, ResolvedListener, Route, RouteKind, attach::Attachment};
use crate::{
    inputs::{Inputs, core::ServicePort},
    object::{Head, ObjectKey},
    status::ObjectStatus,
};

/// A condition of an object's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// `Accepted`, `ResolvedRefs`.
    pub(crate) condition_type: &'static str,
    /// Its status.
    pub(crate) is_true: bool,
    /// Machine-readable reason (Gateway API constants).
    pub(crate) reason: &'static str,
    /// For a person; empty when all is well.
    pub(crate) message: Arc<str>,
}

/// What a Gateway's status says of its listeners.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GatewayStatus {
    /// In document order.
    pub(crate) listeners: Vec<ListenerStatus>,
}

/// What a Gateway's status says of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerStatus {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Routes that attach to it.
    pub(crate) attached_routes: u32,
    /// Reason of the condition `Conflicted`.
    pub(crate) conflict: Option<&'static str>,
    /// Another listener of the port that terminates TLS for some of the same hosts.
    pub(crate) overlaps: Option<Arc<str>>,
    /// Kinds of routes that it takes.
    pub(crate) kinds: Vec<&'static str>,
    /// Condition `Accepted`.
    pub(crate) accepted: Condition,
    /// Condition `ResolvedRefs`.
    pub(crate) resolved_refs: Condition,
}

/// What a route's status says of its parents.
#[derive(Debug, Clone)]
pub(crate) struct RouteStatus {
    /// The route.
    pub(crate) route: Arc<Route>,
    /// Parents that are ours.
    pub(crate) parents: Vec<ParentStatus>,
    /// Where it attaches.
    pub(super) attachments: Vec<Attachment>,
    /// What is said of it in the end, once somebody has asked.
    pub(crate) told: OnceLock<Arc<ObjectStatus>>,
}

/// What a route's status says of one parent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParentStatus {
    /// Index into `parentRefs`.
    pub(crate) index: usize,
    /// The reference itself.
    pub(crate) parent: ParentReference,
    /// There is such an object: whose it would be is not known of one that is missing.
    pub(crate) exists: bool,
    /// Condition `Accepted`.
    pub(crate) accepted: Condition,
    /// Condition `ResolvedRefs`.
    pub(crate) resolved_refs: Condition,
}

impl RouteStatus {
    /// The route's metadata.
    pub(crate) fn head(&self) -> &Head {
        &self.route.head
    }
}

/// A condition that holds.
pub(super) fn accepted(condition_type: &'static str, reason: &'static str) -> Condition {
    Condition { condition_type, is_true: true, reason, message: "".into() }
}

/// A condition that does not hold.
pub(super) fn refused(condition_type: &'static str, reason: &'static str, message: &str) -> Condition {
    Condition { condition_type, is_true: false, reason, message: message.into() }
}

impl GatewayStatus {
    /// Counts the routes of each listener.
    pub(super) fn count_routes(&mut self, listeners: &[ResolvedListener]) {
        for (status, listener) in self.listeners.iter_mut().zip(listeners) {
            status.attached_routes = u32::try_from(listener.routes.len()).unwrap_or(u32::MAX);
        }
    }
}

/// The condition `ResolvedRefs` of a route: all of its backends exist and may be referred to.
pub(super) fn resolved_refs(inputs: &Inputs, grants: &Grants, route: &Route) -> Condition {
    let own = &route.head.key.namespace;
    if let Some(reference) = extensions(route).next() {
        let message =
            format!("filters of kind `{}/{}` are not served: the rule answers 503", reference.group, reference.kind);
        return refused("ResolvedRefs", "InvalidKind", &message);
    }
    let mirrors = route.rules.iter().flat_map(|rule| &rule.filters).filter_map(|filter| filter.request_mirror.as_ref());
    let backends = route.rules.iter().flat_map(|rule| &rule.backend_refs).map(HttpBackendRef::object);
    for backend in backends.chain(mirrors.map(|mirror| mirror.backend_ref.clone())) {
        if backend.group == ISTIO_GROUP && backend.kind == "Hostname" && route.kind != RouteKind::Udp {
            if !is_entry(inputs, &backend.name, backend.port) {
                let message = format!("no ServiceEntry has host `{}` with that port", backend.name);
                return refused("ResolvedRefs", "BackendNotFound", &message);
            }
            continue;
        }
        if !matches!(backend.group.as_str(), "" | "core") || backend.kind != "Service" {
            let message = format!("backends of kind `{}/{}` are not served", backend.group, backend.kind);
            return refused("ResolvedRefs", "InvalidKind", &message);
        }
        let namespace = backend.namespace.as_deref().unwrap_or(own);
        let from = Referrer { group: GROUP, kind: route.kind.as_str(), namespace: own };
        if !grants.permits(from, namespace, "", "Service", &backend.name) {
            let message = format!("no ReferenceGrant lets this route use Service `{namespace}/{}`", backend.name);
            return refused("ResolvedRefs", "RefNotPermitted", &message);
        }
        let key = ObjectKey::new(namespace, backend.name.as_str());
        let is_udp = route.kind == RouteKind::Udp;
        let has_port = inputs.services.get(&key).is_some_and(|service| {
            let is_meant = |port: &ServicePort| Some(port.port) == backend.port && port.is_udp() == is_udp;
            (service.spec.external_name.is_some() && !is_udp) || service.spec.ports.iter().any(is_meant)
        });
        if !has_port {
            let transport = if is_udp { "UDP port" } else { "port" };
            let message = format!("there is no Service `{key}` with {transport} {}", backend.port.unwrap_or(0));
            return refused("ResolvedRefs", "BackendNotFound", &message);
        }
    }
    accepted("ResolvedRefs", "ResolvedRefs")
}

/// Filters of other implementations, of rules and of backends.
fn extensions(route: &Route) -> impl Iterator<Item = &LocalObjectReference> {
    let of_rules = route.rules.iter().flat_map(|rule| &rule.filters);
    let of_backends = route.rules.iter().flat_map(|rule| &rule.backend_refs).flat_map(|backend| &backend.filters);
    of_rules.chain(of_backends).filter_map(|filter| filter.extension_ref.as_ref())
}

/// Whether some ServiceEntry has a host and port.
fn is_entry(inputs: &Inputs, host: &str, port: Option<u16>) -> bool {
    inputs.service_entries.values().any(|entry| {
        entry.spec.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
            && entry.spec.ports.iter().any(|own| port.is_some_and(|port| own.number == u32::from(port)))
    })
}
