//! ServiceEntry and WorkloadEntry.

use std::collections::BTreeSet;

use super::{Protocol, export_to, host, labels};
use crate::codes::Code;
use crate::istio::{Location, Resolution, ServiceEntry, WorkloadEntry};
use crate::object::Meta;
use crate::schema::Cursor;

const CODE: Code = Code::ServiceEntryRule;
const WARNING: Code = Code::ServiceEntryWarning;

/// A WorkloadEntry by itself: only a ServiceEntry knows whether its address may be a name.
pub(super) fn check_entry(entry: &WorkloadEntry, cursor: &mut Cursor<'_>) {
    workload(entry, None, true, cursor);
}

fn workload(entry: &WorkloadEntry, ports: Option<&BTreeSet<&str>>, may_be_name: bool, cursor: &mut Cursor<'_>) {
    let WorkloadEntry {
        address,
        ports: own_ports,
        labels: own_labels,
        network,
        locality: _,
        weight: _,
        service_account,
    } = entry;
    let address = address.as_deref().unwrap_or_default();
    let socket = address.strip_prefix("unix://");
    match socket {
        _ if address.is_empty() && network.as_deref().unwrap_or_default().is_empty() => {
            cursor.report_at("address", CODE, "an address is required")
        }
        _ if address.is_empty() => {
            cursor.report_at("address", WARNING, "without an address only the network's gateway can be reached")
        }
        Some(path) if !host::is_unix_address(path) => {
            cursor.report_at("address", CODE, format!("`{path}` is not the absolute path of a socket"))
        }
        None if !host::is_ip(address) && !may_be_name => {
            cursor.report_at("address", CODE, format!("`{address}` is not an IP address"))
        }
        None if !host::is_ip(address) && host::fqdn(address).is_err() => {
            cursor.report_at("address", CODE, format!("`{address}` is neither an IP address nor a host name"));
        }
        _ => {}
    }
    account(service_account, cursor);
    named_ports(own_ports.keys().map(String::as_str), ports, cursor);
    labels("labels", own_labels, CODE, cursor);
    if socket.is_some() && ports.is_some_and(|ports| ports.len() != 1) {
        cursor.report_at("address", CODE, "an address on a unix socket needs a service with exactly one port");
    }
}

/// Istio takes any text.
fn account(name: &str, cursor: &mut Cursor<'_>) {
    if name.contains('/') || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("no certificate can prove the service account `{name}`: mesh TLS to it is refused");
        cursor.report_at("serviceAccount", WARNING, message);
    }
}

fn named_ports<'a>(names: impl Iterator<Item = &'a str>, known: Option<&BTreeSet<&str>>, cursor: &mut Cursor<'_>) {
    cursor.within("ports", |cursor| {
        for name in names {
            if known.is_some_and(|known| !known.contains(name)) {
                cursor.report_at(name, CODE, format!("the service has no port `{name}`"));
            }
        }
    });
}

pub(super) fn check(meta: &Meta, entry: &ServiceEntry, cursor: &mut Cursor<'_>) {
    if entry.workload_selector.as_ref().is_some_and(|selector| selector.labels.is_empty()) {
        cursor.report_at(
            "workloadSelector",
            Code::PolicyAttachment,
            "a selector without labels selects every workload of the namespace",
        );
    }
    check_hosts(entry, cursor);
    cursor.within("addresses", |cursor| {
        for (index, address) in entry.addresses.iter().enumerate().filter(|(_, address)| !host::is_subnet(address)) {
            cursor.report_at(index, CODE, format!("`{address}` is neither an address nor a CIDR"));
        }
    });
    cursor.within("ports", |cursor| {
        for (index, port) in entry.ports.iter().enumerate() {
            cursor.within(index, |cursor| {
                if !host::is_label(&port.name) {
                    cursor.report_at("name", CODE, format!("`{}` is not a port name", port.name));
                }
                if !port.protocol.is_empty() && Protocol::parse(&port.protocol).is_none() {
                    cursor.report_at("protocol", CODE, format!("`{}` is not a known protocol", port.protocol));
                }
            });
        }
    });
    check_resolution(meta, entry, cursor);
    export_to(&meta.namespace, &entry.export_to, true, CODE, cursor);
}

fn check_hosts(entry: &ServiceEntry, cursor: &mut Cursor<'_>) {
    cursor.within("hosts", |cursor| {
        for (index, name) in entry.hosts.iter().enumerate().filter(|(_, name)| *name != "*") {
            if let Err(message) = host::wildcard_domain(name) {
                cursor.report_at(index, CODE, message);
            } else if entry.resolution != Resolution::DynamicDns
                && let Err(message) = host::no_partial_wildcard(name)
            {
                cursor.report_at(index, WARNING, message);
            }
        }
    });
    let opaque = |protocol: &str| {
        Protocol::parse(protocol).is_none_or(|protocol| protocol != Protocol::Http && !protocol.is_tls())
    };
    if entry.resolution != Resolution::None
        && entry.hosts.len() > 1
        && entry.ports.iter().any(|port| opaque(&port.protocol))
    {
        cursor.report_at("hosts", CODE, "several hosts cannot be told apart on a port that is neither HTTP nor TLS");
    }
}

fn check_resolution(meta: &Meta, entry: &ServiceEntry, cursor: &mut Cursor<'_>) {
    let ports: BTreeSet<&str> = entry.ports.iter().map(|port| port.name.as_str()).collect();
    let endpoints = entry.endpoints.as_deref().unwrap_or_default();
    match entry.resolution {
        Resolution::None => {
            if entry.workload_selector.is_some() {
                cursor.report_at("workloadSelector", WARNING, "has no effect with resolution NONE");
            }
        }
        Resolution::Static => cursor.within("endpoints", |cursor| {
            for (index, endpoint) in endpoints.iter().enumerate() {
                cursor.within(index, |cursor| workload(endpoint, Some(&ports), false, cursor));
            }
        }),
        Resolution::Dns | Resolution::DnsRoundRobin => check_dns(entry, endpoints, &ports, cursor),
        Resolution::DynamicDns => check_dynamic(meta, entry, endpoints, cursor),
    }
}

fn check_dns(entry: &ServiceEntry, endpoints: &[WorkloadEntry], ports: &BTreeSet<&str>, cursor: &mut Cursor<'_>) {
    if endpoints.is_empty()
        && let Some((index, _)) = entry.hosts.iter().enumerate().find(|(_, name)| host::fqdn(name).is_err())
    {
        cursor.within("hosts", |cursor| {
            cursor.report_at(index, CODE, "without endpoints the hosts are resolved, so they must have no wildcard")
        });
    }
    cursor.within("endpoints", |cursor| {
        for (index, endpoint) in endpoints.iter().enumerate() {
            cursor.within(index, |cursor| {
                let address = endpoint.address.as_deref().unwrap_or_default();
                if !host::is_ip(address) && host::fqdn(address).is_err() {
                    cursor.report_at("address", CODE, format!("`{address}` is neither an IP address nor a host name"));
                }
                labels("labels", &endpoint.labels, CODE, cursor);
                account(&endpoint.service_account, cursor);
                named_ports(endpoint.ports.keys().map(String::as_str), Some(ports), cursor);
            });
        }
    });
    let has_tcp = entry.ports.iter().any(|port| Protocol::parse(&port.protocol).is_some_and(Protocol::is_tcp));
    if !entry.addresses.is_empty() && entry.hosts.len() > 1 && has_tcp {
        cursor.report_at("hosts", WARNING, "several hosts share the addresses on a TCP port");
    }
}

fn check_dynamic(meta: &Meta, entry: &ServiceEntry, endpoints: &[WorkloadEntry], cursor: &mut Cursor<'_>) {
    cursor.within("hosts", |cursor| {
        for (index, name) in entry.hosts.iter().enumerate().filter(|(_, name)| !name.starts_with('*')) {
            cursor.report_at(index, CODE, format!("`{name}`: resolution DYNAMIC_DNS needs a wildcard host"));
        }
    });
    for (field, is_written) in [("addresses", !entry.addresses.is_empty()), ("endpoints", !endpoints.is_empty())] {
        if is_written {
            cursor.report_at(field, CODE, format!("`{field}` cannot be set with resolution DYNAMIC_DNS"));
        }
    }
    cursor.within("ports", |cursor| {
        for (index, port) in entry.ports.iter().enumerate() {
            if !matches!(port.protocol.to_ascii_lowercase().as_str(), "http" | "http2" | "grpc" | "tls") {
                cursor.report_at(index, CODE, "resolution DYNAMIC_DNS serves HTTP, HTTP2, GRPC and TLS only");
            }
        }
    });
    let uses_waypoint = meta
        .labels
        .get("istio.io/use-waypoint")
        .is_some_and(|name| !name.is_empty() && !name.eq_ignore_ascii_case("none"));
    if entry.location == Location::MeshInternal && uses_waypoint {
        cursor.report_at("location", CODE, "MESH_INTERNAL with resolution DYNAMIC_DNS cannot use a waypoint");
    }
}
