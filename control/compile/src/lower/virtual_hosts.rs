//! Virtual hosts of sidecars: which VirtualService rules a service's requests meet, and hosts that only a VirtualService knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::{
    hash::HashError,
    host::HostPattern,
    origin::Origin,
    resource::{Resource, ResourceKind},
    route::{RouteAction, RouteEntry},
};

use crate::{
    lower::{
        assembly::Assembly,
        client::Client,
        gamma,
        http::{self, Lowered, Place},
        services,
    },
    resolve::{
        services::{Registered, RegisteredPort},
        virtual_services::{Bound, MESH},
    },
};

/// Adds the virtual hosts of one HTTP (or auto-detected) port of a service.
pub(crate) fn add_service(
    assembly: &mut Assembly<'_>,
    service: &Registered,
    port: &RegisteredPort,
) -> Result<(), HashError> {
    let rules = rules_for(assembly.client, service, port.number);
    let virtual_service = rules.as_ref().map(|(bound, _)| &**bound);
    let (entries, origins) = match gamma::service_routes(assembly, service, port, virtual_service)? {
        Some(from_routes) => from_routes,
        None => match rules {
            Some((bound, lowered)) => {
                let entries = add_rules(assembly, lowered, &bound)?;
                (entries, vec![bound.head.origin(), service.origin.clone()])
            }
            None => {
                let entry = services::default_route(assembly, service, port)?;
                (vec![entry], vec![service.origin.clone()])
            }
        },
    };
    let name = format!("{}:{}", service.host, port.number);
    let domains = services::domains(assembly.client, service);
    let table = services::table(port.number);
    services::add_virtual_host(assembly, &table, &name, domains, entries.clone(), origins.clone())?;
    if port.protocol == palisade_model::listener::Protocol::Auto {
        // The address has chosen the service; whatever the request calls it, it is this one.
        let table = services::own_table(&service.host, port.number);
        services::add_virtual_host(assembly, &table, &name, vec![HostPattern::Any], entries, origins)?;
    }
    Ok(())
}

/// The VirtualService whose rules a service's requests meet on a port: the first that has any rule for this client and port.
fn rules_for(client: Client<'_>, service: &Registered, port: u16) -> Option<(Arc<Bound>, Vec<Lowered>)> {
    let mesh = [MESH.to_owned()];
    let suffix = format!("@{port}");
    let place = Place { port, gateways: &mesh, is_tls: false, suffix: &suffix };
    let seen = client.resolved.virtual_services.seen_by(client.namespace(), MESH);
    seen.for_requests(&service.pattern, |bound| client.sees_rules(bound, port)).into_iter().find_map(|bound| {
        let lowered = http::rules(client, bound, place);
        (!lowered.is_empty()).then(|| (Arc::clone(bound), lowered))
    })
}

/// Adds rules with their destinations, and gives the entries of a virtual host that has them.
pub(crate) fn add_rules(
    assembly: &mut Assembly<'_>,
    lowered: Vec<Lowered>,
    bound: &Bound,
) -> Result<Vec<RouteEntry>, HashError> {
    let mut entries = Vec::new();
    let mut delegates: BTreeMap<u32, Vec<Origin>> = BTreeMap::new();
    for rule in &bound.http {
        if let Some(delegate) = &rule.delegate {
            delegates.entry(http::number(rule.index)).or_default().push(delegate.clone());
        }
    }
    for Lowered { mut rule, destinations, mirrors, alternatives, is_catch_all: _ } in lowered {
        entries.extend((0..alternatives).map(|alternative| RouteEntry { rule: Arc::clone(&rule.key), alternative }));
        if assembly.has(ResourceKind::Route, &rule.key) {
            continue;
        }
        let mut origins = vec![bound.head.origin()];
        origins.extend(delegates.get(&rule.rule).into_iter().flatten().cloned());
        if let RouteAction::Forward(forward) = &mut rule.action {
            let mut backends = forward.backends.to_vec();
            for (backend, destination) in backends.iter_mut().zip(&destinations) {
                if !assembly.add_destination(destination)? {
                    backend.missing = Some(503);
                }
            }
            forward.backends = backends.into();
            for destination in &mirrors {
                // Where it does not exist, nothing is sent.
                assembly.add_destination(destination)?;
            }
        }
        assembly.add(Resource::Route(rule), origins)?;
    }
    Ok(entries)
}

/// Adds hosts of VirtualServices that no service of a port has: they are served on port 80, and on the ports of the services
/// that the same document matches. Requests come to them wherever some service speaks HTTP at any address.
pub(crate) fn add_unregistered(assembly: &mut Assembly<'_>) -> Result<(), HashError> {
    let client = assembly.client;
    let seen = client.resolved.virtual_services.seen_by(client.namespace(), MESH);
    for bound in &seen.all {
        let mut ports: BTreeSet<u16> = matched(client, bound)
            .into_iter()
            .flat_map(|service| service.ports.iter().filter(|port| port.may_be_http()).map(|port| port.number))
            .collect();
        ports.insert(80);
        for port in ports {
            if !client.sees_rules(bound, port) {
                continue;
            }
            let hosts: Vec<HostPattern> =
                bound.hosts.iter().filter(|pattern| !is_registered(client, pattern, port)).cloned().collect();
            if hosts.is_empty() {
                continue;
            }
            let mesh = [MESH.to_owned()];
            let suffix = format!("@{port}");
            let lowered = http::rules(client, bound, Place { port, gateways: &mesh, is_tls: false, suffix: &suffix });
            if lowered.is_empty() {
                continue;
            }
            let entries = add_rules(assembly, lowered, bound)?;
            let table = services::table(port);
            for host in hosts {
                let name = format!("{host}:{port}");
                let origins: Vec<Origin> = vec![bound.head.origin()];
                services::add_virtual_host(assembly, &table, &name, vec![host], entries.clone(), origins)?;
            }
        }
    }
    Ok(())
}

/// Services that a VirtualService's hosts take.
fn matched<'a>(client: Client<'a>, bound: &Bound) -> Vec<&'a Registered> {
    let mut matched = Vec::new();
    for host in &bound.hosts {
        match host {
            HostPattern::Exact(name) => matched.extend(client.service(name)),
            wildcard => matched.extend(client.services().filter(|service| wildcard.matches(&service.host))),
        }
    }
    matched
}

/// Whether a host of a VirtualService is one that services of this port have; of a wildcard, whether it takes any.
fn is_registered(client: Client<'_>, pattern: &HostPattern, port: u16) -> bool {
    let has_port = |service: &Registered| service.port(port).is_some() && client.sees_at(service, port);
    match pattern {
        HostPattern::Exact(name) => client.service(name).is_some_and(has_port),
        HostPattern::Suffix(_) | HostPattern::Any => {
            client.services().filter(|service| has_port(service)).any(|service| pattern.matches(&service.host))
        }
    }
}
