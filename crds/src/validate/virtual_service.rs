//! VirtualService.

use super::host;
use super::{duration, export_to, labels, port};
use crate::codes::Code;
use crate::istio::{
    Destination, L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute, VirtualService,
};
use crate::object::Meta;
use crate::schema::Cursor;

mod http;

const HOSTS: Code = Code::VirtualServiceHosts;
const ROUTE: Code = Code::VirtualServiceRoute;

pub(super) fn check(meta: &Meta, service: &VirtualService, cursor: &mut Cursor<'_>) {
    let VirtualService { hosts, gateways, http, tls, tcp, export_to: exported } = service;
    let is_delegate = hosts.is_empty();
    if is_delegate {
        for (field, is_written) in
            [("gateways", !gateways.is_empty()), ("tls", !tls.is_empty()), ("tcp", !tcp.is_empty())]
        {
            if is_written {
                cursor.report_at(field, HOSTS, format!("a delegate, which has no hosts, must not have `{field}`"));
            }
        }
    }
    gateway_names(gateways, cursor);
    let at_gateways = is_at_gateways(gateways);
    check_hosts(service, at_gateways, cursor);
    if http.is_empty() && tls.is_empty() && tcp.is_empty() {
        cursor.report(ROUTE, "`http`, `tls` or `tcp` must have a rule");
    }
    cursor.within("http", |cursor| {
        for (index, route) in http.iter().enumerate() {
            cursor.within(index, |cursor| http::check(route, is_delegate, at_gateways, cursor));
        }
    });
    cursor.within("tls", |cursor| {
        for (index, route) in tls.iter().enumerate() {
            cursor.within(index, |cursor| check_tls(route, service, cursor));
        }
    });
    cursor.within("tcp", |cursor| {
        for (index, route) in tcp.iter().enumerate() {
            cursor.within(index, |cursor| check_tcp(route, cursor));
        }
    });
    export_to(&meta.namespace, exported, false, HOSTS, cursor);
    super::unreachable::check(service, cursor);
}

/// Istio's reckoning: bound to gateways only if `mesh` is not among them.
fn is_at_gateways(gateways: &[String]) -> bool {
    !gateways.is_empty() && !gateways.iter().any(|gateway| gateway == "mesh")
}

fn check_hosts(service: &VirtualService, at_gateways: bool, cursor: &mut Cursor<'_>) {
    let has_sni = service.tls.iter().flat_map(|route| &route.r#match).any(|item| !item.sni_hosts.is_empty());
    cursor.within("hosts", |cursor| {
        let mut all_valid = true;
        for (index, name) in service.hosts.iter().enumerate() {
            let valid = if at_gateways { host::gateway_domain(has_sni, name) } else { host::wildcard_domain(name) };
            match valid {
                Err(_) if host::is_ip(name) => {}
                Err(message) => {
                    all_valid = false;
                    cursor.report_at(index, HOSTS, message);
                }
                Ok(()) if !at_gateways && name == "*" => {
                    all_valid = false;
                    cursor.report_at(index, HOSTS, "the host `*` is only allowed at gateways");
                }
                Ok(()) => {}
            }
        }
        for (index, name) in service.hosts.iter().enumerate().filter(|_| all_valid) {
            if let Some(other) = service.hosts.iter().take(index).find(|other| host::overlap(other, name)) {
                cursor.report_at(
                    index,
                    HOSTS,
                    format!("`{name}` and `{other}` are the same or one contains the other"),
                );
            }
        }
    });
}

/// `name`, or `namespace/name`. Istio looks no further after the first name without namespace.
fn gateway_names(gateways: &[String], cursor: &mut Cursor<'_>) {
    cursor.within("gateways", |cursor| {
        for (index, gateway) in gateways.iter().enumerate() {
            let Some((namespace, name)) = gateway.split_once('/') else {
                if let Some((name, rest)) = gateway.split_once('.') {
                    let namespace = rest.split('.').next().unwrap_or_default();
                    cursor.report_at(
                        index,
                        Code::VirtualServiceWarning,
                        format!("`{gateway}` is an old form; write `{namespace}/{name}`"),
                    );
                }
                if let Err(message) = host::fqdn(gateway) {
                    cursor.report_at(index, HOSTS, message);
                }
                return;
            };
            if !host::is_label(namespace) || !host::is_label(name) {
                cursor.report_at(index, HOSTS, format!("`{gateway}` is not of the form `name` or `namespace/name`"));
            }
        }
    });
}

fn check_tls(route: &TlsRoute, service: &VirtualService, cursor: &mut Cursor<'_>) {
    let TlsRoute { r#match, route } = route;
    if r#match.is_empty() {
        cursor.report_at("match", ROUTE, "a TLS rule must have a match");
    }
    cursor.within("match", |cursor| {
        for (index, item) in r#match.iter().enumerate() {
            cursor.within(index, |cursor| check_tls_match(item, service, cursor));
        }
    });
    check_destinations(route, cursor);
}

fn check_tls_match(item: &TlsMatchAttributes, service: &VirtualService, cursor: &mut Cursor<'_>) {
    let TlsMatchAttributes {
        sni_hosts,
        destination_subnets,
        port: number,
        source_labels,
        gateways,
        source_namespace: _,
    } = item;
    if sni_hosts.is_empty() {
        cursor.report_at("sniHosts", ROUTE, "a TLS match must have a server name");
    }
    cursor.within("sniHosts", |cursor| {
        for (index, name) in sni_hosts.iter().enumerate() {
            let valid = if is_at_gateways(&service.gateways) || service.gateways.is_empty() {
                host::gateway_domain(true, name)
            } else {
                host::wildcard_domain(name)
            };
            if let Err(message) = valid {
                if host::is_ip(name) {
                    cursor.report_at(
                        index,
                        Code::VirtualServiceWarning,
                        format!("`{name}`: clients do not send addresses as server names"),
                    );
                } else {
                    cursor.report_at(index, ROUTE, message);
                }
            } else if !service.hosts.iter().any(|host| host::is_subset(name, host)) {
                cursor.report_at(index, ROUTE, format!("`{name}` is not covered by any of `hosts`"));
            }
        }
    });
    l4(destination_subnets, *number, cursor);
    labels("sourceLabels", source_labels, ROUTE, cursor);
    gateway_names(gateways, cursor);
}

fn check_tcp(route: &TcpRoute, cursor: &mut Cursor<'_>) {
    let TcpRoute { r#match, route } = route;
    cursor.within("match", |cursor| {
        for (index, item) in r#match.iter().enumerate() {
            let L4MatchAttributes {
                destination_subnets,
                port: number,
                source_subnet: _,
                source_labels,
                gateways,
                source_namespace: _,
            } = item;
            cursor.within(index, |cursor| {
                l4(destination_subnets, *number, cursor);
                labels("sourceLabels", source_labels, ROUTE, cursor);
                gateway_names(gateways, cursor);
            });
        }
    });
    check_destinations(route, cursor);
}

fn l4(subnets: &[String], number: Option<u32>, cursor: &mut Cursor<'_>) {
    cursor.within("destinationSubnets", |cursor| {
        for (index, subnet) in subnets.iter().enumerate().filter(|(_, subnet)| !host::is_subnet(subnet)) {
            cursor.report_at(index, ROUTE, format!("`{subnet}` is neither an address nor a CIDR"));
        }
    });
    if let Some(number) = number.filter(|number| *number != 0) {
        port("port", number, ROUTE, cursor);
    }
}

fn check_destinations(destinations: &[RouteDestination], cursor: &mut Cursor<'_>) {
    if destinations.is_empty() {
        cursor.report_at("route", ROUTE, "a destination is required");
    }
    cursor.within("route", |cursor| {
        for (index, RouteDestination { destination: to, weight: _ }) in destinations.iter().enumerate() {
            cursor.within(index, |cursor| cursor.within("destination", |cursor| destination(to, ROUTE, cursor)));
        }
        weights(destinations.iter().map(|destination| destination.weight), cursor);
    });
}

fn weights(weights: impl Iterator<Item = i32> + Clone, cursor: &mut Cursor<'_>) {
    for (index, weight) in weights.clone().enumerate().filter(|(_, weight)| *weight < 0) {
        cursor.within(index, |cursor| cursor.report_at("weight", ROUTE, format!("`{weight}` is negative")));
    }
    let count = weights.clone().count();
    if count > 1 && weights.map(i64::from).sum::<i64>() == 0 {
        cursor.report(ROUTE, "the weights of all destinations add up to 0");
    }
}

pub(super) fn destination(destination: &Destination, code: Code, cursor: &mut Cursor<'_>) {
    let Destination { host: name, subset, port: selector } = destination;
    let valid = if name == "*" { Err("`*` is not a destination".to_owned()) } else { host::wildcard_domain(name) };
    if let Err(message) = valid {
        cursor.report_at("host", code, message);
    }
    if !subset.is_empty() && !host::is_label(subset) {
        cursor.report_at("subset", code, format!("`{subset}` is not a subset name"));
    }
    if let Some(selector) = selector {
        cursor.within("port", |cursor| port("number", selector.number, code, cursor));
    }
}

fn checked_duration(field: &str, value: Option<crate::duration::Duration>, cursor: &mut Cursor<'_>) {
    duration(field, value, ROUTE, cursor);
}
