//! ServiceEntries as services of the registry: hosts, ports, addresses allocated where none is written, merging.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use palisade_crds::istio::{Location, Resolution as Written, ServiceEntry, ServicePort};
use palisade_model::listener::Protocol;

use crate::{
    hosts::Visibility,
    inputs::{
        Inputs,
        addresses::{Addresses, Range},
        core::TargetPort,
    },
    object::{self, Head, Object, ObjectKey},
    resolve::{
        locality::TrafficDistribution,
        protocol::{self, Named},
        services::{Registered, RegisteredPort, Registry, Resolution},
    },
    settings::MeshSettings,
};

/// Label by which a ServiceEntry refuses an address.
const AUTO_ALLOCATE_LABEL: &str = "networking.istio.io/enable-autoallocate-ip";

/// All hosts of all ServiceEntries as services, oldest first. Those of one host in one namespace that are resolved alike are one
/// service: its ports are those of all, the oldest of each number.
pub(super) fn registered(inputs: &Inputs, settings: &MeshSettings) -> Vec<Registered> {
    let mut all: Vec<Registered> = Vec::new();
    let mut same: BTreeMap<(Arc<str>, Arc<str>), Vec<usize>> = BTreeMap::new();
    let mut allocator = Allocator::new(inputs);
    for entry in object::by_age(inputs.service_entries.values()) {
        // The same host twice in one document is one host.
        let hosts: BTreeSet<String> = entry.spec.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        for host in hosts {
            let Some(service) = service_of(entry, &host, settings, &mut allocator) else { continue };
            let key = (Arc::clone(&service.host), Arc::clone(&service.key.namespace));
            let positions = same.entry(key).or_default();
            let older = positions.iter().copied().find(|position| {
                all.get(*position).is_some_and(|older| {
                    older.resolution == service.resolution && older.is_external == service.is_external
                })
            });
            match older.and_then(|position| all.get_mut(position)) {
                Some(older) => merge(older, service),
                None => {
                    positions.push(all.len());
                    all.push(service);
                }
            }
        }
    }
    all
}

fn merge(older: &mut Registered, younger: Registered) {
    for port in younger.ports {
        if older.port(port.number).is_none() {
            older.ports.push(port);
        }
    }
    // An allocated address is the older's; one that is written stands for itself.
    if !younger.is_unaddressed {
        if older.is_unaddressed {
            older.is_unaddressed = false;
            older.addresses.clear();
        }
        older.addresses.extend(younger.addresses);
        older.networks.extend(younger.networks);
        older.addresses.dedup();
    }
    for name in younger.subject_alt_names {
        if !older.subject_alt_names.contains(&name) {
            older.subject_alt_names.push(name);
        }
    }
}

fn service_of(
    entry: &Object<ServiceEntry>,
    host: &str,
    settings: &MeshSettings,
    allocator: &mut Allocator,
) -> Option<Registered> {
    let ServiceEntry {
        hosts: _,
        addresses,
        ports,
        location,
        resolution,
        endpoints: _,
        workload_selector: _,
        export_to,
        subject_alt_names,
    } = &entry.spec;
    // What is no host pattern was refused by validation and names nothing.
    let pattern: palisade_model::host::HostPattern = host.parse().ok()?;
    let resolution = match resolution {
        Written::None => Resolution::OriginalDestination,
        Written::Static => Resolution::Listed,
        Written::Dns => Resolution::Dns,
        Written::DnsRoundRobin => Resolution::DnsRoundRobin,
        Written::DynamicDns => Resolution::DynamicDns,
    };
    let key = &entry.head.key;
    let mut written: Vec<IpAddr> = Vec::new();
    let mut networks = Vec::new();
    for address in addresses {
        match (address.parse::<IpAddr>(), address.parse::<IpNet>()) {
            (Ok(ip), _) => written.push(ip),
            (_, Ok(network)) if network.prefix_len() == network.max_prefix_len() => written.push(network.addr()),
            (_, Ok(network)) => networks.push(network.trunc()),
            // Refused by validation: it names no address.
            _ => {}
        }
    }
    let is_unaddressed = written.is_empty() && networks.is_empty();
    if is_unaddressed && !pattern.is_wildcard() && takes_addresses(entry) {
        written = allocator.assign(&entry.head, host);
    }
    Some(Registered {
        host: host.into(),
        pattern,
        registry: Registry::Entries,
        resolution,
        is_external: *location == Location::MeshExternal,
        is_unaddressed,
        subject_alt_names: subject_alt_names.clone(),
        created: entry.head.created,
        key: key.clone(),
        origin: entry.head.origin(),
        visibility: Visibility::parse(export_to, &settings.default_service_export_to, &key.namespace),
        addresses: written,
        networks,
        is_headless: false,
        ports: ports.iter().filter_map(port_of).collect(),
        datagram_ports: Vec::new(),
        selector: BTreeMap::new(),
        publish_not_ready: false,
        is_node_local: false,
        traffic_distribution: entry
            .head
            .annotations
            .get("networking.istio.io/traffic-distribution")
            .and_then(|text| TrafficDistribution::parse(text)),
        aliases: Vec::new(),
    })
}

/// Whether Istio's controller gives hosts of a ServiceEntry addresses.
fn takes_addresses(entry: &Object<ServiceEntry>) -> bool {
    let is_refused =
        entry.head.labels.get(AUTO_ALLOCATE_LABEL).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    entry.spec.addresses.is_empty() && entry.spec.resolution != Written::None && !is_refused
}

/// Whether Istio's controller leaves a host of a ServiceEntry the addresses that it has been given.
pub(crate) fn keeps_addresses(entry: &Object<ServiceEntry>, host: &str) -> bool {
    let is_named = entry.spec.hosts.iter().any(|own| own.eq_ignore_ascii_case(host));
    let has_own = !host.starts_with('*') || entry.spec.resolution == Written::DynamicDns;
    takes_addresses(entry) && is_named && has_own
}

/// A port; `None` for what is not TCP.
pub(super) fn port_of(written: &ServicePort) -> Option<RegisteredPort> {
    let ServicePort { number, protocol, name, target_port } = written;
    let number = u16::try_from(*number).ok()?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "http_proxy" => Protocol::Http,
        name => match protocol::of_name(name) {
            Some(Named::Carried(protocol)) => protocol,
            Some(Named::NotCarried) => return None,
            None => Protocol::Auto,
        },
    };
    let target = target_port.and_then(|target| u16::try_from(target).ok()).filter(|target| *target > 0);
    Some(RegisteredPort {
        number,
        name: name.clone(),
        target: TargetPort::Number(target.unwrap_or(number)),
        is_target_written: target.is_some(),
        protocol,
    })
}

/// Addresses for hosts that have none: those that they were given before, as status says (Istio's controller writes it in the same
/// way), else a function of namespace, name and host, the oldest document first, so that a new one never takes an address from
/// another.
struct Allocator {
    addresses: Addresses,
    /// What hosts were given, by document and host.
    given: BTreeMap<(ObjectKey, String), Vec<IpAddr>>,
}

impl Allocator {
    fn new(inputs: &Inputs) -> Self {
        let mut addresses = Addresses::default();
        let written = inputs.service_entries.values().flat_map(|entry| &entry.spec.addresses);
        for address in written.filter_map(|text| text.parse().ok()) {
            addresses.reserve(address);
        }
        let mut given: BTreeMap<(ObjectKey, String), Vec<IpAddr>> = BTreeMap::new();
        for entry in object::by_age(inputs.service_entries.values()) {
            for (host, address) in entry.head.allocated.iter().flat_map(|all| all.iter()) {
                // Of two that say the same address the older has it.
                if addresses.take(*address) {
                    given.entry((entry.head.key.clone(), host.clone())).or_default().push(*address);
                }
            }
        }
        Self { addresses, given }
    }

    fn assign(&mut self, head: &Head, host: &str) -> Vec<IpAddr> {
        let mut assigned = self.given.remove(&(head.key.clone(), host.to_owned())).unwrap_or_default();
        let key = ObjectKey::new(Arc::clone(&head.key.namespace), format!("{}/{host}", head.key.name));
        for (range, is_v4) in [(Range::Entries, true), (Range::Entries6, false)] {
            if !assigned.iter().any(|address| address.is_ipv4() == is_v4) {
                assigned.extend(self.addresses.assign(range, &key));
            }
        }
        assigned.sort();
        assigned
    }
}
