//! Outbound destinations by host and address, and what is known not to exist.

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;
use palisade_model::{
    listener::Protocol,
    membership,
    resource::{Entry, Resource, ResourceKind},
    service::{DnsName, Query, Service, ServicePort},
    settings::ProxySettings,
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

impl<T> Known<T> {
    /// The same about something made from it.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Known<U> {
        match self {
            Self::Present(value) => Known::Present(make(value)),
            Self::Absent => Known::Absent,
            Self::Unknown => Known::Unknown,
        }
    }
}

/// The services that a proxy knows.
#[derive(Debug, Default)]
pub struct ServiceTable {
    by_host: AHashMap<Arc<str>, Arc<Service>>,
    by_address: AHashMap<IpAddr, Vec<Arc<Service>>>,
    lookups: AHashMap<Query, Arc<[Arc<str>]>>,
    names: AHashMap<Arc<str>, DnsName>,
    /// Services that take bytes at addresses that no service has, by port.
    any_address: AHashMap<u16, Arc<Service>>,
    filter: Option<Filter>,
}

/// What says by itself that a name or address does not exist in the mesh.
#[derive(Debug)]
struct Filter {
    entry: Arc<Entry>,
    namespace: Arc<str>,
    domain: Arc<str>,
}

impl ServiceTable {
    pub(super) fn build(snapshot: &Snapshot, settings: &ProxySettings, previous: Option<&Self>) -> Self {
        let filter = snapshot.get(ResourceKind::Membership, membership::KEY).map(|entry| Filter {
            entry: Arc::clone(entry),
            namespace: Arc::clone(&settings.workload.namespace),
            domain: Arc::clone(&settings.cluster_domain),
        });
        let mut table = Self { filter, ..Self::default() };
        for entry in snapshot.of_kind(ResourceKind::Service) {
            let Resource::Service(service) = entry.resource() else { continue };
            let held = previous.and_then(|p| p.by_host.get(&service.host)).filter(|held| ***held == *service);
            let service = held.map_or_else(|| Arc::new(service.clone()), Arc::clone);
            for name in service.names.iter() {
                table.names.insert(Arc::clone(&name.name), name.clone());
            }
            for port in service.ports.iter().filter(|port| port.takes_any_address && port.protocol != Protocol::Tls) {
                table.any_address.insert(port.port, Arc::clone(&service));
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
                // The answer names all of them, the one that counts first.
                let found = lookup.services.iter().filter_map(|host| table.by_host.get(host)).map(Arc::clone);
                table.by_address.insert(*address, found.collect());
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
            None => self.unasked(&Query::Host(host.into())),
        }
    }

    /// The services at an address: by their virtual addresses, and those whose endpoints are addressed directly.
    pub fn by_address(&self, address: IpAddr) -> Known<&[Arc<Service>]> {
        match self.by_address.get(&address) {
            Some(services) => Known::Present(services),
            None if self.lookups.contains_key(&Query::Address(address)) => Known::Absent,
            None => self.unasked(&Query::Address(address)),
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
            // A wildcard's addresses are those of every name below it.
            Some(services) if let Some(found) = self.wildcard(services) => Known::Present(found),
            // A service that DNS does not list under this name is no answer to this question.
            Some(_) => Known::Absent,
            None => self.unasked(&Query::Host(name.into())),
        }
    }

    /// What nobody asked about: known not to exist where the mesh has no such thing at all, else not yet known.
    fn unasked<T>(&self, query: &Query) -> Known<T> {
        let is_absent =
            self.filter.as_ref().is_some_and(|Filter { entry, namespace, domain }| match entry.resource() {
                Resource::Membership(membership) => !membership.may_have(query, namespace, domain),
                _ => false,
            });
        if is_absent { Known::Absent } else { Known::Unknown }
    }

    fn wildcard(&self, services: &[Arc<str>]) -> Option<&DnsName> {
        services.iter().filter(|host| host.starts_with("*.")).find_map(|host| self.names.get(host))
    }

    /// The service that takes connections to a port at addresses that no service has: with a server name the one that the name
    /// means, else the one that takes all bytes there.
    pub fn anywhere(&self, port: u16, sni: Option<&str>) -> Known<(&Arc<Service>, &ServicePort)> {
        let at_port = |service: &'_ Arc<Service>| -> Option<usize> {
            service.ports.iter().position(|own| own.port == port && own.takes_any_address)
        };
        if let Some(sni) = sni {
            match self.by_host(sni) {
                Known::Unknown => return Known::Unknown,
                Known::Present(service) => {
                    if let Some(own) = at_port(service).and_then(|at| service.ports.get(at)) {
                        return Known::Present((service, own));
                    }
                }
                Known::Absent => {}
            }
        }
        let taking = self.any_address.get(&port);
        let found = taking.and_then(|service| Some((service, service.ports.get(at_port(service)?)?)));
        found.map_or(Known::Absent, Known::Present)
    }

    /// All services, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_host.values()
    }
}
