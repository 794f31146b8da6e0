//! Istio Gateways as the servers that a gateway proxy runs: ports translated, conflicts decided, oldest first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use palisade_crds::istio::{Gateway, Server, ServerTlsMode, ServiceEntry, WorkloadEntry};
use palisade_model::host::HostPattern;

use crate::{
    inputs::{Inputs, core::TargetPort},
    lower::client::Proxy,
    object::{self, Head, Object},
    resolve::{service_entries::port_of, workloads::entries},
};

/// One server on one port of a gateway proxy.
#[derive(Debug, Clone)]
pub(crate) struct Bound<'a> {
    /// The Gateway document.
    pub(crate) head: &'a Head,
    /// `NAMESPACE/NAME` of it.
    pub(crate) gateway: String,
    /// The server as written.
    pub(crate) server: &'a Server,
    /// Index in `servers`.
    pub(crate) index: usize,
    /// The port that the document declares.
    pub(crate) declared: u16,
    /// The pod's port.
    pub(crate) port: u16,
    /// Address to bind; `None` = all.
    pub(crate) address: Option<IpAddr>,
    /// Hosts with the namespace whose VirtualServices may bind them; `None` = any.
    pub(crate) hosts: Vec<(Option<Arc<str>>, HostPattern)>,
    /// How it is served.
    pub(crate) kind: ServerKind,
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// Plaintext HTTP.
    Http,
    /// HTTP inside terminated TLS.
    Https,
    /// Opaque bytes.
    Tcp,
    /// Opaque bytes inside terminated TLS.
    Tls,
    /// TLS relayed by VirtualServices' TLS rules.
    Passthrough,
    /// TLS relayed by the cluster that the server name spells.
    AutoPassthrough,
}

/// A server that does not count, and why.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    /// Index in `servers`.
    pub(crate) index: usize,
    /// Why.
    pub(crate) message: String,
}

impl ServerKind {
    fn of(server: &Server) -> Option<Self> {
        let protocol = server.port.protocol.to_ascii_uppercase();
        let mode = server.tls.as_ref().map(|tls| tls.mode);
        Some(match (protocol.as_str(), mode) {
            ("HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB", _) => Self::Http,
            (_, Some(ServerTlsMode::AutoPassthrough)) => Self::AutoPassthrough,
            (_, Some(ServerTlsMode::Passthrough)) => Self::Passthrough,
            ("HTTPS", Some(_)) => Self::Https,
            ("TLS" | "TCP" | "MONGO" | "MYSQL" | "REDIS", Some(_)) => Self::Tls,
            ("TCP" | "MONGO" | "MYSQL" | "REDIS", None) => Self::Tcp,
            _ => return None,
        })
    }

    /// Whether connections are told apart by server name.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls | Self::Passthrough | Self::AutoPassthrough)
    }
}

/// The Gateways that select a workload.
pub(crate) fn selecting<'a>(
    inputs: &'a Inputs,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> impl Iterator<Item = &'a Object<Gateway>> {
    let is_scoped = inputs.settings.gateways_in_own_namespace;
    inputs.gateways.values().filter(move |gateway| {
        (!is_scoped || *gateway.head.key.namespace == *namespace) && object::selects(&gateway.spec.selector, labels)
    })
}

/// The servers of all Gateways that select a proxy, in age order, without those that conflict with an older one, and the
/// conflicts by Gateway.
pub(crate) fn servers_of<'a>(
    inputs: &'a Inputs,
    proxy: &Proxy,
) -> (Vec<Bound<'a>>, BTreeMap<object::ObjectKey, Vec<Rejected>>) {
    let selected = selecting(inputs, &proxy.namespace, &proxy.labels);
    let mut merged: Vec<Bound<'a>> = Vec::new();
    let mut rejected: BTreeMap<object::ObjectKey, Vec<Rejected>> = BTreeMap::new();
    for gateway in object::by_age(selected) {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let mut reject = |message: String| {
                rejected.entry(gateway.head.key.clone()).or_default().push(Rejected { index, message });
            };
            let bound = match bind(inputs, proxy, gateway, index, server) {
                Ok(bound) => bound,
                Err(message) => {
                    reject(message);
                    continue;
                }
            };
            for server in bound {
                match conflict(&merged, &server) {
                    Some(message) => reject(message),
                    None => merged.push(server),
                }
            }
        }
    }
    (merged, rejected)
}

fn bind<'a>(
    inputs: &Inputs,
    proxy: &Proxy,
    gateway: &'a Object<Gateway>,
    index: usize,
    server: &'a Server,
) -> Result<Vec<Bound<'a>>, String> {
    let kind = ServerKind::of(server).ok_or_else(|| format!("protocol `{}` cannot be served", server.port.protocol))?;
    let declared = u16::try_from(server.port.number).ok().filter(|port| *port > 0).ok_or("the port is no TCP port")?;
    let address = match server.bind.as_str() {
        "" | "0.0.0.0" | "::" => None,
        text => Some(text.parse().map_err(|_| format!("`bind: {text}` is not served; only addresses are"))?),
    };
    let namespace = &gateway.head.key.namespace;
    let hosts = server.hosts.iter().filter_map(|host| server_host(host, namespace)).collect();
    let bound = Bound {
        head: &gateway.head,
        gateway: gateway.head.key.to_string(),
        server,
        index,
        declared,
        port: declared,
        address,
        hosts,
        kind,
    };
    let ports = target_ports(inputs, proxy, declared);
    Ok(ports.into_iter().map(|port| Bound { port, ..bound.clone() }).collect())
}

/// `host`, `namespace/host`, `./host` or `*/host`.
fn server_host(text: &str, own: &Arc<str>) -> Option<(Option<Arc<str>>, HostPattern)> {
    let (namespace, host) = match text.split_once('/') {
        None => (None, text),
        Some(("*", host)) => (None, host),
        Some((".", host)) => (Some(Arc::clone(own)), host),
        Some((namespace, host)) => (Some(Arc::from(namespace)), host),
    };
    host.parse().ok().map(|host| (namespace, host))
}

/// Label of a Service or ServiceEntry that is not to translate ports.
const NO_TRANSLATION: &str = "experimental.istio.io/disable-gateway-port-translation";

/// The ports of the pod behind a declared port: where a Service or a ServiceEntry of its namespace carries the pod, their target
/// ports; else the port itself.
pub(crate) fn target_ports(inputs: &Inputs, proxy: &Proxy, declared: u16) -> BTreeSet<u16> {
    let mut ports = targets_of_services(inputs, proxy, declared, "TCP");
    let entries = inputs
        .service_entries
        .values()
        .filter(|entry| entry.head.key.namespace == proxy.namespace && !entry.head.labels.contains_key(NO_TRANSLATION));
    ports.extend(entries.flat_map(|entry| ports_of_entry(&entry.spec, proxy, declared)));
    if ports.is_empty() {
        ports.insert(declared);
    }
    ports
}

/// As [`target_ports`], for datagrams.
pub(crate) fn datagram_ports(inputs: &Inputs, proxy: &Proxy, declared: u16) -> BTreeSet<u16> {
    let mut ports = targets_of_services(inputs, proxy, declared, "UDP");
    if ports.is_empty() {
        ports.insert(declared);
    }
    ports
}

/// The ports of the pod that Services of its namespace lead to from a declared port.
fn targets_of_services(inputs: &Inputs, proxy: &Proxy, declared: u16, transport: &str) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for service in inputs.services_in(&proxy.namespace) {
        let carries = !service.spec.selector.is_empty() && object::selects(&service.spec.selector, &proxy.labels);
        if !carries || service.head.labels.contains_key(NO_TRANSLATION) {
            continue;
        }
        for port in service.spec.ports.iter().filter(|port| port.port == declared && port.transport == transport) {
            match &port.target {
                TargetPort::Number(number) => {
                    ports.insert(*number);
                }
                TargetPort::Name(name) => {
                    crate::memo::note(|| crate::memo::Read::Pod);
                    let key = object::ObjectKey::new(Arc::clone(&proxy.namespace), Arc::clone(&proxy.name));
                    ports.extend(inputs.pods.get(&key).and_then(|pod| pod.spec.named_port(name)));
                }
            }
        }
    }
    ports
}

/// The ports at the pod's addresses that a ServiceEntry's endpoints lead to from a declared port.
fn ports_of_entry(entry: &ServiceEntry, proxy: &Proxy, declared: u16) -> Vec<u16> {
    let is_own = |endpoint: &&WorkloadEntry| {
        let address = endpoint.address.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        address.is_some_and(|address| proxy.addresses.contains(&address))
    };
    let own: Vec<&WorkloadEntry> = entry.endpoints.iter().flatten().filter(is_own).collect();
    let ports = entry.ports.iter().filter_map(port_of).filter(|port| port.number == declared);
    ports.flat_map(|port| own.iter().filter_map(move |endpoint| entries::port_at(endpoint, &port))).collect()
}

/// Why a server cannot stand beside those already there on its port (`mergeGateways`).
fn conflict(merged: &[Bound<'_>], server: &Bound<'_>) -> Option<String> {
    let beside: Vec<&Bound<'_>> =
        merged.iter().filter(|other| other.port == server.port && other.address == server.address).collect();
    if server.kind.is_tls() {
        let is_taken = |(namespace, host): &(Option<Arc<str>>, HostPattern)| {
            beside
                .iter()
                .filter(|other| other.kind.is_tls())
                .any(|other| other.hosts.iter().any(|(taken_by, taken)| taken == host && taken_by == namespace))
        };
        if let Some((_, host)) = server.hosts.iter().find(|host| is_taken(host)) {
            return Some(format!("another server on port {} has host `{host}` already", server.declared));
        }
    }
    let first = beside.first()?;
    let fits = match (first.kind, server.kind) {
        (ServerKind::Http, ServerKind::Http) => true,
        (ServerKind::Http | ServerKind::Tcp, _) | (_, ServerKind::Http | ServerKind::Tcp) => false,
        _ => true,
    };
    (!fits).then(|| {
        format!(
            "port {} is taken by server {} of Gateway {} with another protocol",
            server.declared, first.index, first.gateway
        )
    })
}
