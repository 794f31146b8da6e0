//! A service as a sidecar sees it: the Service resource, its virtual hosts, its default routes, its L4 routes.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use palisade_model::{
    hash::HashError,
    host::HostPattern,
    listener::Protocol,
    origin::Origin,
    resource::{Resource, ResourceKind},
    route::{Backend, Fault, Forward, HeaderMutations, Rewrite, RouteAction, RouteEntry, RouteRule, VirtualHost},
    service::{DnsName, L4Backend, L4Route, Service, ServicePort},
};

use crate::{
    lower::{assembly::Assembly, client::Client, clusters::Destination, l4, retries, virtual_hosts},
    resolve::services::{Registered, RegisteredPort, Registry},
};

/// The route table of all services' HTTP on a port.
pub(crate) fn table(port: u16) -> Arc<str> {
    format!("outbound:{port}").into()
}

/// The route table of one service's auto-detected port.
pub(crate) fn own_table(host: &str, port: u16) -> Arc<str> {
    format!("outbound:{host}:{port}").into()
}

/// Adds a service with everything that calls to it need.
pub(crate) fn add(assembly: &mut Assembly<'_>, service: &Registered) -> Result<(), HashError> {
    if assembly.has(ResourceKind::Service, &service.host) {
        return Ok(());
    }
    let mut ports = Vec::new();
    let client = assembly.client;
    for port in service.ports.iter().filter(|port| client.sees_at(service, port.number)) {
        let l4_routes = if matches!(port.protocol, Protocol::Tcp | Protocol::Tls | Protocol::Auto) {
            l4::add_outbound(assembly, service, port)?
        } else {
            [].into()
        };
        if port.may_be_http() {
            virtual_hosts::add_service(assembly, service, port)?;
        }
        ports.push(ServicePort {
            port: port.number,
            protocol: port.protocol,
            table: match port.protocol {
                Protocol::Http | Protocol::Http2 => Some(table(port.number)),
                Protocol::Auto => Some(own_table(&service.host, port.number)),
                Protocol::Tcp | Protocol::Tls => None,
            },
            l4_routes,
            takes_any_address: match port.protocol {
                Protocol::Tls => service.is_unaddressed,
                _ => assembly.any_address.get(&port.number).is_some_and(|host| *host == service.host),
            },
        });
    }
    let resource = Service {
        host: Arc::clone(&service.host),
        namespace: Arc::clone(&service.key.namespace),
        addresses: addresses(client, service).into(),
        is_headless: service.is_headless,
        names: dns_names(assembly.client, service),
        ports: ports.into(),
        is_external: service.is_external,
    };
    assembly.add(Resource::Service(resource), [service.origin.clone()])
}

/// The addresses by which a client reaches a service: of allocated ones those of its own families.
fn addresses(client: Client<'_>, service: &Registered) -> Vec<IpAddr> {
    if !service.is_unaddressed {
        return service.addresses.clone();
    }
    let own = client.addresses();
    let has_v6 = own.iter().any(IpAddr::is_ipv6);
    let has_v4 = own.iter().any(IpAddr::is_ipv4) || !has_v6;
    let is_own = |ip: &&IpAddr| if ip.is_ipv4() { has_v4 } else { has_v6 };
    service.addresses.iter().filter(is_own).copied().collect()
}

/// What DNS answers: the service's name and its aliases; for a headless service also its pods' names.
fn dns_names(client: Client<'_>, service: &Registered) -> Arc<[DnsName]> {
    let pods = client.resolved.workloads.pod_names(&service.host);
    let own: BTreeSet<IpAddr> = if service.is_headless {
        pods.iter().filter(|(name, _)| name.is_empty()).map(|(_, ip)| *ip).collect()
    } else {
        addresses(client, service).into_iter().collect()
    };
    // Names of services that no address stands for are the resolvers' to answer.
    if own.is_empty() && service.registry == Registry::Entries {
        return [].into();
    }
    let addresses: Arc<[IpAddr]> = own.into_iter().collect();
    let mut names: Vec<DnsName> = [&service.host]
        .into_iter()
        .chain(service.aliases.iter().map(|(alias, _)| alias))
        .map(|name| DnsName { name: Arc::clone(name), addresses: Arc::clone(&addresses) })
        .collect();
    let pod_names: BTreeSet<&str> =
        pods.iter().map(|(name, _)| name.as_str()).filter(|name| !name.is_empty()).collect();
    for pod in pod_names {
        let addresses = pods.iter().filter(|(name, _)| name == pod).map(|(_, ip)| *ip).collect();
        names.push(DnsName { name: pod.to_ascii_lowercase().into(), addresses });
    }
    names.sort();
    names.into()
}

/// Host patterns by which a client names a service in a request (istio-semantics 4.1).
pub(crate) fn domains(client: Client<'_>, service: &Registered) -> Vec<HostPattern> {
    let domain = &client.resolved.settings.cluster_domain;
    let mut domains = Vec::new();
    let all = std::iter::once((&service.host, &service.key.namespace))
        .chain(service.aliases.iter().map(|(alias, namespace)| (alias, namespace)));
    for (host, namespace) in all {
        if service.pattern.is_wildcard() {
            domains.push(service.pattern.clone());
            continue;
        }
        domains.push(HostPattern::Exact(Arc::clone(host)));
        domains.push(HostPattern::Exact(format!("{host}.").into()));
        if let Some(short) = host.strip_suffix(&format!(".{domain}")) {
            domains.push(HostPattern::Exact(short.into()));
            if let Some(shorter) = short.strip_suffix(".svc") {
                domains.push(HostPattern::Exact(shorter.into()));
                if let Some(name) = shorter.strip_suffix(&format!(".{namespace}"))
                    && **namespace == *client.namespace()
                {
                    domains.push(HostPattern::Exact(name.into()));
                }
            }
        }
    }
    if service.is_headless {
        let wildcards: Vec<HostPattern> =
            domains.iter().map(|domain| HostPattern::Suffix(format!(".{domain}").into())).collect();
        domains.extend(wildcards);
    }
    domains.extend(addresses(client, service).iter().map(|ip| match ip {
        IpAddr::V4(ip) => HostPattern::Exact(ip.to_string().into()),
        IpAddr::V6(ip) => HostPattern::Exact(format!("[{ip}]").into()),
    }));
    domains
}

/// The default HTTP route of a service port: everything to all endpoints, with default retries.
pub(crate) fn default_route(
    assembly: &mut Assembly<'_>,
    service: &Registered,
    port: &RegisteredPort,
) -> Result<RouteEntry, HashError> {
    let key: Arc<str> = format!("{}/{}", of_service(service), port.number).into();
    if !assembly.has(ResourceKind::Route, &key) {
        let destination = Destination { host: Arc::clone(&service.host), port: port.number, subset: "".into() };
        let is_present = assembly.add_destination(&destination)?;
        let default = assembly.client.resolved.settings.default_retries.as_ref();
        let rule = RouteRule {
            key: Arc::clone(&key),
            source: source(service),
            name: Some("default".into()),
            rule: 0,
            matches: [].into(),
            fault: Fault::default(),
            cors: None,
            action: RouteAction::Forward(Forward {
                backends: [Backend {
                    cluster: destination.cluster_name(),
                    missing: (!is_present).then_some(503),
                    weight: 1,
                    request_headers: HeaderMutations::default(),
                    response_headers: HeaderMutations::default(),
                    path: None,
                }]
                .into(),
                request_headers: HeaderMutations::default(),
                rewrite: Rewrite::default(),
                timeout: None,
                retries: retries::lower(default),
                mirrors: [].into(),
                session: None,
            }),
            response_headers: HeaderMutations::default(),
        };
        assembly.add(Resource::Route(rule), [service.origin.clone()])?;
    }
    Ok(RouteEntry { rule: key, alternative: 0 })
}

/// What the default routes of a service are named by: a ServiceEntry may have several hosts.
fn of_service(service: &Registered) -> String {
    match service.registry {
        Registry::Kubernetes => format!("Service/{}", service.key),
        Registry::Entries => format!("ServiceEntry/{}/{}", service.key, service.host),
    }
}

/// The user's object, as routes name it.
fn source(service: &Registered) -> Arc<str> {
    match service.registry {
        Registry::Kubernetes => format!("Service {}", service.key).into(),
        Registry::Entries => format!("ServiceEntry {}", service.key).into(),
    }
}

/// The default routes of a service port for opaque bytes. A port with TLS behind networks is one of many hosts there: its
/// server name tells it from the others (Istio's `buildSidecarOutboundTLSFilterChainOpts`).
pub(crate) fn default_l4_routes(
    assembly: &mut Assembly<'_>,
    service: &Registered,
    port: &RegisteredPort,
) -> Result<Vec<Arc<str>>, HashError> {
    let destination = Destination { host: Arc::clone(&service.host), port: port.number, subset: "".into() };
    let is_present = assembly.add_destination(&destination)?;
    let is_named = port.protocol == Protocol::Tls && !service.networks.is_empty();
    let own: Vec<IpNet> = service.addresses.iter().copied().map(IpNet::from).collect();
    let mut forms = Vec::new();
    if is_named {
        forms.push(("/tls", vec![service.pattern.clone()], service.networks.clone()));
    }
    if !is_named || !own.is_empty() {
        forms.push(("/tcp", Vec::new(), if is_named { own } else { Vec::new() }));
    }
    let mut keys = Vec::new();
    for (suffix, sni, destinations) in forms {
        let key: Arc<str> = format!("{}/{}{suffix}", of_service(service), port.number).into();
        let route = L4Route {
            key: Arc::clone(&key),
            source: source(service),
            rule: 0,
            alternative: 0,
            sni: sni.into(),
            destinations: destinations.into(),
            backends: [L4Backend { cluster: destination.cluster_name(), is_missing: !is_present, weight: 1 }].into(),
        };
        assembly.add(Resource::L4Route(route), [service.origin.clone()])?;
        keys.push(key);
    }
    Ok(keys)
}

/// A virtual host with its domains claimed; nothing is added when others have taken all of them.
pub(crate) fn add_virtual_host(
    assembly: &mut Assembly<'_>,
    table: &Arc<str>,
    name: &str,
    domains: Vec<HostPattern>,
    entries: Vec<RouteEntry>,
    origins: Vec<Origin>,
) -> Result<(), HashError> {
    let domains = assembly.claim(table, domains);
    if domains.is_empty() {
        return Ok(());
    }
    let host = VirtualHost {
        table: Arc::clone(table),
        name: name.into(),
        domains,
        https_redirect: false,
        entries: entries.into(),
    };
    assembly.add(Resource::VirtualHost(host), origins)
}
