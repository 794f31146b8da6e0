//! Outbound clusters: a service port, narrowed by a subset, with the policy that the client's DestinationRule gives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use palisade_crds::gateway_api::HttpBackendRef;
use palisade_model::{
    cluster::{Cluster, Discovery, LoadBalancer, MeshTls, Originate, TrafficPolicy, UpstreamProtocol, UpstreamTls},
    endpoint::PeerProxy,
    listener::{Protocol, TlsAlgorithms, TlsLimits, TlsVersion},
    origin::Origin,
};

use crate::{
    inputs::core::TargetPort,
    lower::{
        client::Client,
        traffic::{self, Written},
    },
    resolve::{
        destination_rules::{
            self, Balancing, Blocks, ClientTls, ClientTlsMode, ConnectionPool, DestinationPolicy, Http2Upgrade,
        },
        gateway_api::{BackendCertificate, BackendTls, Route, RouteKind},
        locality,
        services::{Registered, RegisteredPort, Resolution},
        workloads,
    },
};

/// TCP connect timeout where no rule sets one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time after which a pooled connection is closed where no rule sets one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A place that a route may lead to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Destination {
    /// Host in full.
    pub(crate) host: Arc<str>,
    /// Service port.
    pub(crate) port: u16,
    /// Subset; empty = all endpoints.
    pub(crate) subset: Arc<str>,
}

impl Destination {
    /// The cluster's name, as Istio users know it.
    pub(crate) fn cluster_name(&self) -> Arc<str> {
        format!("outbound|{}|{}|{}", self.port, self.subset, self.host).into()
    }

    /// The server name by which mesh peers and AUTO_PASSTHROUGH gateways know it.
    fn sni(&self) -> Arc<str> {
        format!("outbound_.{}_.{}_.{}", self.port, self.subset, self.host).into()
    }
}

/// The cluster of a destination as this client sees it, and the objects that it was made from; `None` when there is no such
/// service, port or subset.
pub(crate) fn outbound(client: Client<'_>, destination: &Destination) -> Option<(Cluster, Vec<Origin>)> {
    let service = client.destination_service(&destination.host)?;
    let port = service.port(destination.port)?;
    let policy = policy_for(client, service);
    let mut origins = vec![service.origin.clone()];
    let (subset_labels, subset_policy) = if destination.subset.is_empty() {
        (BTreeMap::new(), None)
    } else {
        let subset = policy?.subsets.get(&destination.subset)?;
        (subset.labels.clone(), subset.policy.as_ref())
    };
    if let Some(policy) = policy {
        origins.extend(policy.origins.iter().cloned());
    }
    if let Some(asked) = backend_tls(client, service, port) {
        origins.push(asked.origin.clone());
        let presents = client.served_gateways().filter(|own| own.backend_certificate != BackendCertificate::None);
        origins.extend(presents.map(|gateway| gateway.head.origin()));
    }
    let destination_policy = policy.and_then(|policy| policy.policy.as_ref());
    let blocks = destination_rules::TrafficPolicy::merge(destination_policy, subset_policy, port.number);
    let is_for_workload = policy.is_some_and(|policy| policy.workload_selector.is_some());
    Some((cluster(client, service, port, destination, subset_labels, blocks, is_for_workload), origins))
}

/// The name of the cluster of a service's UDP port.
pub(crate) fn datagram_cluster_name(host: &str, port: u16) -> Arc<str> {
    format!("outbound|{port}/udp||{host}").into()
}

/// The cluster of a service's UDP port, and the objects that it was made from. DestinationRules speak about connections only.
pub(crate) fn datagrams(
    client: Client<'_>,
    service: &Registered,
    port: u16,
    endpoints: &Arc<str>,
) -> Option<(Cluster, Vec<Origin>)> {
    let port = service.datagram_port(port)?;
    let asked = backend_tls(client, service, port);
    let origins = std::iter::once(service.origin.clone()).chain(asked.map(|asked| asked.origin.clone())).collect();
    let cluster = Cluster {
        name: datagram_cluster_name(&service.host, port.number),
        discovery: Discovery::Endpoints { key: Arc::clone(endpoints), subset: BTreeMap::new() },
        protocol: UpstreamProtocol::Tcp,
        // Nothing weaker than a BackendTLSPolicy asks for.
        tls: match asked {
            Some(_) => {
                UpstreamTls::Refuse { message: "a BackendTLSPolicy asks for TLS, which datagrams have none of".into() }
            }
            None => UpstreamTls::Off,
        },
        load_balancer: LoadBalancer::LeastRequest { choices: 2 },
        connect_timeout: CONNECT_TIMEOUT,
        max_requests_per_connection: 0,
        tcp_keepalive: None,
        idle_timeout: None,
        traffic: TrafficPolicy::default(),
        is_external: service.is_external,
    };
    Some((cluster, origins))
}

/// The connection pool that a DestinationRule gives a service's own pods for what comes in (istio-semantics 5).
pub(crate) fn inbound_pool(
    client: Client<'_>,
    service: &Registered,
    port: u16,
) -> Option<(ConnectionPool, Vec<Origin>)> {
    let policy = policy_for(client, service)?;
    let blocks = destination_rules::TrafficPolicy::merge(policy.policy.as_ref(), None, port);
    Some((blocks.pool?, policy.origins.clone()))
}

/// The DestinationRule that a client gets for a service.
pub(crate) fn policy_for<'a>(client: Client<'a>, service: &Registered) -> Option<&'a DestinationPolicy> {
    let namespace = Some(&*service.key.namespace);
    let destinations = &client.resolved.destinations;
    // Without rules for workloads all of a namespace are told the same.
    let none = const { &BTreeMap::new() };
    let labels = if destinations.selects_workloads(client.namespace()) { client.labels() } else { none };
    destinations.find(client.namespace(), labels, &service.pattern, namespace)
}

/// What a BackendTLSPolicy asks of gateways.
fn backend_tls<'a>(client: Client<'a>, service: &Registered, port: &RegisteredPort) -> Option<&'a BackendTls> {
    if client.is_sidecar() {
        return None;
    }
    client.resolved.gateway_api.backend_tls(&service.key, &port.name)
}

fn cluster(
    client: Client<'_>,
    service: &Registered,
    port: &RegisteredPort,
    destination: &Destination,
    subset: BTreeMap<Arc<str>, Arc<str>>,
    blocks: Blocks,
    is_for_workload: bool,
) -> Cluster {
    let defaults = &client.resolved.settings.destinations;
    let Blocks { load_balancer, pool, outlier, tls, proxy_protocol, retry_budget } = blocks;
    let pool = pool.or_else(|| defaults.pool.clone()).unwrap_or_default();
    let outlier = outlier.or_else(|| defaults.outlier.clone());
    let (algorithm, warmup, locality) = match load_balancer {
        Some(Balancing { algorithm, warmup, locality }) => (Some(algorithm), warmup, locality),
        None => (None, None, None),
    };
    let written = Written { pool: &pool, outlier, warmup, locality: locality.as_ref(), proxy_protocol, retry_budget };
    let traffic = traffic::of(client, service, written);
    let ConnectionPool {
        limits: _,
        connection: _,
        connect_timeout,
        keepalive,
        max_requests_per_connection,
        idle_timeout,
        uses_client_protocol,
        http2,
    } = pool;
    let upgrades_to_http2 = match http2 {
        Http2Upgrade::Yes => true,
        Http2Upgrade::No => false,
        Http2Upgrade::Mesh => defaults.upgrades_to_http2,
    };
    let protocol = match port.protocol {
        Protocol::Tcp | Protocol::Tls => UpstreamProtocol::Tcp,
        Protocol::Http2 => UpstreamProtocol::Http2,
        Protocol::Http if upgrades_to_http2 => UpstreamProtocol::Http2,
        Protocol::Http if uses_client_protocol => UpstreamProtocol::Client,
        Protocol::Http => UpstreamProtocol::Http1,
        Protocol::Auto if !uses_client_protocol && is_plain_backend(client, service, port) => UpstreamProtocol::Http1,
        Protocol::Auto => UpstreamProtocol::Client,
    };
    let load_balancer = match algorithm {
        // Nobody dials a destination through a gateway: there is nothing to pass through.
        Some(LoadBalancer::Passthrough) if !client.is_sidecar() => LoadBalancer::LeastRequest { choices: 2 },
        // A headless service's client has chosen the pod by its address; a gateway has not.
        _ if service.is_headless && client.is_sidecar() => LoadBalancer::Passthrough,
        Some(chosen) => chosen,
        None => LoadBalancer::LeastRequest { choices: 2 },
    };
    // A BackendTLSPolicy speaks about gateways, and about nothing weaker than itself.
    let tls = match (backend_tls(client, service, port), tls) {
        (Some(asked), _) => presenting(client, asked.tls.clone()),
        (None, Some(tls)) => written_tls(client, service, destination, &tls, is_for_workload),
        (None, None) => auto_tls(client, service, port, destination),
    };
    let tls = within(tls, &client.resolved.settings.tls_defaults);
    Cluster {
        name: destination.cluster_name(),
        discovery: discovery(client, service, port, subset),
        protocol,
        tls,
        load_balancer,
        connect_timeout: connect_timeout.or(client.resolved.settings.connect_timeout).unwrap_or(CONNECT_TIMEOUT),
        max_requests_per_connection,
        tcp_keepalive: keepalive.or(defaults.keepalive),
        idle_timeout: idle_timeout.map_or(Some(IDLE_TIMEOUT), |written| (!written.is_zero()).then_some(written)),
        traffic,
        is_external: service.is_external,
    }
}

/// Whether a port that nothing declares is a backend of the Gateway API: HTTP/1.1 is spoken there, whatever the client speaks (GEP-1911),
/// unless a GRPCRoute leads to it.
fn is_plain_backend(client: Client<'_>, service: &Registered, port: &RegisteredPort) -> bool {
    let mut gateways = client.served_gateways().peekable();
    if gateways.peek().is_none() {
        return false;
    }
    let is_meant = |route: &Route, backend: &HttpBackendRef| {
        let namespace = backend.namespace.as_deref().unwrap_or(&route.head.key.namespace);
        *backend.name == *service.key.name && *namespace == *service.key.namespace && backend.port == Some(port.number)
    };
    let routes = gateways.flat_map(|gateway| &gateway.listeners).flat_map(|listener| &listener.routes);
    let mut calls = routes.map(|attached| &attached.route).filter(|route| route.kind == RouteKind::Grpc);
    !calls.any(|route| route.rules.iter().flat_map(|rule| &rule.backend_refs).any(|backend| is_meant(route, backend)))
}

/// TLS towards a backend, with the certificate that the proxy's Gateway shows to backends.
fn presenting(client: Client<'_>, tls: UpstreamTls) -> UpstreamTls {
    let UpstreamTls::Originate(originate) = tls else { return tls };
    let mut shown = client.served_gateways().map(|gateway| &gateway.backend_certificate);
    let Some(first) = shown.next() else { return UpstreamTls::Originate(originate) };
    if shown.any(|other| other != first) {
        let message = "`spec.tls.backend`: the Gateways that this proxy serves ask for different client certificates";
        return UpstreamTls::Refuse { message: message.into() };
    }
    match first {
        BackendCertificate::None => UpstreamTls::Originate(originate),
        BackendCertificate::Secret(key) => {
            UpstreamTls::Originate(Originate { client_certificate: Some(Arc::clone(key)), ..originate })
        }
        // Without the certificate that its document asks for the proxy would be somebody else to the backend.
        BackendCertificate::Unusable(condition) => {
            UpstreamTls::Refuse { message: format!("`spec.tls.backend` of the Gateway: {}", condition.message).into() }
        }
    }
}

/// TLS towards servers outside the mesh within the mesh's bounds: no document has its own.
fn within(tls: UpstreamTls, limits: &TlsLimits) -> UpstreamTls {
    match tls {
        UpstreamTls::Originate(originate) => UpstreamTls::Originate(Originate {
            min_version: originate.min_version.max(limits.min_version),
            algorithms: limits.algorithms.clone(),
            ..originate
        }),
        other => other,
    }
}

/// Auto-mTLS: mesh TLS to endpoints with a sidecar unless the service's namespace or the mesh disables it; what a workload's own
/// policy disables its endpoints say. Of a headless service all endpoints must take it.
fn auto_tls(client: Client<'_>, service: &Registered, port: &RegisteredPort, destination: &Destination) -> UpstreamTls {
    let resolved = client.resolved;
    let is_off = !resolved.settings.enable_auto_mtls || service.is_external;
    if is_off || resolved.peers.is_disabled_for_clients(&service.key.namespace) {
        return UpstreamTls::Off;
    }
    let mesh = MeshTls { sni: destination.sni(), subject_alt_names: mesh_names(client, service, port.number) };
    let listed = resolved.workloads.endpoints(service, port.number);
    let listed = listed.map(|endpoints| &*endpoints.endpoints).unwrap_or_default();
    let is_partly_plain = || listed.iter().any(|endpoint| endpoint.peer == PeerProxy::None);
    match service.resolution {
        // The client's address need not be one of the list: TLS is for all of them or for none.
        Resolution::OriginalDestination if client.is_sidecar() => {
            if listed.is_empty() || is_partly_plain() {
                UpstreamTls::Off
            } else {
                UpstreamTls::Mesh(mesh)
            }
        }
        _ if service.is_headless && is_partly_plain() => UpstreamTls::Off,
        _ => UpstreamTls::Auto(mesh),
    }
}

/// Where the endpoints of a service port come from, as a client sees them.
fn discovery(
    client: Client<'_>,
    service: &Registered,
    port: &RegisteredPort,
    mut subset: BTreeMap<Arc<str>, Arc<str>>,
) -> Discovery {
    // Where no node is known, everything is on the same one.
    if service.is_node_local && !client.node().is_empty() {
        subset.insert(locality::HOSTNAME.into(), client.node().into());
    }
    match (service.resolution, &port.target) {
        // Nobody dials a destination through a gateway: it takes the endpoints that are listed.
        (Resolution::OriginalDestination, TargetPort::Number(at)) if client.is_sidecar() && port.is_target_written => {
            Discovery::OriginalAddress { port: *at }
        }
        (Resolution::OriginalDestination, _) if client.is_sidecar() => Discovery::OriginalDestination,
        (Resolution::DynamicDns, TargetPort::Number(port)) => Discovery::DynamicName { port: *port },
        _ => Discovery::Endpoints { key: workloads::endpoints_key(&service.host, port.number), subset },
    }
}

/// Names that a ServiceEntry adds to those of its endpoints' workloads; empty where it has none of its own. Workloads whose name no
/// certificate can prove are there by that name: an empty list would ask for none.
fn mesh_names(client: Client<'_>, service: &Registered, port: u16) -> Arc<[Arc<str>]> {
    let unprovable = client.resolved.workloads.unprovable(service, port);
    if service.subject_alt_names.is_empty() && unprovable.is_none() {
        return [].into();
    }
    let endpoints = client.resolved.workloads.endpoints(service, port);
    let known = endpoints.into_iter().flat_map(|endpoints| &endpoints.identities).map(ToString::to_string);
    let written = service.subject_alt_names.iter().chain(unprovable.into_iter().flatten()).cloned();
    let all: BTreeSet<String> = written.chain(known).collect();
    all.into_iter().map(Arc::from).collect()
}

/// TLS as a DestinationRule writes it.
fn written_tls(
    client: Client<'_>,
    service: &Registered,
    destination: &Destination,
    tls: &ClientTls,
    is_for_workload: bool,
) -> UpstreamTls {
    let ClientTls {
        mode,
        sni,
        subject_alt_names,
        ca_certificates,
        client_certificate,
        credential_name,
        skip_verify,
        refused,
    } = tls;
    let names = if subject_alt_names.is_empty() { &service.subject_alt_names } else { subject_alt_names };
    let names: Arc<[Arc<str>]> = names.iter().map(|name| Arc::from(name.as_str())).collect();
    if *mode == ClientTlsMode::Disable {
        return UpstreamTls::Off;
    }
    if let Some(message) = refused {
        return UpstreamTls::Refuse { message: message.as_str().into() };
    }
    if *mode == ClientTlsMode::IstioMutual {
        let sni = if sni.is_empty() { destination.sni() } else { sni.as_str().into() };
        let subject_alt_names =
            if subject_alt_names.is_empty() { mesh_names(client, service, destination.port) } else { names };
        return UpstreamTls::Mesh(MeshTls { sni, subject_alt_names });
    }
    let file = |path: &str| Arc::from(format!("file/{path}"));
    let (ca, client_certificate) = if credential_name.is_empty() {
        let ca = (!ca_certificates.is_empty()).then(|| file(ca_certificates));
        let certificate =
            client_certificate.as_ref().map(|(certificate, key)| Arc::from(format!("file/{certificate}|{key}")));
        (ca, certificate)
    } else if client.is_sidecar() && !is_for_workload {
        // Istio drops the TLS settings here and sends plaintext; the document asks for TLS.
        let message = "`credentialName` at a sidecar needs a DestinationRule with a workloadSelector";
        return UpstreamTls::Refuse { message: message.into() };
    } else {
        let (key, ca) = client.resolved.secrets.keys_for(client.namespace(), credential_name);
        (Some(ca), Some(key))
    };
    if *mode == ClientTlsMode::Mutual && client_certificate.is_none() {
        return UpstreamTls::Refuse { message: "MUTUAL without a client certificate".into() };
    }
    UpstreamTls::Originate(Originate {
        sni: (!sni.is_empty()).then(|| sni.as_str().into()),
        subject_alt_names: names,
        ca,
        client_certificate: if *mode == ClientTlsMode::Mutual { client_certificate } else { None },
        skip_verify: *skip_verify,
        min_version: TlsVersion::V1_2,
        algorithms: TlsAlgorithms::default(),
    })
}
