//! Istio Gateways as listeners, chains and route tables of a gateway proxy.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use palisade_crds::istio::{ServerTlsMode as WrittenMode, ServerTlsSettings, TlsVersion as WrittenVersion};
use palisade_model::{
    hash::HashError,
    host::HostPattern,
    listener::{Chain, ChainHandler, ClientValidation, Listener, ServerTls, ServerTlsMode, TlsAlgorithms, TlsVersion},
    origin::Origin,
    resource::Resource,
    route::{RouteEntry, VirtualHost},
};

use crate::{
    lower::{
        assembly::Assembly,
        clusters::{self, Destination},
        http::{self, Lowered, Place},
        l4, virtual_hosts,
    },
    resolve::{
        gateways::{self, Bound, ServerKind},
        virtual_services,
    },
    settings::tls_algorithms,
};

/// A socket of the proxy.
type Socket = (Option<std::net::IpAddr>, u16);

/// Adds listeners for all servers of Istio Gateways that select the proxy.
pub(crate) fn add(assembly: &mut Assembly<'_>, policies: &Arc<str>) -> Result<(), HashError> {
    let client = assembly.client;
    let inputs = Arc::clone(&client.resolved.inputs);
    let (servers, _) = gateways::servers_of(&inputs, client.proxy());
    let mut sockets: BTreeMap<Socket, Vec<&Bound<'_>>> = BTreeMap::new();
    for server in &servers {
        sockets.entry((server.address, server.port)).or_default().push(server);
    }
    for ((address, port), servers) in sockets {
        let Some(declared_port) = servers.first().map(|server| server.declared) else { continue };
        let chains = chains(assembly, &servers)?;
        let key = match address {
            Some(address) => format!("{}", std::net::SocketAddr::new(address, port)),
            None => format!("0.0.0.0:{port}"),
        };
        let listener = Listener {
            key: key.into(),
            address,
            port,
            declared_port,
            chains: chains.into(),
            policies: Arc::clone(policies),
            // Istio routes within the hosts of the server that the handshake named, whatever the others have.
            detects_misdirected: false,
            is_udp: false,
        };
        let origins: Vec<Origin> = servers.iter().map(|server| server.head.origin()).collect();
        assembly.add(Resource::Listener(listener), origins)?;
    }
    Ok(())
}

fn chains(assembly: &mut Assembly<'_>, servers: &[&Bound<'_>]) -> Result<Vec<Chain>, HashError> {
    let plain: Vec<&Bound<'_>> = servers.iter().copied().filter(|server| server.kind == ServerKind::Http).collect();
    if let Some(first) = plain.first() {
        let table: Arc<str> = format!("gateway:http.{}", first.port).into();
        add_table(assembly, &table, &plain)?;
        return Ok(vec![Chain {
            name: name_of(first),
            sni: [].into(),
            tls: None,
            handler: ChainHandler::Http { tables: [(HostPattern::Any, table)].into() },
        }]);
    }
    let mut by_sni: BTreeMap<HostPattern, Chain> = BTreeMap::new();
    for server in servers {
        let made = match server.kind {
            ServerKind::Http => continue,
            ServerKind::Tcp => {
                let routes = tcp_routes(assembly, server)?;
                return Ok(vec![Chain {
                    name: name_of(server),
                    sni: [].into(),
                    tls: None,
                    handler: ChainHandler::Tcp { routes: routes.into() },
                }]);
            }
            ServerKind::Https => {
                let table: Arc<str> =
                    format!("gateway:https.{}.{}.{}", server.port, server.server.port.name, server.gateway).into();
                add_table(assembly, &table, &[server])?;
                terminating(assembly, server, ChainHandler::Http { tables: [(HostPattern::Any, table)].into() }, true)?
            }
            ServerKind::Tls => {
                let routes = tcp_routes(assembly, server)?;
                terminating(assembly, server, ChainHandler::Tcp { routes: routes.into() }, false)?
            }
            ServerKind::Passthrough => passthrough(assembly, server)?,
            ServerKind::AutoPassthrough => {
                add_named_clusters(assembly, server)?;
                sni_of(server)
                    .into_iter()
                    .map(|sni| (sni, chain(server, None, ChainHandler::AutoPassthrough)))
                    .collect()
            }
        };
        for (sni, chain) in made {
            by_sni.entry(sni).or_insert(chain);
        }
    }
    // Most specific first; `*` takes every server name and connections without one.
    Ok(by_sni
        .into_iter()
        .map(|(sni, chain)| Chain { sni: if sni == HostPattern::Any { [].into() } else { [sni].into() }, ..chain })
        .collect())
}

/// Adds every cluster that a server name may spell at an AUTO_PASSTHROUGH server: those of its hosts, with their subsets.
fn add_named_clusters(assembly: &mut Assembly<'_>, server: &Bound<'_>) -> Result<(), HashError> {
    let client = assembly.client;
    for service in client.services().filter(|service| server.hosts.iter().any(|(_, host)| host.matches(&service.host)))
    {
        let policy = clusters::policy_for(client, service);
        let subsets = policy.into_iter().flat_map(|policy| policy.subsets.keys().cloned());
        for subset in std::iter::once(Arc::from("")).chain(subsets) {
            for port in &service.ports {
                let host = Arc::clone(&service.host);
                let destination = Destination { host, port: port.number, subset: Arc::clone(&subset) };
                assembly.add_destination(&destination)?;
            }
        }
    }
    Ok(())
}

fn name_of(server: &Bound<'_>) -> Arc<str> {
    let name = if server.server.name.is_empty() { &server.server.port.name } else { &server.server.name };
    name.as_str().into()
}

fn chain(server: &Bound<'_>, tls: Option<ServerTls>, handler: ChainHandler) -> Chain {
    Chain { name: name_of(server), sni: [].into(), tls, handler }
}

fn sni_of(server: &Bound<'_>) -> BTreeSet<HostPattern> {
    server.hosts.iter().map(|(_, host)| host.clone()).collect()
}

/// One chain per server name for a server that terminates TLS.
fn terminating(
    assembly: &mut Assembly<'_>,
    server: &Bound<'_>,
    handler: ChainHandler,
    is_http: bool,
) -> Result<Vec<(HostPattern, Chain)>, HashError> {
    let Some(settings) = &server.server.tls else { return Ok(Vec::new()) };
    let (tls, handler) = match server_tls(assembly, settings, is_http)? {
        Ok(tls) => (Some(tls), handler),
        Err(message) => (None, ChainHandler::Refuse { message }),
    };
    Ok(sni_of(server).into_iter().map(|sni| (sni, chain(server, tls.clone(), handler.clone()))).collect())
}

/// TLS settings as written, with the secrets that they name; the error says what cannot be served safely.
fn server_tls(
    assembly: &mut Assembly<'_>,
    settings: &ServerTlsSettings,
    is_http: bool,
) -> Result<Result<ServerTls, Arc<str>>, HashError> {
    let ServerTlsSettings {
        https_redirect: _,
        mode,
        server_certificate,
        private_key,
        ca_certificates,
        ca_crl,
        credential_name,
        credential_names,
        ca_cert_credential_name,
        tls_certificates,
        subject_alt_names,
        verify_certificate_spki,
        verify_certificate_hash,
        min_protocol_version,
        max_protocol_version,
        cipher_suites,
        ecdh_curves,
        insecure_skip_verify,
    } = settings;
    let refused = [
        (!ca_crl.is_empty(), "caCrl"),
        (!verify_certificate_spki.is_empty(), "verifyCertificateSpki"),
        (!verify_certificate_hash.is_empty(), "verifyCertificateHash"),
        (insecure_skip_verify.unwrap_or(false), "insecureSkipVerify"),
    ];
    if let Some((_, field)) = refused.iter().find(|(is_set, _)| *is_set) {
        return Ok(Err(format!("`tls.{field}` is not served").into()));
    }
    let alpn: Arc<[Arc<str>]> = if is_http { ["h2".into(), "http/1.1".into()].into() } else { [].into() };
    let defaults = assembly.client.resolved.settings.tls_defaults.clone();
    let written = tls_algorithms(cipher_suites, ecdh_curves);
    let or_default = |own: Arc<[Arc<str>]>, default| if own.is_empty() { default } else { own };
    let algorithms = TlsAlgorithms {
        cipher_suites: or_default(written.cipher_suites, defaults.algorithms.cipher_suites),
        curves: or_default(written.curves, defaults.algorithms.curves),
    };
    let tls = |mode| ServerTls {
        mode,
        algorithms: algorithms.clone(),
        min_version: match min_protocol_version {
            WrittenVersion::Auto => defaults.min_version,
            WrittenVersion::V1_3 => TlsVersion::V1_3,
            // 1.0 and 1.1 are not spoken any more.
            WrittenVersion::V1_0 | WrittenVersion::V1_1 | WrittenVersion::V1_2 => TlsVersion::V1_2,
        },
        max_version: match max_protocol_version {
            WrittenVersion::V1_2 => TlsVersion::V1_2,
            WrittenVersion::Auto | WrittenVersion::V1_0 | WrittenVersion::V1_1 | WrittenVersion::V1_3 => {
                TlsVersion::V1_3
            }
        },
        alpn,
    };
    if matches!(max_protocol_version, WrittenVersion::V1_0 | WrittenVersion::V1_1) {
        return Ok(Err("`tls.maxProtocolVersion` below 1.2 is not served".into()));
    }
    let is_required = match mode {
        WrittenMode::IstioMutual => return Ok(Ok(tls(ServerTlsMode::Mesh))),
        WrittenMode::Passthrough | WrittenMode::AutoPassthrough => {
            return Ok(Err("the server does not terminate TLS".into()));
        }
        WrittenMode::Simple => None,
        WrittenMode::Mutual => Some(true),
        WrittenMode::OptionalMutual => Some(false),
    };
    let client = assembly.client;
    // Secrets of an Istio Gateway are those of the gateway pod's namespace, wherever the Gateway lives.
    let namespace = client.namespace();
    let mut certificates: Vec<Arc<str>> = Vec::new();
    let mut ca: Option<Arc<str>> = None;
    let named = credential_names.iter().flatten().chain((!credential_name.is_empty()).then_some(credential_name));
    for name in named {
        let (certificate, bundle) = client.resolved.secrets.keys_for(namespace, name);
        certificates.push(certificate);
        ca.get_or_insert(bundle);
    }
    if certificates.is_empty() {
        let pairs = tls_certificates.iter().flatten().map(|pair| (&pair.server_certificate, &pair.private_key));
        for (certificate, key) in
            pairs.chain((!server_certificate.is_empty()).then_some((server_certificate, private_key)))
        {
            certificates.push(format!("file/{certificate}|{key}").into());
        }
    }
    if !ca_cert_credential_name.is_empty() {
        ca = Some(client.resolved.secrets.keys_for(namespace, ca_cert_credential_name).0);
    } else if !ca_certificates.is_empty() {
        ca = Some(format!("file/{ca_certificates}").into());
    }
    for key in certificates.iter().chain(ca.iter()) {
        assembly.add_secret(key)?;
    }
    let validation = match (is_required, ca) {
        (None, _) => None,
        (Some(is_required), Some(ca)) => Some(ClientValidation {
            ca,
            is_required,
            subject_alt_names: subject_alt_names.iter().map(|name| Arc::from(name.as_str())).collect(),
            tolerates_invalid: false,
        }),
        (Some(_), None) => return Ok(Err("client certificates are asked for and there is no CA to check them".into())),
    };
    if certificates.is_empty() {
        return Ok(Err("there is no server certificate".into()));
    }
    Ok(Ok(tls(ServerTlsMode::Secrets { certificates: certificates.into(), client: validation })))
}

/// Adds the virtual hosts of servers that share a route table: per host the rules of all VirtualServices in order, those that
/// take everything last (istio-semantics 4.1).
fn add_table(assembly: &mut Assembly<'_>, table: &Arc<str>, servers: &[&Bound<'_>]) -> Result<(), HashError> {
    let client = assembly.client;
    let mut hosts: BTreeMap<HostPattern, TableHost> = BTreeMap::new();
    for server in servers {
        let redirects = server.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        let names = [server.gateway.clone()];
        let suffix = format!("@{}:{}", server.gateway, server.declared);
        let place =
            Place { port: server.declared, gateways: &names, is_tls: server.server.tls.is_some(), suffix: &suffix };
        for bound in &client.resolved.virtual_services.seen_by(client.namespace(), &server.gateway).all {
            let shared = shared_hosts(server, bound);
            if shared.is_empty() {
                continue;
            }
            let lowered = http::rules(client, bound, place);
            if lowered.is_empty() {
                continue;
            }
            let entries = ordered_entries(assembly, lowered, bound)?;
            for host in shared {
                let host = hosts.entry(host).or_default();
                host.redirects |= redirects;
                host.origins.extend([bound.head.origin(), server.head.origin()]);
                for (entry, is_catch_all) in &entries {
                    let RouteEntry { rule, alternative } = entry;
                    if host.seen.insert((Arc::clone(rule), *alternative, *is_catch_all)) {
                        let list = if *is_catch_all { &mut host.last } else { &mut host.first };
                        list.push(entry.clone());
                    }
                }
            }
        }
        if redirects {
            for (_, pattern) in &server.hosts {
                let host = hosts.entry(pattern.clone()).or_default();
                host.redirects = true;
                host.origins.push(server.head.origin());
            }
        }
    }
    for (pattern, host) in hosts {
        let TableHost { redirects, mut first, last, seen: _, origins } = host;
        first.extend(last);
        let virtual_host = VirtualHost {
            table: Arc::clone(table),
            name: pattern.to_string().into(),
            domains: [pattern].into(),
            https_redirect: redirects,
            entries: first.into(),
        };
        assembly.add(Resource::VirtualHost(virtual_host), origins)?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct TableHost {
    redirects: bool,
    first: Vec<RouteEntry>,
    last: Vec<RouteEntry>,
    /// What is in the two lists, each by rule, alternative and whether it takes everything.
    seen: HashSet<(Arc<str>, u32, bool)>,
    origins: Vec<Origin>,
}

/// Adds rules; gives their entries, each with whether it takes every request.
fn ordered_entries(
    assembly: &mut Assembly<'_>,
    lowered: Vec<Lowered>,
    bound: &virtual_services::Bound,
) -> Result<Vec<(RouteEntry, bool)>, HashError> {
    let is_catch_all: Vec<bool> = lowered
        .iter()
        .flat_map(|one| {
            let written = one.rule.matches.iter().map(http::is_catch_all_condition);
            if one.rule.matches.is_empty() { vec![true] } else { written.collect() }
        })
        .collect();
    let entries = virtual_hosts::add_rules(assembly, lowered, bound)?;
    Ok(entries.into_iter().zip(is_catch_all).collect())
}

/// Hosts that a server and a VirtualService share, each as the narrower of the two patterns.
fn shared_hosts(server: &Bound<'_>, bound: &virtual_services::Bound) -> BTreeSet<HostPattern> {
    server
        .hosts
        .iter()
        .filter(|(namespace, _)| namespace.as_ref().is_none_or(|ns| *ns == bound.head.key.namespace))
        .flat_map(|(_, own)| bound.hosts.iter().filter_map(|other| own.intersect(other)))
        .collect()
}

/// TCP rules of the first VirtualService that has one for the server.
fn tcp_routes(assembly: &mut Assembly<'_>, server: &Bound<'_>) -> Result<Vec<Arc<str>>, HashError> {
    let client = assembly.client;
    let names = [server.gateway.clone()];
    let suffix = format!("@{}:{}", server.gateway, server.declared);
    let place = Place { port: server.declared, gateways: &names, is_tls: server.server.tls.is_some(), suffix: &suffix };
    for bound in &client.resolved.virtual_services.seen_by(client.namespace(), &server.gateway).all {
        if shared_hosts(server, bound).is_empty() {
            continue;
        }
        let (routes, _) = l4::add_tcp(assembly, bound, place)?;
        if !routes.is_empty() {
            return Ok(routes);
        }
    }
    Ok(Vec::new())
}

/// One chain per server name of the VirtualServices' TLS rules.
fn passthrough(assembly: &mut Assembly<'_>, server: &Bound<'_>) -> Result<Vec<(HostPattern, Chain)>, HashError> {
    let client = assembly.client;
    let names = [server.gateway.clone()];
    let suffix = format!("@{}:{}", server.gateway, server.declared);
    let place = Place { port: server.declared, gateways: &names, is_tls: true, suffix: &suffix };
    let mut routes: BTreeMap<HostPattern, Vec<Arc<str>>> = BTreeMap::new();
    for bound in &client.resolved.virtual_services.seen_by(client.namespace(), &server.gateway).all {
        if shared_hosts(server, bound).is_empty() {
            continue;
        }
        for (key, sni) in l4::add_tls(assembly, bound, place)? {
            for name in sni.iter() {
                routes.entry(name.clone()).or_default().push(Arc::clone(&key));
            }
        }
    }
    Ok(routes
        .into_iter()
        .map(|(sni, routes)| (sni, chain(server, None, ChainHandler::Tcp { routes: routes.into() })))
        .collect())
}
