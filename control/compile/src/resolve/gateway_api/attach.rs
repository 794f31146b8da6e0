//! Attaching routes to listeners and Services.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::gateway_api::{FromNamespaces, LabelSelector, Listener as Written, ParentReference};
use palisade_model::host::HostPattern;

use super::{Attached, GROUP, ResolvedGateway, Route, RouteKind, ServiceRoute, parent_key, status};
use crate::{
    inputs::Inputs,
    object::{ObjectKey, selects},
};

/// The label by which Kubernetes names a namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A place at which a route attaches.
#[derive(Debug, Clone)]
pub(crate) enum Attachment {
    /// A listener of a Gateway, by its position, with the hosts that both have in common.
    Listener { gateway: ObjectKey, listener: usize, hosts: Arc<[HostPattern]> },
    /// A Service.
    Service { service: ObjectKey, port: Option<u16> },
    /// A ServiceEntry.
    Entry { entry: ObjectKey, port: Option<u16> },
}

/// All places with the routes that attach to them.
pub(super) struct Places<'a> {
    pub(super) gateways: &'a mut BTreeMap<ObjectKey, ResolvedGateway>,
    pub(super) services: BTreeMap<ObjectKey, Vec<ServiceRoute>>,
    pub(super) entries: BTreeMap<ObjectKey, Vec<ServiceRoute>>,
}

impl Places<'_> {
    /// Takes the next route.
    pub(super) fn take(&mut self, status: &status::RouteStatus) {
        let route = &status.route;
        for attachment in &status.attachments {
            match attachment {
                Attachment::Listener { gateway, listener, hosts } => {
                    let gateway = self.gateways.get_mut(gateway);
                    let Some(listener) = gateway.and_then(|gateway| gateway.listeners.get_mut(*listener)) else {
                        continue;
                    };
                    // Routes come one after the other: if it is there already, by another of its references, it is the last one.
                    if listener.routes.last().is_none_or(|last| !Arc::ptr_eq(&last.route, route)) {
                        listener.routes.push(Attached { route: Arc::clone(route), hosts: Arc::clone(hosts) });
                    }
                }
                Attachment::Service { service, port } => attach(&mut self.services, service, route, *port),
                Attachment::Entry { entry, port } => attach(&mut self.entries, entry, route, *port),
            }
        }
    }
}

fn attach(places: &mut BTreeMap<ObjectKey, Vec<ServiceRoute>>, key: &ObjectKey, route: &Arc<Route>, port: Option<u16>) {
    let route = ServiceRoute { route: Arc::clone(route), port };
    match places.get_mut(key) {
        Some(attached) => attached.push(route),
        None => drop(places.insert(key.clone(), vec![route])),
    }
}

/// Attaches a route to every listener that its parent reference names and that allows it; gives the `Accepted` condition.
pub(super) fn to_gateway(
    inputs: &Inputs,
    gateway: &ResolvedGateway,
    route: &Route,
    parent: &ParentReference,
    attachments: &mut Vec<Attachment>,
) -> status::Condition {
    let document = inputs.api_gateways.get(&gateway.head.key);
    let mut refusal = Refusal::NoListener;
    let mut is_attached = false;
    for (index, listener) in gateway.listeners.iter().enumerate() {
        let is_named = parent.section_name.as_deref().is_none_or(|name| *name == *listener.name)
            && parent.port.is_none_or(|port| port == listener.port);
        let written = document.and_then(|document| document.spec.listeners.iter().find(|w| *w.name == *listener.name));
        let Some(written) = written.filter(|_| is_named) else { continue };
        if !route.kind.suits(listener.protocol)
            || !allows_kind(written, route.kind)
            || !allows_namespace(inputs, written, &gateway.head.key.namespace, &route.head.key.namespace)
        {
            refusal = refusal.max(Refusal::NotAllowed);
            continue;
        }
        // A TCPRoute or UDPRoute has no hosts: it takes what the listener takes.
        let hosts = common_hosts(&route.hostnames, &listener.hostname);
        if hosts.is_empty() {
            refusal = refusal.max(Refusal::NoHost);
            continue;
        }
        is_attached = true;
        let gateway = gateway.head.key.clone();
        attachments.push(Attachment::Listener { gateway, listener: index, hosts: hosts.into() });
    }
    if is_attached {
        status::accepted("Accepted", "Accepted")
    } else {
        let (reason, message) = refusal.told();
        status::refused("Accepted", reason, message)
    }
}

/// Why no listener takes a route: of several reasons the one that came closest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    NoListener,
    NotAllowed,
    NoHost,
}

impl Refusal {
    /// Reason and message.
    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::NoListener => {
                ("NoMatchingParent", "no listener has the name or port that the parent reference asks for")
            }
            Self::NotAllowed => ("NotAllowedByListeners", "the listener does not allow this route"),
            Self::NoHost => ("NoMatchingListenerHostname", "route and listener have no host in common"),
        }
    }
}

/// Attaches a route to a Service (GAMMA); gives the `Accepted` condition.
pub(super) fn to_service(
    inputs: &Inputs,
    route: &Route,
    parent: &ParentReference,
    attachments: &mut Vec<Attachment>,
) -> status::Condition {
    let key = parent_key(parent, &route.head);
    let Some(service) = inputs.services.get(&key) else {
        return status::refused("Accepted", "NoMatchingParent", "the Service does not exist");
    };
    if let Some(port) = parent.port
        && !service.spec.ports.iter().any(|own| own.port == port)
    {
        return status::refused("Accepted", "NoMatchingParent", "the Service has no such port");
    }
    attachments.push(Attachment::Service { service: key, port: parent.port });
    status::accepted("Accepted", "Accepted")
}

/// Attaches a route to a ServiceEntry, as to a Service; gives the `Accepted` condition.
pub(super) fn to_entry(
    inputs: &Inputs,
    route: &Route,
    parent: &ParentReference,
    attachments: &mut Vec<Attachment>,
) -> status::Condition {
    let key = parent_key(parent, &route.head);
    let Some(entry) = inputs.service_entries.get(&key) else {
        return status::refused("Accepted", "NoMatchingParent", "the ServiceEntry does not exist");
    };
    if let Some(port) = parent.port
        && !entry.spec.ports.iter().any(|own| own.number == u32::from(port))
    {
        return status::refused("Accepted", "NoMatchingParent", "the ServiceEntry has no such port");
    }
    attachments.push(Attachment::Entry { entry: key, port: parent.port });
    status::accepted("Accepted", "Accepted")
}

fn allows_kind(written: &Written, route: RouteKind) -> bool {
    let kinds = &written.allowed_routes.kinds;
    kinds.is_empty() || kinds.iter().any(|kind| kind.group == GROUP && kind.kind == route.as_str())
}

fn allows_namespace(inputs: &Inputs, written: &Written, own: &str, route: &str) -> bool {
    let namespaces = &written.allowed_routes.namespaces;
    match namespaces.from {
        FromNamespaces::All => true,
        FromNamespaces::Same => own == route,
        FromNamespaces::Selector => match &namespaces.selector {
            None => false,
            Some(selector) => {
                let mut labels = inputs.namespace(route).labels;
                // Every namespace has it, also one that no document describes.
                labels.insert(NAMESPACE_NAME.to_owned(), route.to_owned());
                matches_labels(selector, &labels)
            }
        },
    }
}

/// Kubernetes label selector semantics: everything that is written must hold; an unknown operator never does.
fn matches_labels(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selects(&selector.match_labels, labels)
        && selector.match_expressions.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(|value| requirement.values.contains(value)),
                "NotIn" => value.is_none_or(|value| !requirement.values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Hosts that route and listener have in common; a route without hosts takes the listener's.
fn common_hosts(hostnames: &[String], listener: &HostPattern) -> Vec<HostPattern> {
    if hostnames.is_empty() {
        return vec![listener.clone()];
    }
    let mut hosts: Vec<HostPattern> = Vec::new();
    for hostname in hostnames {
        // A malformed host was refused by validation; it has nothing in common with any listener.
        let Ok(pattern) = hostname.parse::<HostPattern>() else { continue };
        if let Some(common) = listener.intersect(&pattern)
            && !hosts.contains(&common)
        {
            hosts.push(common);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(hostnames: &[&str], listener: &str) -> Vec<String> {
        let hostnames: Vec<String> = hostnames.iter().map(|host| (*host).to_owned()).collect();
        common_hosts(&hostnames, &listener.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_route_without_hosts_takes_the_listeners() {
        assert_eq!(common(&[], "*.example.com"), ["*.example.com"]);
    }

    #[test]
    fn hosts_are_narrowed_to_what_both_have() {
        assert_eq!(common(&["a.example.com", "b.org", "*.com"], "*.example.com"), ["a.example.com", "*.example.com"]);
        assert_eq!(common(&["example.com"], "*.example.com"), Vec::<String>::new());
    }
}
