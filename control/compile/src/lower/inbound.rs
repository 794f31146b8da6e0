//! A pod's inbound ports: which services' endpoints are at its addresses, what they carry, which connections are accepted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::{
    hash::HashError,
    listener::{InboundPort, Protocol},
    resource::Resource,
};

use crate::lower::{assembly::Assembly, fixed};

/// Adds every inbound port with its cluster, and the one that stands for all others. `policies` is the key of the policy set.
pub(crate) fn add(assembly: &mut Assembly<'_>, policies: &Arc<str>) -> Result<(), HashError> {
    let client = assembly.client;
    let resolved = client.resolved;
    let peers = resolved.peers.of_workload(client.namespace(), &client.proxy.labels);
    let mut declared: BTreeMap<u16, (Protocol, Arc<str>)> = BTreeMap::new();
    for ip in &client.proxy.addresses {
        for target in resolved.workloads.targets_at(*ip) {
            let Some(service) = resolved.services.get(&target.host) else { continue };
            let Some(port) = service.port(target.port) else { continue };
            // Targets come oldest service first: it decides what the port carries.
            declared.entry(target.at).or_insert_with(|| (port.protocol, Arc::clone(&service.host)));
        }
    }
    let ports: BTreeSet<u16> = declared.keys().chain(peers.ports.keys()).copied().collect();
    for port in ports {
        let mtls = peers.ports.get(&port).copied().unwrap_or(peers.mode);
        let mut origins = Vec::new();
        let (protocol, cluster, service) = match declared.get(&port) {
            Some((protocol, host)) => {
                origins.extend(resolved.services.get(host).map(|service| service.origin.clone()));
                assembly.add(Resource::Cluster(fixed::inbound(port, *protocol)), origins.clone())?;
                (*protocol, fixed::inbound_name(port), Some(Arc::clone(host)))
            }
            // A port that only a policy names: its mode counts, and nothing declares it.
            None => (Protocol::Auto, fixed::INBOUND_PASSTHROUGH.into(), None),
        };
        origins.extend(peers.origins.iter().cloned());
        let inbound =
            InboundPort { port: Some(port), protocol, mtls, cluster, service, policies: Arc::clone(policies) };
        assembly.add(Resource::Inbound(inbound), origins)?;
    }
    let others = InboundPort {
        port: None,
        protocol: Protocol::Auto,
        mtls: peers.mode,
        cluster: fixed::INBOUND_PASSTHROUGH.into(),
        service: None,
        policies: Arc::clone(policies),
    };
    assembly.add(Resource::Inbound(others), peers.origins)
}
