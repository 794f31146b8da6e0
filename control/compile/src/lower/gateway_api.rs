//! Gateway API Gateways as listeners, chains and route tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::{
    hash::HashError,
    host::HostPattern,
    listener::{Chain, ChainHandler, ClientValidation, Listener, ServerTls, ServerTlsMode, TlsVersion},
    origin::Origin,
    resource::{Resource, ResourceKind},
    route::VirtualHost,
    service::{L4Backend, L4Route},
};

use crate::{
    lower::{assembly::Assembly, http::number, http_routes},
    object::ObjectKey,
    resolve::{
        gateway_api::{Attached, ListenerProtocol, ResolvedGateway, ResolvedListener, Route, RouteKind},
        gateways,
    },
};

/// Adds the listeners of the Gateways that the proxy serves: one for each port, whichever of them have it.
pub(crate) fn add(assembly: &mut Assembly<'_>, policies: &Arc<str>) -> Result<(), HashError> {
    let client = assembly.client;
    let resolved = client.resolved;
    let mut by_port: BTreeMap<u16, Vec<(&ResolvedGateway, &ResolvedListener)>> = BTreeMap::new();
    for gateway in client.served_gateways() {
        for listener in gateway.listeners.iter().filter(|listener| listener.is_accepted) {
            if listener.protocol == ListenerProtocol::Udp {
                add_datagrams(assembly, gateway, listener, policies)?;
                continue;
            }
            by_port.entry(listener.port).or_default().push((gateway, listener));
        }
    }
    for (declared_port, listeners) in by_port {
        let chains: Arc<[Chain]> = chains(assembly, &listeners)?.into();
        let origins: BTreeSet<Origin> = listeners.iter().map(|(gateway, _)| gateway.head.origin()).collect();
        for port in gateways::target_ports(&resolved.inputs, client.proxy(), declared_port) {
            let key: Arc<str> = format!("0.0.0.0:{port}").into();
            if assembly.has(ResourceKind::Listener, &key) {
                continue;
            }
            let listener = Listener {
                key,
                address: None,
                port,
                declared_port,
                chains: Arc::clone(&chains),
                policies: Arc::clone(policies),
                detects_misdirected: chains.iter().filter(|chain| is_https(chain)).count() > 1,
                is_udp: false,
            };
            assembly.add(Resource::Listener(listener), origins.iter().cloned())?;
        }
    }
    Ok(())
}

/// Adds a listener for datagrams. The oldest route has them all, whoever sends them.
fn add_datagrams(
    assembly: &mut Assembly<'_>,
    gateway: &ResolvedGateway,
    listener: &ResolvedListener,
    policies: &Arc<str>,
) -> Result<(), HashError> {
    let client = assembly.client;
    let routes: Arc<[Arc<str>]> = match listener.routes.first() {
        Some(Attached { route, hosts: _ }) => [add_l4(assembly, &listener.name, route, &[])?].into(),
        None => [].into(),
    };
    let name = Arc::clone(&listener.name);
    let chain = Chain { name, sni: [].into(), tls: None, handler: ChainHandler::Tcp { routes } };
    for port in gateways::datagram_ports(&client.resolved.inputs, client.proxy(), listener.port) {
        let key: Arc<str> = format!("0.0.0.0:{port}/udp").into();
        if assembly.has(ResourceKind::Listener, &key) {
            continue;
        }
        let listener = Listener {
            key,
            address: None,
            port,
            declared_port: listener.port,
            chains: [chain.clone()].into(),
            policies: Arc::clone(policies),
            detects_misdirected: false,
            is_udp: true,
        };
        assembly.add(Resource::Listener(listener), [gateway.head.origin()])?;
    }
    Ok(())
}

/// Whether a chain ends TLS and serves HTTP, or would.
const fn is_https(chain: &Chain) -> bool {
    match &chain.handler {
        ChainHandler::Http { tables: _ } => chain.tls.is_some(),
        ChainHandler::Refuse { message: _ } => true,
        ChainHandler::Tcp { routes: _ } | ChainHandler::AutoPassthrough => false,
    }
}

/// The route table of a listener.
fn table(gateway: &ObjectKey, listener: &str) -> Arc<str> {
    format!("gateway:{gateway}:{listener}").into()
}

fn chains(
    assembly: &mut Assembly<'_>,
    listeners: &[(&ResolvedGateway, &ResolvedListener)],
) -> Result<Vec<Chain>, HashError> {
    let mut plain: BTreeMap<HostPattern, Arc<str>> = BTreeMap::new();
    let mut by_sni: BTreeMap<HostPattern, Chain> = BTreeMap::new();
    let mut name: Arc<str> = "".into();
    for (gateway, listener) in listeners {
        let table = table(&gateway.head.key, &listener.name);
        let handler = match listener.protocol {
            ListenerProtocol::Http => {
                add_table(assembly, gateway, listener, &table)?;
                plain.insert(listener.hostname.clone(), table);
                name = Arc::clone(&listener.name);
                continue;
            }
            ListenerProtocol::Https | ListenerProtocol::TlsTerminate
                if listener.certificates.is_empty() && !listener.is_mesh =>
            {
                Err("there is no certificate that may be used")
            }
            ListenerProtocol::Https => {
                add_table(assembly, gateway, listener, &table)?;
                Ok(ChainHandler::Http { tables: [(listener.hostname.clone(), table)].into() })
            }
            ListenerProtocol::TlsTerminate => {
                let mut routes = Vec::new();
                for attached in &listener.routes {
                    let hosts = if attached.route.kind == RouteKind::Tls { &*attached.hosts } else { &[] };
                    routes.push(add_l4(assembly, &listener.name, &attached.route, hosts)?);
                }
                Ok(ChainHandler::Tcp { routes: routes.into() })
            }
            ListenerProtocol::TlsPassthrough => {
                for (host, chain) in passthrough(assembly, listener)? {
                    by_sni.entry(host).or_insert(chain);
                }
                continue;
            }
            ListenerProtocol::Tcp => {
                // Without anything to tell connections apart the oldest route has them all.
                let routes = match listener.routes.first() {
                    Some(Attached { route, hosts: _ }) => [add_l4(assembly, &listener.name, route, &[])?].into(),
                    None => [].into(),
                };
                let name = Arc::clone(&listener.name);
                return Ok(vec![Chain { name, sni: [].into(), tls: None, handler: ChainHandler::Tcp { routes } }]);
            }
            ListenerProtocol::Udp | ListenerProtocol::Unknown => continue,
        };
        let (tls, handler) = match handler {
            Ok(handler) => {
                let is_http = matches!(handler, ChainHandler::Http { .. });
                (Some(tls(assembly, listener, is_http)?), handler)
            }
            Err(message) => (None, ChainHandler::Refuse { message: message.into() }),
        };
        let sni: Arc<[HostPattern]> = match &listener.hostname {
            HostPattern::Any => [].into(),
            named => [named.clone()].into(),
        };
        by_sni.insert(listener.hostname.clone(), Chain { name: Arc::clone(&listener.name), sni, tls, handler });
    }
    if plain.is_empty() {
        return Ok(by_sni.into_values().collect());
    }
    let tables = plain.into_iter().collect();
    Ok(vec![Chain { name, sni: [].into(), tls: None, handler: ChainHandler::Http { tables } }])
}

/// One chain per host of the TLSRoutes at a listener; a host that several have is the oldest route's.
fn passthrough(
    assembly: &mut Assembly<'_>,
    listener: &ResolvedListener,
) -> Result<BTreeMap<HostPattern, Chain>, HashError> {
    let mut chains = BTreeMap::new();
    for attached in &listener.routes {
        let key = add_l4(assembly, &listener.name, &attached.route, &attached.hosts)?;
        for host in attached.hosts.iter() {
            let sni: Arc<[HostPattern]> = if *host == HostPattern::Any { [].into() } else { [host.clone()].into() };
            let handler = ChainHandler::Tcp { routes: [Arc::clone(&key)].into() };
            let chain = Chain { name: Arc::clone(&listener.name), sni, tls: None, handler };
            chains.entry(host.clone()).or_insert(chain);
        }
    }
    Ok(chains)
}

/// Adds the rule of a TLSRoute, TCPRoute or UDPRoute at a place and gives its key.
pub(super) fn add_l4(
    assembly: &mut Assembly<'_>,
    place: &str,
    route: &Route,
    hosts: &[HostPattern],
) -> Result<Arc<str>, HashError> {
    let key: Arc<str> = format!("{}/{}/rules/0@{place}", route.kind.as_str(), route.head.key).into();
    let mut backends = Vec::new();
    for written in route.rules.first().into_iter().flat_map(|rule| &rule.backend_refs) {
        let Some(weight) = u32::try_from(written.weight).ok().filter(|weight| *weight > 0) else { continue };
        let (cluster, is_present) = if route.kind == RouteKind::Udp {
            http_routes::resolve_datagrams(assembly, route, &written.object())?
        } else {
            let resolved = http_routes::resolve(assembly, route, &written.object())?;
            (resolved.destination.cluster_name(), resolved.is_present)
        };
        backends.push(L4Backend { cluster, is_missing: !is_present, weight });
    }
    let rule = L4Route {
        key: Arc::clone(&key),
        source: route.head.source(),
        rule: number(0),
        alternative: 0,
        // The name that is matched may be any: the chain has chosen then.
        sni: hosts.iter().filter(|host| **host != HostPattern::Any).cloned().collect(),
        destinations: [].into(),
        backends: backends.into(),
    };
    assembly.add(Resource::L4Route(rule), [route.head.origin()])?;
    Ok(key)
}

/// What is asked of a listener's clients. The option of Istio's goes before what the Gateway says, whose roots count also then.
fn validation(assembly: &Assembly<'_>, listener: &ResolvedListener) -> Option<ClientValidation> {
    let Some(is_required) = listener.asks_clients else { return listener.frontend.clone() };
    let ca = match &listener.frontend {
        Some(frontend) => Arc::clone(&frontend.ca),
        // Without a certificate there is no bundle either, and every handshake fails.
        None => {
            let secrets = &assembly.client.resolved.secrets;
            listener.certificates.first().map(|first| secrets.bundle_beside(first)).unwrap_or_default()
        }
    };
    Some(ClientValidation { ca, is_required, subject_alt_names: [].into(), tolerates_invalid: false })
}

fn tls(assembly: &mut Assembly<'_>, listener: &ResolvedListener, is_http: bool) -> Result<ServerTls, HashError> {
    let client = validation(assembly, listener);
    let ca = client.as_ref().map(|validation| &validation.ca);
    for key in listener.certificates.iter().chain(ca) {
        assembly.add_secret(key)?;
    }
    let defaults = &assembly.client.resolved.settings.tls_defaults;
    Ok(ServerTls {
        mode: match listener.is_mesh {
            true => ServerTlsMode::Mesh,
            false => ServerTlsMode::Secrets { certificates: listener.certificates.as_slice().into(), client },
        },
        min_version: defaults.min_version,
        max_version: TlsVersion::V1_3,
        algorithms: defaults.algorithms.clone(),
        alpn: if is_http { ["h2".into(), "http/1.1".into()].into() } else { [].into() },
    })
}

/// Adds the virtual hosts of a listener: per host the rules of all routes with that host, in order of precedence.
fn add_table(
    assembly: &mut Assembly<'_>,
    gateway: &ResolvedGateway,
    listener: &ResolvedListener,
    table: &Arc<str>,
) -> Result<(), HashError> {
    let mut by_host: BTreeMap<HostPattern, Vec<&Arc<Route>>> = BTreeMap::new();
    for attached in &listener.routes {
        for host in attached.hosts.iter() {
            by_host.entry(host.clone()).or_default().push(&attached.route);
        }
    }
    for (host, routes) in by_host {
        let entries = http_routes::add(assembly, &routes)?;
        let origins: BTreeSet<Origin> = routes.iter().map(|route| route.head.origin()).collect();
        let virtual_host = VirtualHost {
            table: Arc::clone(table),
            name: host.to_string().into(),
            domains: [host].into(),
            https_redirect: false,
            entries: entries.into(),
        };
        assembly.add(Resource::VirtualHost(virtual_host), std::iter::once(gateway.head.origin()).chain(origins))?;
    }
    Ok(())
}
