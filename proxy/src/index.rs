//! The runtime index: everything that a proxy looks up while serving, built from one snapshot, immutable, swapped as one.
//!
//! It is a tree of shared parts. A part whose sources did not change is taken over from the previous index, so that a
//! small change costs little (architecture rule 9). A request pins one index from its first byte to its log line.

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;
use palisade_model::{
    listener::{InboundPort, Listener},
    resource::{Entry, Resource, ResourceKey, ResourceKind},
    secret::Secret,
    service::L4Route,
    settings::ProxySettings,
    snapshot::Snapshot,
};

mod access;
mod clusters;
mod hosts;
mod live;
mod matching;
mod policies;
mod routes;
mod rules;
mod services;

pub use access::{AccessTable, IndexedCheck};
pub use clusters::{Available, Cause, Group, IndexedCluster, IndexedEndpoint, Outcome, hashing};
pub(crate) use clusters::{below, host_of};
pub use hosts::{HostTable, IndexedHost};
pub use live::{
    Breaker, Clock, ClusterLive, Demand, EndpointLive, InFlight, LiveState, Retrying, Running, Slot, Waiting,
};
pub use matching::{CompiledCors, MatchFacts};
pub use policies::PolicyTable;
pub use routes::{IndexedEntry, RouteIndex};
pub use rules::CompiledRule;
pub use services::{Known, ServiceTable};

/// Everything that a proxy looks up, made from one snapshot.
#[derive(Debug)]
pub struct RuntimeIndex {
    snapshot: Arc<Snapshot>,
    settings: Arc<ProxySettings>,
    listeners: Vec<Arc<Listener>>,
    inbound: AHashMap<u16, Arc<InboundPort>>,
    inbound_others: Option<Arc<InboundPort>>,
    rules: AHashMap<Arc<str>, Arc<CompiledRule>>,
    hosts: AHashMap<Arc<str>, Arc<IndexedHost>>,
    tables: AHashMap<Arc<str>, Arc<HostTable>>,
    l4_routes: AHashMap<Arc<str>, Arc<L4Route>>,
    clusters: AHashMap<Arc<str>, Arc<IndexedCluster>>,
    services: ServiceTable,
    policies: PolicyTable,
    access: AccessTable,
    secrets: AHashMap<Arc<str>, Arc<Secret>>,
    live: Arc<LiveState>,
}

/// A snapshot cannot be served. Nothing has changed then; the proxy stays on what it had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} cannot be served: {message}")]
pub struct BuildError {
    /// The resource at fault.
    pub key: ResourceKey,
    /// What is wrong with it.
    pub message: String,
}

impl RuntimeIndex {
    /// Builds the index of a snapshot, taking over from `previous` what did not change. Pure but for the live state, which
    /// both indexes then share.
    ///
    /// # Errors
    /// When a resource holds what cannot be served (a malformed expression).
    pub fn build(snapshot: Arc<Snapshot>, previous: Option<&Self>) -> Result<Self, BuildError> {
        let live = previous.map_or_else(Arc::default, |held| Arc::clone(&held.live));
        Self::build_with(snapshot, previous, live)
    }

    /// [`RuntimeIndex::build`] over live state of the caller's.
    ///
    /// # Errors
    /// As [`RuntimeIndex::build`].
    pub fn build_with(
        snapshot: Arc<Snapshot>,
        previous: Option<&Self>,
        live: Arc<LiveState>,
    ) -> Result<Self, BuildError> {
        let fault = |key: &ResourceKey, message: String| BuildError { key: key.clone(), message };
        let settings = snapshot
            .settings()
            .map_err(|error| fault(&ResourceKey::new(ResourceKind::Settings, "proxy"), error.to_string()))?;
        let settings = match previous.filter(|held| *held.settings == *settings) {
            Some(held) => Arc::clone(&held.settings),
            None => Arc::new(settings.clone()),
        };
        let mut rules = AHashMap::new();
        for entry in snapshot.of_kind(ResourceKind::Route) {
            let name = &entry.key().name;
            let held = previous.and_then(|p| p.rules.get(name)).filter(|held| held.entry().hash() == entry.hash());
            let rule = match held {
                Some(held) => Some(Arc::clone(held)),
                None => CompiledRule::compile(entry).map_err(|m| fault(entry.key(), m))?.map(Arc::new),
            };
            if let Some(rule) = rule {
                rules.insert(Arc::clone(name), rule);
            }
        }
        let mut hosts = AHashMap::new();
        let mut grouped: AHashMap<Arc<str>, Vec<Arc<IndexedHost>>> = AHashMap::new();
        for entry in snapshot.of_kind(ResourceKind::VirtualHost) {
            let name = &entry.key().name;
            let held = previous.and_then(|p| p.hosts.get(name));
            let host = IndexedHost::build(entry, &rules, held).map_err(|m| fault(entry.key(), m))?;
            if let Some(host) = host {
                grouped.entry(Arc::clone(&host.host().table)).or_default().push(Arc::clone(&host));
                hosts.insert(Arc::clone(name), host);
            }
        }
        let tables = grouped
            .into_iter()
            .map(|(name, members)| {
                let held = previous.and_then(|p| p.tables.get(&name)).filter(|held| held.has_members(&members));
                let table = held.map_or_else(|| Arc::new(HostTable::build(members)), Arc::clone);
                (name, table)
            })
            .collect();
        let mut clusters = AHashMap::new();
        for entry in snapshot.of_kind(ResourceKind::Cluster) {
            let name = &entry.key().name;
            let held = previous.and_then(|p| p.clusters.get(name));
            let endpoints = |key: &str| snapshot.get(ResourceKind::Endpoints, key);
            if let Some(cluster) = IndexedCluster::build(entry, endpoints, held, &live) {
                clusters.insert(Arc::clone(name), cluster);
            }
        }
        live.retain(|name| clusters.contains_key(name));
        let mut inbound: AHashMap<_, _> = AHashMap::new();
        let mut inbound_others = None;
        for entry in snapshot.of_kind(ResourceKind::Inbound) {
            let Resource::Inbound(port) = entry.resource() else { continue };
            match port.port {
                Some(number) => {
                    inbound.insert(number, Arc::new(port.clone()));
                }
                None => inbound_others = Some(Arc::new(port.clone())),
            }
        }
        let mut listeners: Vec<Arc<Listener>> = collect(&snapshot, ResourceKind::Listener, |resource| match resource {
            Resource::Listener(listener) => Some(Arc::new(listener.clone())),
            _ => None,
        });
        // A listener for one address comes before one for all addresses of the same port.
        listeners.sort_by(|a, b| a.port.cmp(&b.port).then_with(|| b.address.is_some().cmp(&a.address.is_some())));
        let l4_routes = collect(&snapshot, ResourceKind::L4Route, |resource| match resource {
            Resource::L4Route(route) => Some((Arc::clone(&route.key), Arc::new(route.clone()))),
            _ => None,
        });
        let secrets = collect(&snapshot, ResourceKind::Secret, |resource| match resource {
            Resource::Secret(secret) => Some((Arc::clone(&secret.key), Arc::new(secret.clone()))),
            _ => None,
        });
        let services = ServiceTable::build(&snapshot, &settings, previous.map(|p| &p.services));
        let policies = PolicyTable::build(&snapshot, previous.map(|p| &p.policies));
        let access = AccessTable::build(&snapshot, &policies, previous.map(|p| &p.access));
        Ok(Self {
            snapshot,
            settings,
            listeners,
            inbound,
            inbound_others,
            rules,
            hosts,
            tables,
            l4_routes,
            clusters,
            services,
            policies,
            access,
            secrets,
            live,
        })
    }

    /// The snapshot that it was built from.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The proxy's settings.
    pub fn settings(&self) -> &Arc<ProxySettings> {
        &self.settings
    }

    /// A gateway's listeners, by port, those for one address first.
    pub fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    /// The listener that an address and port belong to.
    pub fn listener(&self, address: IpAddr, port: u16) -> Option<&Arc<Listener>> {
        self.listener_of(address, port, false)
    }

    /// The listener for datagrams that an address and port belong to.
    pub fn datagram_listener(&self, address: IpAddr, port: u16) -> Option<&Arc<Listener>> {
        self.listener_of(address, port, true)
    }

    fn listener_of(&self, address: IpAddr, port: u16, is_udp: bool) -> Option<&Arc<Listener>> {
        let is_meant =
            |l: &&Arc<Listener>| l.is_udp == is_udp && l.port == port && l.address.is_none_or(|bound| bound == address);
        self.listeners.iter().find(is_meant)
    }

    /// The inbound port that takes connections to `port`.
    pub fn inbound(&self, port: u16) -> Option<&Arc<InboundPort>> {
        self.inbound.get(&port).or(self.inbound_others.as_ref())
    }

    /// A route table; `None` when it has no virtual host.
    pub fn table(&self, name: &str) -> Option<&Arc<HostTable>> {
        self.tables.get(name)
    }

    /// An L4 route.
    pub fn l4_route(&self, key: &str) -> Option<&Arc<L4Route>> {
        self.l4_routes.get(key)
    }

    /// A cluster.
    pub fn cluster(&self, name: &str) -> Option<&Arc<IndexedCluster>> {
        self.clusters.get(name)
    }

    /// All clusters, in no order.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<IndexedCluster>> {
        self.clusters.values()
    }

    /// Outbound destinations.
    pub fn services(&self) -> &ServiceTable {
        &self.services
    }

    /// Policy engines.
    pub fn policies(&self) -> &PolicyTable {
        &self.policies
    }

    /// Token rules and external checks.
    pub fn access(&self) -> &AccessTable {
        &self.access
    }

    /// A certificate.
    pub fn secret(&self, key: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(key)
    }
}

fn collect<T, C: FromIterator<T>>(snapshot: &Snapshot, kind: ResourceKind, f: impl Fn(&Resource) -> Option<T>) -> C {
    snapshot.of_kind(kind).filter_map(|entry: &Arc<Entry>| f(entry.resource())).collect()
}

#[cfg(test)]
mod tests;
