//! Outbound destinations by host and address, and what is known not to exist.

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;
use palisade_model::{
    resource::{Resource, ResourceKind},
    service::{DnsName, Query, Service, ServicePort},
    snapshot::Snapshot,
};

/// What a proxy knows of a name or address (architecture rule 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<T> {
    /// It is there.
    Present(T),
    /// It does not exist.
    Absent,
    /// Nobody asked yet.
    Unknown,
}

/// The services that a proxy knows.
#[derive(Debug, Default)]
pub struct ServiceTable {
    by_host: AHashMap<Arc<str>, Arc<Service>>,
    by_address: AHashMap<IpAddr, Vec<Arc<Service>>>,
    lookups: AHashMap<Query, Arc<[Arc<str>]>>,
    names: AHashMap<Arc<str>, DnsName>,
}

impl ServiceTable {
    pub(super) fn build(snapshot: &Snapshot, previous: Option<&Self>) -> Self {
        let mut table = Self::default();
        for entry in snapshot.of_kind(ResourceKind::Service) {
            let Resource::Service(service) = entry.resource() else { continue };
            let held = previous.and_then(|p| p.by_host.get(&service.host)).filter(|held| ***held == *service);
            let service = held.map_or_else(|| Arc::new(service.clone()), Arc::clone);
            for name in service.names.iter() {
                table.names.insert(Arc::clone(&name.name), name.clone());
            }
            for address in service.addresses.iter() {
                table.by_address.entry(*address).or_default().push(Arc::clone(&service));
            }
            table.by_host.insert(Arc::clone(&service.host), service);
        }
        for entry in snapshot.of_kind(ResourceKind::Lookup) {
            let Resource::Lookup(lookup) = entry.resource() else { continue };
            table.lookups.insert(lookup.query.clone(), Arc::clone(&lookup.services));
            if let Query::Address(address) = &lookup.query {
                let listed = table.by_address.entry(*address).or_default();
                for host in lookup.services.iter() {
                    if let Some(service) = table.by_host.get(host)
                        && !listed.iter().any(|held| held.host == service.host)
                    {
                        listed.push(Arc::clone(service));
                    }
                }
            }
        }
        table.by_address.retain(|_, services| !services.is_empty());
        table
    }

    /// The service of a host name (lower-case, no port, no trailing dot).
    pub fn by_host(&self, host: &str) -> Known<&Arc<Service>> {
        if let Some(service) = self.by_host.get(host) {
            return Known::Present(service);
        }
        match self.lookups.get(&Query::Host(host.into())) {
            Some(services) => match services.first().and_then(|host| self.by_host.get(host)) {
                Some(service) => Known::Present(service),
                None => Known::Absent,
            },
            None => Known::Unknown,
        }
    }

    /// The services at an address: by their virtual addresses, and those whose endpoints are addressed directly.
    pub fn by_address(&self, address: IpAddr) -> Known<&[Arc<Service>]> {
        match self.by_address.get(&address) {
            Some(services) => Known::Present(services),
            None if self.lookups.contains_key(&Query::Address(address)) => Known::Absent,
            None => Known::Unknown,
        }
    }

    /// The service and port that an address and port name.
    pub fn port_at(&self, address: IpAddr, port: u16) -> Option<(&Arc<Service>, &ServicePort)> {
        let Known::Present(services) = self.by_address(address) else { return None };
        services.iter().find_map(|service| Some((service, service.ports.iter().find(|p| p.port == port)?)))
    }

    /// The addresses of a DNS name (fully qualified, lower-case, no trailing dot).
    pub fn dns(&self, name: &str) -> Known<&DnsName> {
        if let Some(found) = self.names.get(name) {
            return Known::Present(found);
        }
        match self.lookups.get(&Query::Host(name.into())) {
            // A service that DNS does not list under this name is no answer to this question.
            Some(_) => Known::Absent,
            None => Known::Unknown,
        }
    }

    /// All services, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_host.values()
    }
}
