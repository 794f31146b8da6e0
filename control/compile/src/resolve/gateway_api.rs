//! Gateway API: which routes attach to which listeners and Services, and what their status says.

mod attach;
pub(crate) mod authorities;
mod backend_certificate;
mod backend_tls;
mod client_roots;
mod grants;
mod listeners;
pub(crate) mod routes;
mod shared;
pub(crate) mod status;

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::gateway_api::{Listener as Written, ParentReference, TlsMode};
use palisade_model::{host::HostPattern, listener::ClientValidation};

pub(crate) use backend_certificate::BackendCertificate;
pub(crate) use backend_tls::{BackendTls, BackendTlsPolicies};
pub(crate) use grants::{Grants, Referrer};
pub(crate) use routes::{Route, RouteKind};

use crate::{
    inputs::{Input, Inputs, ServedGateways, is_served_class},
    memo::{self, Read},
    object::{self, Head, ObjectKey},
    resolve::services::{Registered, Registry},
};

/// The group of Istio's networking kinds.
pub(crate) const ISTIO_GROUP: &str = "networking.istio.io";
/// The API group.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// All that decides about a route besides the route.
const CIRCUMSTANCES: &[Input] = &[
    Input::ApiGateways,
    Input::GatewayClasses,
    Input::BackendTlsPolicies,
    Input::ServiceEntries,
    Input::ReferenceGrants,
    Input::Namespaces,
    Input::Services,
    Input::Secrets,
    Input::ConfigMaps,
];

/// Gateways of our classes, and the routes that attach to them or to Services.
#[derive(Debug, Default)]
pub(crate) struct GatewayApi {
    gateways: BTreeMap<ObjectKey, Arc<ResolvedGateway>>,
    services: BTreeMap<ObjectKey, Vec<ServiceRoute>>,
    /// The same by ServiceEntry.
    entries: BTreeMap<ObjectKey, Vec<ServiceRoute>>,
    grants: Grants,
    backend_tls: BackendTlsPolicies,
    statuses: Vec<Arc<status::RouteStatus>>,
    made: routes::Made,
    /// All but the routes that it was made from.
    seen: Option<Inputs>,
    served: ServedGateways,
}

/// A Gateway.
#[derive(Debug, PartialEq)]
pub(crate) struct ResolvedGateway {
    /// Metadata.
    pub(crate) head: Head,
    /// Listeners in document order.
    pub(crate) listeners: Vec<ResolvedListener>,
    /// What it shows to backends.
    pub(crate) backend_certificate: BackendCertificate,
    /// What its status says.
    pub(crate) status: status::GatewayStatus,
}

/// A listener.
#[derive(Debug, PartialEq)]
pub(crate) struct ResolvedListener {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// The declared port.
    pub(crate) port: u16,
    /// Hosts that it takes.
    pub(crate) hostname: HostPattern,
    /// What it speaks.
    pub(crate) protocol: ListenerProtocol,
    /// The mesh's certificates on both sides (option `gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL`).
    pub(crate) is_mesh: bool,
    /// Client certificates are asked for (option `MUTUAL` or `OPTIONAL_MUTUAL`), and whether every client must have one.
    pub(crate) asks_clients: Option<bool>,
    /// Keys of the certificates that may be read.
    pub(crate) certificates: Vec<Arc<str>>,
    /// What is asked of client certificates.
    pub(crate) frontend: Option<ClientValidation>,
    /// No conflict or mistake keeps it from being served.
    pub(crate) is_accepted: bool,
    /// Routes in age order.
    pub(crate) routes: Vec<Attached>,
}

/// A route at a listener.
#[derive(Debug, Clone)]
pub(crate) struct Attached {
    /// The route.
    pub(crate) route: Arc<Route>,
    /// Hosts that route and listener have in common.
    pub(crate) hosts: Arc<[HostPattern]>,
}

/// A route at a Service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceRoute {
    /// The route.
    pub(crate) route: Arc<Route>,
    /// Only at this Service port; `None` = at all.
    pub(crate) port: Option<u16>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerProtocol {
    /// Plaintext HTTP.
    Http,
    /// HTTP inside terminated TLS.
    Https,
    /// TLS, terminated.
    TlsTerminate,
    /// TLS, relayed by server name.
    TlsPassthrough,
    /// Opaque bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// None of these.
    Unknown,
}

/// What was made from the same document is the very same.
impl PartialEq for Attached {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.route, &other.route) && self.hosts == other.hosts
    }
}

impl PartialEq for ServiceRoute {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.route, &other.route) && self.port == other.port
    }
}

impl ListenerProtocol {
    /// The protocol of a listener as written.
    pub(crate) fn of(written: &Written) -> Self {
        let mode = written.tls.as_ref().map_or(TlsMode::Terminate, |tls| tls.mode);
        match (written.protocol.as_str(), mode) {
            ("HTTP", _) => Self::Http,
            ("HTTPS", TlsMode::Terminate) => Self::Https,
            ("TLS", TlsMode::Terminate) => Self::TlsTerminate,
            ("TLS" | "HTTPS", TlsMode::Passthrough) => Self::TlsPassthrough,
            ("TCP", _) => Self::Tcp,
            ("UDP", _) => Self::Udp,
            _ => Self::Unknown,
        }
    }

    /// What stands on the socket: listeners of one port must agree on it.
    pub(crate) fn transport(self) -> u8 {
        match self {
            Self::Http => 0,
            Self::Https | Self::TlsTerminate | Self::TlsPassthrough => 1,
            Self::Tcp => 2,
            Self::Udp => 3,
            Self::Unknown => 4,
        }
    }
}

impl GatewayApi {
    /// Resolves listeners and attaches routes, oldest first.
    /// A route whose document is as it was `before` is the very same.
    pub(crate) fn after(before: Option<&Self>, inputs: &Inputs) -> Self {
        let grants = Grants::new(inputs);
        let mut gateways: BTreeMap<ObjectKey, ResolvedGateway> = inputs
            .api_gateways
            .values()
            .filter(|gateway| is_served_class(inputs, &gateway.spec.gateway_class_name))
            .map(|gateway| (gateway.head.key.clone(), listeners::resolve(inputs, gateway, &grants)))
            .collect();
        shared::settle(inputs, &mut gateways);
        let seen = inputs.only(&[CIRCUMSTANCES]);
        let (routes, made) = routes::all(inputs, before.map(|before| &before.made));
        // Where a route attaches depends on no other route. Both lists are in one order.
        let held = before.filter(|before| before.seen.as_ref().is_some_and(|held| held.is_same(&seen)));
        let mut held = held.map(|before| before.statuses.as_slice()).unwrap_or_default().iter().peekable();
        let mut places =
            attach::Places { gateways: &mut gateways, services: BTreeMap::new(), entries: BTreeMap::new() };
        let mut statuses = Vec::with_capacity(routes.len());
        for route in routes {
            while held.next_if(|held| object::cmp_age(held.head(), &route.head).is_lt()).is_some() {}
            let same = held.clone().take_while(|held| object::cmp_age(held.head(), &route.head).is_eq());
            let same = same.into_iter().find(|held| Arc::ptr_eq(&held.route, &route));
            let status = match same {
                Some(status) => Arc::clone(status),
                None => Arc::new(status_of(inputs, &grants, places.gateways, route)),
            };
            places.take(&status);
            statuses.push(status);
        }
        let attach::Places { gateways: _, services, entries } = places;
        for gateway in gateways.values_mut() {
            gateway.status.count_routes(&gateway.listeners);
        }
        let gateways = gateways.into_iter().map(|(key, gateway)| (key, Arc::new(gateway))).collect();
        let backend_tls = BackendTlsPolicies::new(inputs);
        let served = ServedGateways::new(inputs);
        Self { gateways, services, entries, grants, backend_tls, statuses, made, seen: Some(seen), served }
    }

    /// A Gateway of one of our classes.
    pub(crate) fn gateway(&self, key: &ObjectKey) -> Option<&Arc<ResolvedGateway>> {
        memo::note(|| Read::Gateway(key.clone()));
        self.resolved_gateway(key)
    }

    /// The same, for who compares.
    pub(crate) fn resolved_gateway(&self, key: &ObjectKey) -> Option<&Arc<ResolvedGateway>> {
        self.gateways.get(key)
    }

    /// Routes that attach to a service, for who compares.
    pub(crate) fn routes_at(&self, registry: Registry, key: &ObjectKey) -> &[ServiceRoute] {
        let attached = match registry {
            Registry::Kubernetes => &self.services,
            Registry::Entries => &self.entries,
        };
        attached.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// All Gateways of our classes.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = &ResolvedGateway> {
        self.gateways.values().map(|gateway| &**gateway)
    }

    /// Routes of some kinds that a client in `client` meets at a Service port: those of its own namespace if there are any
    /// (consumer), else those of the Service's namespace (producer).
    pub(crate) fn service_routes(
        &self,
        service: &Registered,
        port: u16,
        client: &str,
        is_meant: impl Fn(RouteKind) -> bool,
    ) -> Vec<&Arc<Route>> {
        memo::note(|| Read::Routes(service.registry, service.key.clone()));
        let attached = self.routes_at(service.registry, &service.key);
        let at_port = |namespace: &str| -> Vec<&Arc<Route>> {
            attached
                .iter()
                .filter(|attached| attached.port.is_none_or(|own| own == port))
                .map(|attached| &attached.route)
                .filter(|route| *route.head.key.namespace == *namespace && is_meant(route.kind))
                .collect()
        };
        let own = at_port(client);
        if own.is_empty() { at_port(&service.key.namespace) } else { own }
    }

    /// TLS towards a Service port, as a BackendTLSPolicy asks for it.
    pub(crate) fn backend_tls(&self, service: &ObjectKey, port: &str) -> Option<&BackendTls> {
        self.backend_tls.find(service, port)
    }

    /// The policy for exactly a Service and a port's name; an empty name is for all ports.
    pub(crate) fn backend_tls_exactly(&self, service: &ObjectKey, port: &str) -> Option<&BackendTls> {
        self.backend_tls.exactly(service, port)
    }

    /// Which of them a pod serves.
    pub(crate) fn served(&self) -> &ServedGateways {
        &self.served
    }

    /// Permissions across namespaces.
    pub(crate) fn grants(&self) -> &Grants {
        &self.grants
    }

    /// What the routes' statuses say.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = &status::RouteStatus> {
        self.statuses.iter().map(|status| &**status)
    }
}

/// Where a route attaches, and what its status says.
fn status_of(
    inputs: &Inputs,
    grants: &Grants,
    gateways: &BTreeMap<ObjectKey, ResolvedGateway>,
    route: Arc<Route>,
) -> status::RouteStatus {
    let resolved_refs = status::resolved_refs(inputs, grants, &route);
    let (mut parents, mut attachments) = (Vec::new(), Vec::new());
    for (index, parent) in route.parent_refs.iter().enumerate() {
        let key = parent_key(parent, &route.head);
        let accepted = match (parent.group.as_str(), parent.kind.as_str()) {
            // A Gateway of another controller's class is not ours to speak about.
            (GROUP, "Gateway") if inputs.api_gateways.contains_key(&key) && !gateways.contains_key(&key) => continue,
            (GROUP, "Gateway") => match gateways.get(&key) {
                Some(gateway) => attach::to_gateway(inputs, gateway, &route, parent, &mut attachments),
                None => status::refused("Accepted", "NoMatchingParent", "the Gateway does not exist"),
            },
            ("" | "core", "Service") | (ISTIO_GROUP, "ServiceEntry") if route.kind == RouteKind::Udp => {
                status::refused("Accepted", "UnsupportedValue", "the mesh carries no datagrams: only Gateways take it")
            }
            ("" | "core", "Service") => attach::to_service(inputs, &route, parent, &mut attachments),
            (ISTIO_GROUP, "ServiceEntry") => attach::to_entry(inputs, &route, parent, &mut attachments),
            _ => continue,
        };
        let exists = parent.kind != "Gateway" || gateways.contains_key(&key);
        let (parent, resolved_refs) = (parent.clone(), resolved_refs.clone());
        parents.push(status::ParentStatus { index, parent, exists, accepted, resolved_refs });
    }
    status::RouteStatus { route, parents, attachments, told: Default::default() }
}

/// The object that a parent reference names.
fn parent_key(parent: &ParentReference, route: &Head) -> ObjectKey {
    let namespace = parent.namespace.as_deref().map_or_else(|| Arc::clone(&route.key.namespace), Arc::from);
    ObjectKey::new(namespace, parent.name.as_str())
}
