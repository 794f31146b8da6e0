//! Opaque bytes: TLS rules by SNI, TCP rules by address, and where everything else goes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use palisade_crds::istio::{L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute};
use palisade_model::{
    hash::HashError,
    host::HostPattern,
    listener::Protocol,
    resource::Resource,
    service::{L4Backend, L4Route},
};

use crate::{
    lower::{
        assembly::Assembly,
        client::Client,
        gamma,
        http::{self, Place},
        services,
    },
    object,
    resolve::{
        services::{Registered, RegisteredPort},
        virtual_services::{Bound, MESH},
    },
};

/// Adds the L4 routes of a service port and gives their keys. On TLS ports TLS rules count, elsewhere TCP rules; the service
/// itself takes what TCP rules leave, and TLS where there is no rule at all (`buildSidecarOutboundTCPListenerOpts`).
pub(crate) fn add_outbound(
    assembly: &mut Assembly<'_>,
    service: &Registered,
    port: &RegisteredPort,
) -> Result<Arc<[Arc<str>]>, HashError> {
    let client = assembly.client;
    let mesh = [MESH.to_owned()];
    let suffix = format!("@{}:{}", service.host, port.number);
    let place = Place { port: port.number, gateways: &mesh, is_tls: false, suffix: &suffix };
    let seen = client.resolved.virtual_services.seen_by(client.namespace(), MESH);
    let mut bound = seen.for_bytes(&service.pattern);
    bound.retain(|bound| client.sees_rules(bound, port.number));
    let routes = gamma::byte_routes(client, service, port);
    // The rules before the oldest route, and those after the routes.
    let first = routes.first();
    let (before, after): (Vec<_>, Vec<_>) =
        bound.into_iter().partition(|bound| first.is_none_or(|route| gamma::precedes(client, bound, route)));
    let mut keys = Vec::new();
    if port.protocol == Protocol::Tls {
        for bound in before {
            keys.extend(add_tls(assembly, bound, place)?.into_iter().map(|(key, _)| key));
        }
        for route in &routes {
            keys.push(gamma::add_bytes(assembly, route, &suffix)?);
        }
        for bound in after {
            keys.extend(add_tls(assembly, bound, place)?.into_iter().map(|(key, _)| key));
        }
        if keys.is_empty() {
            keys.extend(services::default_l4_routes(assembly, service, port)?);
        }
        return Ok(keys.into());
    }
    for bound in before {
        let (added, is_catch_all) = add_tcp(assembly, bound, place)?;
        keys.extend(added);
        if is_catch_all {
            return Ok(keys.into());
        }
    }
    if let Some(route) = first {
        keys.push(gamma::add_bytes(assembly, route, &suffix)?);
        return Ok(keys.into());
    }
    keys.extend(services::default_l4_routes(assembly, service, port)?);
    Ok(keys.into())
}

/// Key of an L4 route with the server names that it takes.
type SniRoute = (Arc<str>, Arc<[HostPattern]>);

/// Adds TLS rules whose alternatives apply here; gives their keys with the server names that they take.
pub(crate) fn add_tls(
    assembly: &mut Assembly<'_>,
    bound: &Bound,
    place: Place<'_>,
) -> Result<Vec<SniRoute>, HashError> {
    let mut keys = Vec::new();
    for (rule, TlsRoute { r#match, route }) in bound.tls.iter().enumerate() {
        for (alternative, attributes) in r#match.iter().enumerate() {
            let TlsMatchAttributes { sni_hosts, destination_subnets, port, source_labels, gateways, source_namespace } =
                attributes;
            let conditions = Conditions { port: *port, source_labels, gateways, source_namespace };
            if !conditions.apply(assembly.client, place) {
                continue;
            }
            // What is no host pattern was refused by validation and matches nothing.
            let sni: Arc<[HostPattern]> = sni_hosts.iter().filter_map(|host| host.parse().ok()).collect();
            // Without a server name the alternative would take every connection.
            if sni.is_empty() {
                continue;
            }
            let Some(destinations) = networks(assembly.client, destination_subnets) else { continue };
            let key: Arc<str> =
                format!("VirtualService/{}/tls/{rule}/{alternative}{}", bound.head.key, place.suffix).into();
            let backends = backends(assembly, route, place)?;
            let route = L4Route {
                key: Arc::clone(&key),
                source: bound.head.source(),
                rule: http::number(rule),
                alternative: http::number(alternative),
                sni: Arc::clone(&sni),
                destinations: destinations.into(),
                backends,
            };
            assembly.add(Resource::L4Route(route), [bound.head.origin()])?;
            keys.push((key, sni));
        }
    }
    Ok(keys)
}

/// Adds TCP rules that apply here, up to the first that takes everything; says whether there was one.
pub(crate) fn add_tcp(
    assembly: &mut Assembly<'_>,
    bound: &Bound,
    place: Place<'_>,
) -> Result<(Vec<Arc<str>>, bool), HashError> {
    let mut keys = Vec::new();
    for (rule, TcpRoute { r#match, route }) in bound.tcp.iter().enumerate() {
        let everything = L4MatchAttributes {
            destination_subnets: Vec::new(),
            port: None,
            source_subnet: String::new(),
            source_labels: BTreeMap::new(),
            gateways: Vec::new(),
            source_namespace: String::new(),
        };
        let alternatives = if r#match.is_empty() { std::slice::from_ref(&everything) } else { r#match.as_slice() };
        for (alternative, attributes) in alternatives.iter().enumerate() {
            let L4MatchAttributes {
                destination_subnets,
                port,
                source_subnet: _,
                source_labels,
                gateways,
                source_namespace,
            } = attributes;
            let conditions = Conditions { port: *port, source_labels, gateways, source_namespace };
            if !conditions.apply(assembly.client, place) {
                continue;
            }
            let Some(destinations) = networks(assembly.client, destination_subnets) else { continue };
            let is_catch_all = destinations.is_empty();
            let key: Arc<str> =
                format!("VirtualService/{}/tcp/{rule}/{alternative}{}", bound.head.key, place.suffix).into();
            let backends = backends(assembly, route, place)?;
            let route = L4Route {
                key: Arc::clone(&key),
                source: bound.head.source(),
                rule: http::number(rule),
                alternative: http::number(alternative),
                sni: [].into(),
                destinations: destinations.into(),
                backends,
            };
            assembly.add(Resource::L4Route(route), [bound.head.origin()])?;
            keys.push(key);
            if is_catch_all {
                return Ok((keys, true));
            }
        }
    }
    Ok((keys, false))
}

/// The static part of an L4 alternative. Unlike in HTTP, all of it counts (istio-semantics 4.2).
struct Conditions<'a> {
    port: Option<u32>,
    source_labels: &'a BTreeMap<String, String>,
    gateways: &'a [String],
    source_namespace: &'a str,
}

impl Conditions<'_> {
    fn apply(&self, client: Client<'_>, place: Place<'_>) -> bool {
        self.port.is_none_or(|port| port == 0 || port == u32::from(place.port))
            && (self.gateways.is_empty() || self.gateways.iter().any(|gateway| place.gateways.contains(gateway)))
            // At a gateway only port and gateways count (`l4SingleMatch`).
            && (!client.is_sidecar() || self.is_source(client))
    }

    fn is_source(&self, client: Client<'_>) -> bool {
        (self.source_labels.is_empty() || object::selects(self.source_labels, client.labels()))
            && (self.source_namespace.is_empty() || *self.source_namespace == *client.namespace())
    }
}

/// Destination networks; `None` when one of them is none: the alternative then takes nothing. At a gateway they do not count
/// (`l4SingleMatch`).
fn networks(client: Client<'_>, texts: &[String]) -> Option<Vec<IpNet>> {
    if !client.is_sidecar() {
        return Some(Vec::new());
    }
    texts
        .iter()
        .map(|text| {
            let network = text.parse::<IpNet>().map(|network| network.trunc());
            network.ok().or_else(|| text.parse::<IpAddr>().map(IpNet::from).ok())
        })
        .collect()
}

fn backends(
    assembly: &mut Assembly<'_>,
    route: &[RouteDestination],
    place: Place<'_>,
) -> Result<Arc<[L4Backend]>, HashError> {
    let is_single = route.len() == 1;
    let mut backends = Vec::new();
    for weighted in route {
        let weight = if is_single { 1 } else { u32::try_from(weighted.weight).unwrap_or(0) };
        if weight == 0 {
            continue;
        }
        let destination = http::destination(assembly.client, &weighted.destination, place);
        let is_present = assembly.add_destination(&destination)?;
        backends.push(L4Backend { cluster: destination.cluster_name(), is_missing: !is_present, weight });
    }
    Ok(backends.into())
}
