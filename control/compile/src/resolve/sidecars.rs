//! Sidecars: which one applies to a workload, and what it lets the workload see (istio-semantics 8).

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::istio::{IstioEgressListener, IstioIngressListener, OutboundTrafficPolicyMode, Sidecar};
use palisade_model::{
    endpoint::Address, host::HostPattern, listener::Protocol, origin::Origin, settings::OutboundPolicy,
};

use crate::{
    inputs::Inputs,
    object::{self, Object},
    resolve::{
        protocol::{self, Named},
        services::Registered,
        virtual_services::Bound,
    },
};

/// All Sidecars, oldest first in each namespace.
#[derive(Debug, Default)]
pub(crate) struct Sidecars {
    by_namespace: BTreeMap<Arc<str>, Vec<Arc<Scope>>>,
    root: Arc<str>,
}

/// What one Sidecar says.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The document.
    pub(crate) origin: Origin,
    selector: Option<BTreeMap<String, String>>,
    /// Outbound listeners as far as they limit what is seen; `None` = everything is seen.
    egress: Option<Vec<Listener>>,
    /// Inbound ports; `None` = those of the services.
    pub(crate) ingress: Option<Vec<Ingress>>,
    /// Calls to unknown hosts; `None` = as the mesh says.
    pub(crate) outbound: Option<OutboundPolicy>,
}

/// An outbound listener.
#[derive(Debug)]
struct Listener {
    /// The port that it is for; `None` = every port without a listener of its own.
    port: Option<u16>,
    /// The protocol that it declares for the port is HTTP.
    is_http: bool,
    imports: Vec<Import>,
}

/// One item of `hosts`.
#[derive(Debug)]
struct Import {
    namespace: Namespace,
    host: HostPattern,
    /// `~NAMESPACE/HOST`: what is not seen although another item takes it.
    is_exclusion: bool,
}

#[derive(Debug)]
enum Namespace {
    Any,
    Nobody,
    /// The workload's; of a Sidecar for the whole mesh not the document's.
    Own,
    Of(Arc<str>),
}

/// An inbound port.
#[derive(Debug)]
pub(crate) struct Ingress {
    /// The port that callers dial.
    pub(crate) port: u16,
    /// What it carries.
    pub(crate) protocol: Protocol,
    /// Where the application listens.
    pub(crate) endpoint: IngressEndpoint,
    /// TLS with a certificate of its own is asked for, which is not served: plaintext would be weaker.
    pub(crate) wants_tls: bool,
}

/// Where the application listens.
#[derive(Debug)]
pub(crate) enum IngressEndpoint {
    /// On the pod's address, at this port.
    Pod(u16),
    /// At this address.
    Address(Address),
}

impl Sidecars {
    /// Reads all documents.
    pub(crate) fn new(inputs: &Inputs, root: Arc<str>) -> Self {
        let mut by_namespace: BTreeMap<Arc<str>, Vec<Arc<Scope>>> = BTreeMap::new();
        for document in object::by_age(inputs.sidecars.values()) {
            let scope = Arc::new(Scope::new(document));
            by_namespace.entry(Arc::clone(&document.head.key.namespace)).or_default().push(scope);
        }
        Self { by_namespace, root }
    }

    /// The Sidecar of a workload: one that selects it in its namespace, else its namespace's, else the root namespace's; of
    /// several the oldest. Nothing is merged. In the root namespace one with a selector serves only workloads that live there.
    pub(crate) fn of_workload(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Option<&Arc<Scope>> {
        let own = self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let selecting = |scope: &&Arc<Scope>| scope.selector.as_ref().is_some_and(|s| object::selects(s, labels));
        let is_default = |scope: &&Arc<Scope>| scope.selector.is_none();
        own.iter()
            .find(selecting)
            .or_else(|| own.iter().find(is_default))
            .or_else(|| self.by_namespace.get(&self.root)?.iter().find(is_default))
    }
}

impl Scope {
    fn new(document: &Object<Sidecar>) -> Self {
        let Sidecar { workload_selector, ingress, egress, inbound_connection_pool: _, outbound_traffic_policy } =
            &document.spec;
        // A selector without labels selects every workload, which is what none does.
        let selector = workload_selector.as_ref().map(|selector| selector.labels.clone());
        let egress = egress.as_ref().filter(|listeners| !listeners.is_empty());
        let ingress = ingress.as_ref().filter(|listeners| !listeners.is_empty());
        Self {
            origin: document.head.origin(),
            selector: selector.filter(|labels| !labels.is_empty()),
            egress: egress.map(|listeners| listeners.iter().map(Listener::new).collect()),
            ingress: ingress.map(|listeners| listeners.iter().filter_map(Ingress::new).collect()),
            outbound: outbound_traffic_policy.as_ref().map(|policy| match policy.mode {
                OutboundTrafficPolicyMode::RegistryOnly => OutboundPolicy::RegistryOnly,
                // The proxy that the rest should go through is not served: going past it would be no substitute.
                OutboundTrafficPolicyMode::AllowAny if policy.egress_proxy.is_some() => OutboundPolicy::RegistryOnly,
                OutboundTrafficPolicyMode::AllowAny => OutboundPolicy::AllowAny,
            }),
        }
    }

    /// The listener of a port.
    fn listener(&self, port: u16) -> Option<&Listener> {
        let listeners = self.egress.as_deref().unwrap_or_default();
        let own = listeners.iter().find(|listener| listener.port == Some(port));
        own.or_else(|| listeners.iter().find(|listener| listener.port.is_none()))
    }

    /// Whether a service is seen on any port.
    /// `own`: the workload's namespace, here and below.
    pub(crate) fn imports(&self, service: &Registered, own: &str) -> bool {
        self.egress.is_none() || service.ports.iter().any(|port| self.imports_at(service, port.number, own))
    }

    /// Whether a service is seen on a port.
    pub(crate) fn imports_at(&self, service: &Registered, port: u16, own: &str) -> bool {
        self.egress.is_none()
            || self.listener(port).is_some_and(|listener| {
                listener.takes(&service.key.namespace, own, |host| host.covers(&service.pattern))
            })
    }

    /// Whether a VirtualService counts on a port: one of its hosts and one that is imported have something in common.
    pub(crate) fn imports_rules(&self, bound: &Bound, port: u16, own: &str) -> bool {
        self.egress.is_none()
            || self.listener(port).is_some_and(|listener| {
                let namespace = &bound.head.key.namespace;
                bound.hosts.iter().any(|named| listener.takes(namespace, own, |host| host.intersect(named).is_some()))
            })
    }

    /// Ports that the document itself declares to be HTTP.
    pub(crate) fn http_ports(&self) -> impl Iterator<Item = u16> {
        let listeners = self.egress.as_deref().unwrap_or_default();
        listeners.iter().filter(|listener| listener.is_http).filter_map(|listener| listener.port)
    }
}

impl Listener {
    fn new(written: &IstioEgressListener) -> Self {
        let IstioEgressListener { port, bind: _, capture_mode: _, hosts } = written;
        let number = port.as_ref().and_then(|port| u16::try_from(port.number).ok());
        let protocol = port.as_ref().map(|port| protocol_of(&port.protocol));
        Self {
            port: number,
            is_http: matches!(protocol, Some(Protocol::Http | Protocol::Http2)),
            // What is no host was refused by validation and takes nothing.
            imports: hosts.iter().filter_map(|text| Import::parse(text)).collect(),
        }
    }

    /// `own`: the workload's namespace.
    fn takes(&self, namespace: &str, own: &str, is_meant: impl Fn(&HostPattern) -> bool) -> bool {
        let takes = |import: &Import| import.namespace.takes(namespace, own) && is_meant(&import.host);
        let (excluded, imported): (Vec<&Import>, Vec<&Import>) =
            self.imports.iter().partition(|import| import.is_exclusion);
        imported.into_iter().any(takes) && !excluded.into_iter().any(takes)
    }
}

impl Import {
    fn parse(text: &str) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        let (namespace, is_exclusion) = match namespace.strip_prefix('~') {
            Some("") => (Namespace::Nobody, false),
            Some(excluded) => (Namespace::parse(excluded), true),
            None => (Namespace::parse(namespace), false),
        };
        Some(Self { namespace, host: host.parse().ok()?, is_exclusion })
    }
}

impl Namespace {
    fn parse(text: &str) -> Self {
        match text {
            "*" => Self::Any,
            "." => Self::Own,
            other => Self::Of(other.into()),
        }
    }

    fn takes(&self, namespace: &str, own: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Nobody => false,
            Self::Own => *own == *namespace,
            Self::Of(named) => **named == *namespace,
        }
    }
}

impl Ingress {
    fn new(written: &IstioIngressListener) -> Option<Self> {
        let IstioIngressListener { port, bind: _, capture_mode: _, default_endpoint, tls, connection_pool: _ } =
            written;
        let number = u16::try_from(port.number).ok().filter(|port| *port > 0)?;
        let protocol = protocol_of(&port.protocol);
        let endpoint = match default_endpoint.as_str() {
            "" => IngressEndpoint::Pod(number),
            text => match (text.strip_prefix("unix://"), text.parse::<std::net::SocketAddr>()) {
                (Some(path), _) => IngressEndpoint::Address(Address::Unix(path.into())),
                (None, Ok(address)) if address.ip().is_loopback() => IngressEndpoint::Address(Address::Socket(address)),
                (None, Ok(address)) => IngressEndpoint::Pod(address.port()),
                // `:PORT` is the pod's address as well.
                (None, Err(_)) => IngressEndpoint::Pod(text.rsplit_once(':')?.1.parse().ok()?),
            },
        };
        Some(Self { port: number, protocol, endpoint, wants_tls: tls.is_some() })
    }
}

/// The protocol of a listener's port; what is not known is detected.
fn protocol_of(text: &str) -> Protocol {
    match text.to_ascii_lowercase().as_str() {
        "http_proxy" => Protocol::Http,
        name => match protocol::of_name(name) {
            Some(Named::Carried(protocol)) => protocol,
            Some(Named::NotCarried) | None => Protocol::Auto,
        },
    }
}
