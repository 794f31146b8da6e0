//! Lowering: from resolved documents to the resources of one proxy. One file per concern.

mod access;
pub(crate) mod assembly;
mod authorization;
mod claims;
pub(crate) mod client;
pub(crate) mod clusters;
pub(crate) mod cors;
mod fault;
mod fixed;
pub(crate) mod gamma;
mod gateway_api;
mod gateways;
mod headers;
pub(crate) mod http;
pub(crate) mod http_routes;
mod inbound;
mod l4;
mod mirrors;
pub(crate) mod ports;
mod proxy_settings;
mod regexes;
mod retries;
mod services;
pub(crate) mod shared;
pub(crate) mod traffic;
mod virtual_hosts;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use palisade_model::{
    hash::HashError,
    membership,
    resource::{Entries, Resource},
    service::{Lookup, Query},
    settings::ProxyKind,
};

use crate::{
    lower::{
        assembly::Assembly,
        client::{Client, Proxy},
    },
    memo::{PartValue, What},
    resolve::{Resolved, services::Registered, workloads::host_key},
};

/// Everything that one proxy needs: a sidecar its own namespace's services and what it asked about, a gateway what its routes
/// refer to (architecture rule 6).
pub(crate) fn lower(resolved: &Resolved, proxy: &Proxy, queries: &BTreeSet<Query>) -> Result<Entries, HashError> {
    let client = Client::new(resolved, proxy);
    let mut assembly = Assembly::new(client);
    let policies = authorization::add(&mut assembly)?;
    access::add(&mut assembly, &policies)?;
    let egress = authorization::add_egress(&mut assembly)?;
    let mut http_ports = BTreeSet::new();
    let mut tls_ports = BTreeSet::new();
    match proxy.kind {
        ProxyKind::Sidecar => {
            for cluster in fixed::of_sidecar() {
                assembly.add(Resource::Cluster(cluster), None)?;
            }
            inbound::add(&mut assembly, &policies)?;
            let ports = assembly.ports()?;
            assembly.add_entry(resolved.membership().clone()?);
            virtual_hosts::add_unregistered(&mut assembly)?;
            http_ports = ports.http;
            tls_ports = ports.tls;
            assembly.any_address = ports.any_address;
            add_services(&mut assembly, queries)?;
        }
        ProxyKind::Gateway => {
            gateways::add(&mut assembly, &policies)?;
            gateway_api::add(&mut assembly, &policies)?;
        }
    }
    assembly.add(Resource::Settings(proxy_settings::of(client, http_ports, tls_ports, egress)), None)?;
    Ok(assembly.into_entries())
}

/// Services of the own namespace, and those that queries name. What is not known is answered as such.
fn add_services(assembly: &mut Assembly<'_>, queries: &BTreeSet<Query>) -> Result<(), HashError> {
    let client = assembly.client;
    let resolved = client.resolved;
    let mut hosts: BTreeSet<Arc<str>> = resolved
        .services
        .in_namespace(client.namespace())
        .filter(|service| client.sees(service))
        .map(|service| Arc::clone(&service.host))
        .collect();
    // Nothing names them before bytes arrive at an address that nobody has.
    hosts.extend(assembly.any_address.values().cloned());
    for query in queries {
        let found: Vec<Arc<str>> = match query {
            Query::Host(host) => by_name(client, host).map(|service| Arc::clone(&service.host)).into_iter().collect(),
            Query::Address(ip) => by_address(client, *ip),
        };
        hosts.extend(found.iter().cloned());
        let lookup = Lookup { query: query.clone(), services: found.into_iter().collect() };
        assembly.add(Resource::Lookup(lookup), None)?;
    }
    for host in hosts {
        if let Some(service) = client.service(&host) {
            assembly.part(What::Service(service.registry, host_key(service)), None, |assembly| {
                services::add(assembly, service).map(|()| PartValue::Added)
            })?;
        }
    }
    Ok(())
}

/// The service that a client means by a name: in full, or short as its resolver would complete it; also the name of a pod of
/// a headless service.
fn by_name<'a>(client: Client<'a>, name: &str) -> Option<&'a Registered> {
    let services = &client.resolved.services;
    let domain = &client.resolved.settings.cluster_domain;
    let namespace = client.namespace();
    let candidates = membership::spellings(name, namespace, domain);
    for candidate in &candidates {
        let target = services.alias_target(candidate).unwrap_or_else(|| Arc::from(candidate.as_str()));
        if let Some(service) = client.service(&target) {
            return Some(service);
        }
    }
    if let Some(service) = candidates.first().and_then(|name| client.wildcard_service(name)) {
        return Some(service);
    }
    // `POD.SERVICE.NAMESPACE.svc.DOMAIN`, and anything else below a headless service.
    candidates.iter().find_map(|candidate| {
        let (_, rest) = candidate.split_once('.')?;
        client.service(rest).filter(|service| service.is_headless)
    })
}

/// Services at an address, the one that counts first: by their virtual addresses, by the narrowest of their networks, and
/// headless ones by their endpoints.
fn by_address(client: Client<'_>, ip: IpAddr) -> Vec<Arc<str>> {
    let resolved = client.resolved;
    let by_endpoint = resolved
        .workloads
        .targets_at(ip)
        .iter()
        .filter_map(|target| resolved.services.get_in(&target.host, &target.namespace))
        .filter(|service| service.is_headless);
    resolved
        .services
        .at_address(ip)
        .chain(by_endpoint)
        .filter(|service| client.sees(service))
        .map(|service| Arc::clone(&service.host))
        .fold(Vec::new(), |mut hosts, host| {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
            hosts
        })
}
