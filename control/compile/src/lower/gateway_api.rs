//! Gateway API Gateways as listeners, chains and route tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::gateway_api::HttpRoute;
use palisade_model::{
    hash::HashError,
    host::HostPattern,
    listener::{Chain, ChainHandler, Listener, ServerTls, ServerTlsMode, TlsVersion},
    origin::Origin,
    resource::{Resource, ResourceKind},
    route::VirtualHost,
};

use crate::{
    lower::{assembly::Assembly, http_routes},
    object::{Object, ObjectKey},
    resolve::{
        gateway_api::{ListenerProtocol, ResolvedGateway, ResolvedListener},
        gateways,
    },
};

/// Adds the listeners of the Gateway that the proxy serves, if it serves one.
pub(crate) fn add(assembly: &mut Assembly<'_>, policies: &Arc<str>) -> Result<(), HashError> {
    let client = assembly.client;
    let resolved = client.resolved;
    let Some(gateway) = client.proxy.gateway.as_ref().and_then(|key| resolved.gateway_api.gateway(key)) else {
        return Ok(());
    };
    let mut by_port: BTreeMap<u16, Vec<&ResolvedListener>> = BTreeMap::new();
    for listener in gateway.listeners.iter().filter(|listener| listener.is_accepted) {
        by_port.entry(listener.port).or_default().push(listener);
    }
    for (declared_port, listeners) in by_port {
        let chains: Arc<[Chain]> = chains(assembly, gateway, &listeners)?.into();
        for port in gateways::target_ports(&resolved.inputs, client.proxy, declared_port) {
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
            };
            assembly.add(Resource::Listener(listener), [gateway.head.origin()])?;
        }
    }
    Ok(())
}

/// The route table of a listener.
fn table(gateway: &ObjectKey, listener: &str) -> Arc<str> {
    format!("gateway:{gateway}:{listener}").into()
}

fn chains(
    assembly: &mut Assembly<'_>,
    gateway: &ResolvedGateway,
    listeners: &[&ResolvedListener],
) -> Result<Vec<Chain>, HashError> {
    let mut plain: BTreeMap<HostPattern, Arc<str>> = BTreeMap::new();
    let mut by_sni: BTreeMap<HostPattern, Chain> = BTreeMap::new();
    let mut name: Arc<str> = "".into();
    for listener in listeners {
        let table = table(&gateway.head.key, &listener.name);
        let handler = match listener.protocol {
            ListenerProtocol::Http => {
                add_table(assembly, gateway, listener, &table)?;
                plain.insert(listener.hostname.clone(), table);
                name = Arc::clone(&listener.name);
                continue;
            }
            ListenerProtocol::Https if gateway.wants_frontend_validation => {
                Err("client certificates (`spec.tls.frontend`) are not served yet")
            }
            ListenerProtocol::Https if listener.certificates.is_empty() && !listener.is_mesh => {
                Err("there is no certificate that may be used")
            }
            ListenerProtocol::Https => {
                add_table(assembly, gateway, listener, &table)?;
                Ok(ChainHandler::Http { tables: [(listener.hostname.clone(), table)].into() })
            }
            ListenerProtocol::TlsTerminate | ListenerProtocol::TlsPassthrough | ListenerProtocol::Tcp => {
                Err("routes for this protocol are not served yet")
            }
            ListenerProtocol::Udp | ListenerProtocol::Unknown => continue,
        };
        let (tls, handler) = match handler {
            Ok(handler) => (Some(tls(assembly, listener)?), handler),
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

fn tls(assembly: &mut Assembly<'_>, listener: &ResolvedListener) -> Result<ServerTls, HashError> {
    for key in &listener.certificates {
        assembly.add_secret(key)?;
    }
    Ok(ServerTls {
        mode: match listener.is_mesh {
            true => ServerTlsMode::Mesh,
            false => ServerTlsMode::Secrets { certificates: listener.certificates.as_slice().into(), client: None },
        },
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        alpn: ["h2".into(), "http/1.1".into()].into(),
    })
}

/// Adds the virtual hosts of a listener: per host the rules of all routes with that host, in order of precedence.
fn add_table(
    assembly: &mut Assembly<'_>,
    gateway: &ResolvedGateway,
    listener: &ResolvedListener,
    table: &Arc<str>,
) -> Result<(), HashError> {
    let mut by_host: BTreeMap<HostPattern, Vec<&Arc<Object<HttpRoute>>>> = BTreeMap::new();
    for attached in &listener.routes {
        for host in &attached.hosts {
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
