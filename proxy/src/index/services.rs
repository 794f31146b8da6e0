//! Outbound destinations by host and address, and what is known not to exist.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ahash::AHashMap;
use palisade_model::{
    listener::Protocol,
    membership::{self, Class, Membership},
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
    by_host: AHashMap<Arc<str>, Held>,
    by_address: AHashMap<IpAddr, AtAddress>,
    lookups: AHashMap<Query, Answer>,
    /// Of each class of names and addresses that nothing names exactly, one that was asked about: the answer is that of all.
    classes: AHashMap<Class, Query>,
    names: AHashMap<Arc<str>, DnsName>,
    /// Services that take bytes at addresses that no service has, by port.
    any_address: AHashMap<u16, Arc<Service>>,
    filter: Option<Filter>,
}

/// A service, and whether traffic has needed it since that was asked last.
#[derive(Debug, Clone)]
struct Held {
    service: Arc<Service>,
    used: Used,
}

/// The services at an address, the one that counts first.
#[derive(Debug, Default)]
struct AtAddress {
    services: Vec<Arc<Service>>,
    used: Vec<Used>,
}

/// What control said about a query.
#[derive(Debug)]
struct Answer {
    services: Arc<[Arc<str>]>,
    class: Option<Class>,
}

/// Set by whoever finds a service; one for all configurations that hold it.
#[derive(Debug, Clone, Default)]
struct Used(Arc<AtomicBool>);

/// What says by itself that a name or address does not exist in the mesh.
#[derive(Debug)]
struct Filter {
    entry: Arc<Entry>,
    namespace: Arc<str>,
    domain: Arc<str>,
}

impl Used {
    fn set(&self) {
        // Most often it is set already; then no other core's cache is disturbed.
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Held {
    fn found(&self) -> &Arc<Service> {
        self.used.set();
        &self.service
    }
}

impl AtAddress {
    fn push(&mut self, Held { service, used }: &Held) {
        self.services.push(Arc::clone(service));
        self.used.push(used.clone());
    }

    fn found(&self) -> &[Arc<Service>] {
        self.used.iter().for_each(Used::set);
        &self.services
    }
}

impl Filter {
    fn membership(&self) -> Option<&Membership> {
        match self.entry.resource() {
            Resource::Membership(membership) => Some(membership),
            _ => None,
        }
    }

    fn class(&self, query: &Query) -> Option<Class> {
        self.membership()?.class(query, &self.namespace, &self.domain)
    }
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
            let held = previous.and_then(|p| p.by_host.get(&service.host));
            let used = held.map(|held| held.used.clone()).unwrap_or_default();
            let held = held.map(|held| &held.service).filter(|held| ***held == *service);
            let service = held.map_or_else(|| Arc::new(service.clone()), Arc::clone);
            let held = Held { service: Arc::clone(&service), used };
            for name in service.names.iter() {
                table.names.insert(Arc::clone(&name.name), name.clone());
            }
            for port in service.ports.iter().filter(|port| port.takes_any_address && port.protocol != Protocol::Tls) {
                table.any_address.insert(port.port, Arc::clone(&service));
            }
            for address in service.addresses.iter() {
                table.by_address.entry(*address).or_default().push(&held);
            }
            table.by_host.insert(Arc::clone(&service.host), held);
        }
        // Which class a query is of follows from the filter alone.
        let same_filter = previous.filter(|previous| match (&previous.filter, &table.filter) {
            (Some(old), Some(new)) => {
                old.entry.hash() == new.entry.hash() && old.namespace == new.namespace && old.domain == new.domain
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        });
        for entry in snapshot.of_kind(ResourceKind::Lookup) {
            let Resource::Lookup(lookup) = entry.resource() else { continue };
            let class = match same_filter.and_then(|previous| previous.lookups.get(&lookup.query)) {
                Some(answer) => answer.class.clone(),
                None => table.filter.as_ref().and_then(|filter| filter.class(&lookup.query)),
            };
            if let Some(class) = &class {
                table.classes.entry(class.clone()).or_insert_with(|| lookup.query.clone());
            }
            let answer = Answer { services: Arc::clone(&lookup.services), class };
            table.lookups.insert(lookup.query.clone(), answer);
            if let Query::Address(address) = &lookup.query {
                // The answer names all of them, the one that counts first.
                let at = table.at_address(&lookup.services);
                table.by_address.insert(*address, at);
            }
        }
        table.by_address.retain(|_, at| !at.services.is_empty());
        table
    }

    fn at_address(&self, hosts: &[Arc<str>]) -> AtAddress {
        let mut at = AtAddress::default();
        hosts.iter().filter_map(|host| self.by_host.get(host)).for_each(|held| at.push(held));
        at
    }

    /// What control said about a query, or must say: that is what it said about another one that only the same patterns or
    /// networks take, and nothing names exactly.
    fn answer(&self, query: &Query) -> Option<&Answer> {
        self.lookups.get(query).or_else(|| {
            let class = self.filter.as_ref().filter(|_| !self.classes.is_empty())?.class(query)?;
            self.lookups.get(self.classes.get(&class)?)
        })
    }

    /// The service of a host name (lower-case, no port, no trailing dot).
    pub fn by_host(&self, host: &str) -> Known<&Arc<Service>> {
        if let Some(held) = self.by_host.get(host) {
            return Known::Present(held.found());
        }
        let query = Query::Host(host.into());
        match self.answer(&query) {
            Some(answer) => match answer.services.first().and_then(|host| self.by_host.get(host)) {
                Some(held) => Known::Present(held.found()),
                None => Known::Absent,
            },
            None => self.unasked(&query),
        }
    }

    /// The services at an address: by their virtual addresses, and those whose endpoints are addressed directly.
    pub fn by_address(&self, address: IpAddr) -> Known<&[Arc<Service>]> {
        if let Some(at) = self.by_address.get(&address) {
            return Known::Present(at.found());
        }
        let query = Query::Address(address);
        match self.answer(&query) {
            Some(Answer { services, class: Some(class) }) if !services.is_empty() => {
                // Kept under the address that was asked about.
                match self.classes.get(class) {
                    Some(Query::Address(asked)) if let Some(at) = self.by_address.get(asked) => {
                        Known::Present(at.found())
                    }
                    Some(_) | None => Known::Absent,
                }
            }
            Some(_) => Known::Absent,
            None => self.unasked(&query),
        }
    }

    /// Queries whose services traffic has needed since this was asked last.
    pub fn take_used(&self) -> Vec<Query> {
        let is_used = |host: &Arc<str>| self.by_host.get(host).is_some_and(|held| held.used.0.load(Ordering::Relaxed));
        let used = self.lookups.iter().filter(|(_, answer)| answer.services.iter().any(is_used));
        let used = used.map(|(query, _)| query.clone()).collect();
        self.by_host.values().for_each(|held| held.used.0.store(false, Ordering::Relaxed));
        used
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
        let query = Query::Host(name.into());
        match self.answer(&query) {
            // A wildcard's addresses are those of every name below it.
            Some(answer) if let Some(found) = self.wildcard(&answer.services) => Known::Present(found),
            // A service that DNS does not list under this name is no answer to this question.
            Some(_) => Known::Absent,
            None => self.unasked(&query),
        }
    }

    /// What nobody asked about: known not to exist where the mesh has no such thing at all, else not yet known.
    fn unasked<T>(&self, query: &Query) -> Known<T> {
        let is_absent = self.filter.as_ref().is_some_and(|filter| {
            filter.membership().is_some_and(|m| !m.may_have(query, &filter.namespace, &filter.domain))
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
        self.by_host.values().map(|held| &held.service)
    }
}
