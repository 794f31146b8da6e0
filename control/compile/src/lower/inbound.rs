//! A pod's inbound ports: which services' endpoints are at its addresses, what they carry, which connections are accepted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::{
    cluster::Discovery,
    endpoint::{Endpoint, EndpointHealth, Endpoints, PeerProxy},
    hash::HashError,
    listener::{InboundPort, MtlsMode, Protocol},
    resource::Resource,
};

use crate::{
    lower::{assembly::Assembly, client::Client, clusters, fixed},
    resolve::{
        peers::WorkloadPeers,
        services::Registered,
        sidecars::{Ingress, IngressEndpoint, Scope},
    },
};

/// Adds every inbound port with its cluster, and the one that stands for all others. `policies` is the key of the policy set.
pub(crate) fn add(assembly: &mut Assembly<'_>, policies: &Arc<str>) -> Result<(), HashError> {
    let client = assembly.client;
    let resolved = client.resolved;
    let peers = resolved.peers.of_workload(client.namespace(), client.labels());
    let mut declared: BTreeMap<u16, (Protocol, &Registered)> = BTreeMap::new();
    for ip in client.addresses() {
        for target in resolved.workloads.targets_at(*ip) {
            let Some(service) = resolved.services.get_in(&target.host, &target.namespace) else { continue };
            let Some(port) = service.port(target.port) else { continue };
            // Targets come oldest service first: it decides what the port carries.
            declared.entry(target.at).or_insert((port.protocol, service));
        }
    }
    if let Some((scope, ingress)) = client.scope().and_then(|scope| Some((scope, scope.ingress.as_ref()?))) {
        return add_ingress(assembly, policies, scope, ingress, &declared, &peers);
    }
    let ports: BTreeSet<u16> = declared.keys().chain(peers.ports.keys()).copied().collect();
    for port in ports {
        let mtls = peers.ports.get(&port).copied().unwrap_or(peers.mode);
        let mut origins = Vec::new();
        let (protocol, cluster, service) = match declared.get(&port) {
            Some((protocol, service)) => {
                origins.push(service.origin.clone());
                let mut cluster = fixed::inbound(port, *protocol);
                if let Some((pool, documents)) =
                    number_of(client, service, port).and_then(|number| clusters::inbound_pool(client, service, number))
                {
                    cluster = fixed::limited(cluster, pool);
                    origins.extend(documents);
                }
                assembly.add(Resource::Cluster(cluster), origins.clone())?;
                (*protocol, fixed::inbound_name(port), Some(Arc::clone(&service.host)))
            }
            // A port that only a policy names: its mode counts, and nothing declares it.
            None => (Protocol::Auto, fixed::INBOUND_PASSTHROUGH.into(), None),
        };
        origins.extend(peers.origins.iter().cloned());
        let inbound =
            InboundPort { port: Some(port), protocol, mtls, cluster, service, policies: Arc::clone(policies) };
        assembly.add(Resource::Inbound(inbound), origins)?;
    }
    add_others(assembly, policies, &peers)
}

/// The port of a service that leads to a port of this pod.
fn number_of(client: Client<'_>, service: &Registered, at: u16) -> Option<u16> {
    let targets = client.addresses().iter().flat_map(|ip| client.resolved.workloads.targets_at(*ip));
    targets
        .filter(|target| target.at == at && target.host == service.host && target.namespace == service.key.namespace)
        .map(|target| target.port)
        .next()
}

/// The port that stands for all that nothing declares.
fn add_others(assembly: &mut Assembly<'_>, policies: &Arc<str>, peers: &WorkloadPeers) -> Result<(), HashError> {
    let others = InboundPort {
        port: None,
        protocol: Protocol::Auto,
        mtls: peers.mode,
        cluster: fixed::INBOUND_PASSTHROUGH.into(),
        service: None,
        policies: Arc::clone(policies),
    };
    assembly.add(Resource::Inbound(others), peers.origins.iter().cloned())
}

/// Inbound ports as a Sidecar lists them: they replace those that services declare (istio-semantics 8).
fn add_ingress(
    assembly: &mut Assembly<'_>,
    policies: &Arc<str>,
    scope: &Scope,
    ingress: &[Ingress],
    declared: &BTreeMap<u16, (Protocol, &Registered)>,
    peers: &WorkloadPeers,
) -> Result<(), HashError> {
    let mut origins = vec![scope.origin.clone()];
    origins.extend(peers.origins.iter().cloned());
    for Ingress { port, protocol, endpoint, wants_tls } in ingress {
        let discovery = match endpoint {
            IngressEndpoint::Pod(at) => Discovery::Workload { port: Some(*at) },
            IngressEndpoint::Address(address) => {
                let key: Arc<str> = format!("inbound|{port}").into();
                let endpoint = Endpoint {
                    address: address.clone(),
                    weight: 1,
                    priority: 0,
                    health: EndpointHealth::Healthy,
                    labels: BTreeMap::new(),
                    locality: None,
                    peer: PeerProxy::None,
                    workload: None,
                };
                let endpoints =
                    Endpoints { key: Arc::clone(&key), endpoints: [endpoint].into(), identities: BTreeSet::new() };
                assembly.add(Resource::Endpoints(endpoints), [scope.origin.clone()])?;
                Discovery::Endpoints { key, subset: BTreeMap::new() }
            }
        };
        let cluster = fixed::inbound_at(*port, *protocol, discovery);
        assembly.add(Resource::Cluster(cluster), [scope.origin.clone()])?;
        let inbound = InboundPort {
            port: Some(*port),
            protocol: *protocol,
            mtls: match peers.ports.get(port).copied().unwrap_or(peers.mode) {
                _ if *wants_tls => MtlsMode::Strict,
                written => written,
            },
            cluster: fixed::inbound_name(*port),
            service: declared.get(port).map(|(_, service)| Arc::clone(&service.host)),
            policies: Arc::clone(policies),
        };
        assembly.add(Resource::Inbound(inbound), origins.iter().cloned())?;
    }
    for (port, mtls) in peers.ports.iter().filter(|(port, _)| !ingress.iter().any(|own| own.port == **port)) {
        let inbound = InboundPort {
            port: Some(*port),
            protocol: Protocol::Auto,
            mtls: *mtls,
            cluster: fixed::INBOUND_PASSTHROUGH.into(),
            service: None,
            policies: Arc::clone(policies),
        };
        assembly.add(Resource::Inbound(inbound), peers.origins.iter().cloned())?;
    }
    add_others(assembly, policies, peers)
}
