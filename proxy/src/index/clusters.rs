//! Clusters with the endpoints that their subset selects, attached to their live state.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use palisade_model::{
    cluster::{Cluster, Discovery, LoadBalancer},
    endpoint::{Address, Endpoint, EndpointHealth, Endpoints, PeerProxy},
    hash::ContentHash,
    identity::SpiffeId,
    resource::{Entry, Resource},
};

mod ejection;
pub mod hashing;
mod levels;

pub use ejection::{Cause, Outcome};
pub(crate) use levels::below;
pub use levels::{Available, Group};

use super::live::{ClusterLive, EndpointLive, LiveState};
use crate::transport::ConnectionOptions;
use levels::Level;

/// A cluster, ready to pick endpoints from.
#[derive(Debug)]
pub struct IndexedCluster {
    source: ContentHash,
    endpoints_source: Option<ContentHash>,
    cluster: Cluster,
    endpoints: Box<[IndexedEndpoint]>,
    levels: Box<[Level]>,
    /// What takes traffic now: made anew when an endpoint is ejected or comes back, which is rare.
    available: ArcSwap<Available>,
    /// Until when some endpoint warms up, in milliseconds of the clock; 0 = none does.
    warm_at: u64,
    identities: Arc<[SpiffeId]>,
    sans: Arc<[Arc<str>]>,
    connection: Option<Arc<ConnectionOptions>>,
    host: Option<Arc<str>>,
    live: Arc<ClusterLive>,
}

/// The host in a cluster's name.
pub(crate) fn host_of(cluster: &str) -> Option<&str> {
    cluster.splitn(4, '|').nth(3).filter(|host| !host.is_empty())
}

/// An endpoint with its live state.
#[derive(Debug, Clone)]
pub struct IndexedEndpoint {
    /// The endpoint as the control plane sent it.
    pub endpoint: Arc<Endpoint>,
    /// Its priority for this client, 0 first, without gaps; `None` = it takes no traffic whatever happens.
    pub priority: Option<u32>,
    /// Its live state.
    pub live: Arc<EndpointLive>,
}

impl IndexedEndpoint {
    /// Whether mesh TLS ends there.
    pub fn is_mesh(&self) -> bool {
        self.endpoint.peer != PeerProxy::None
    }
}

impl IndexedCluster {
    /// Indexes a cluster; `None` when the entry is not one. `endpoints` finds the resource that it draws from.
    pub(super) fn build<'a>(
        entry: &Entry,
        endpoints: impl Fn(&str) -> Option<&'a Arc<Entry>>,
        previous: Option<&Arc<Self>>,
        live: &LiveState,
    ) -> Option<Arc<Self>> {
        let Resource::Cluster(cluster) = entry.resource() else { return None };
        let source = match &cluster.discovery {
            Discovery::Endpoints { key, subset: _ } => endpoints(key),
            Discovery::OriginalDestination
            | Discovery::OriginalAddress { port: _ }
            | Discovery::Workload { port: _ }
            | Discovery::DynamicName { port: _ }
            | Discovery::BlackHole => None,
        };
        let endpoints_source = source.map(|entry| entry.hash());
        if let Some(held) = previous
            && held.source == entry.hash()
            && held.endpoints_source == endpoints_source
        {
            return Some(Arc::clone(held));
        }
        let live = live.cluster(&cluster.name);
        let none = Endpoints { key: "".into(), endpoints: Arc::new([]), identities: std::collections::BTreeSet::new() };
        let resource = match source.map(|entry| entry.resource()) {
            Some(Resource::Endpoints(endpoints)) => endpoints,
            _ => &none,
        };
        let now = live.now();
        let mut selected: Box<[IndexedEndpoint]> = resource
            .endpoints
            .iter()
            .filter(|endpoint| is_in_subset(&cluster.discovery, endpoint))
            .map(|endpoint| {
                let live = live.endpoint(&endpoint.address);
                live.attach(endpoint.health == EndpointHealth::Healthy, now);
                IndexedEndpoint { endpoint: Arc::new(endpoint.clone()), priority: None, live }
            })
            .collect();
        live.retain_used();
        let (levels, priorities) = levels::levels(&selected, &cluster.traffic, &cluster.load_balancer);
        for (indexed, priority) in selected.iter_mut().zip(priorities) {
            indexed.priority = priority;
        }
        let warm_at = warm_at(cluster, &selected);
        let available = Available::new(&levels, &selected, &cluster.traffic, live.epoch(), now);
        let identities: Arc<[SpiffeId]> = resource.identities.iter().cloned().collect();
        let sans = identities.iter().map(|id| Arc::from(id.to_string())).collect();
        Some(Arc::new(Self {
            source: entry.hash(),
            endpoints_source,
            cluster: cluster.clone(),
            endpoints: selected,
            levels,
            available: ArcSwap::from_pointee(available),
            warm_at,
            identities,
            sans,
            connection: ConnectionOptions::of(cluster).map(Arc::new),
            host: host_of(&cluster.name).map(Into::into),
            live,
        }))
    }

    /// The cluster as the control plane sent it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.cluster.name
    }

    /// The service that its name says, `DIRECTION|PORT|SUBSET|HOST`; `None` for the fixed clusters.
    pub fn host(&self) -> Option<&Arc<str>> {
        self.host.as_ref()
    }

    /// The endpoints of its subset, in canonical order, whatever their health.
    pub fn endpoints(&self) -> &[IndexedEndpoint] {
        &self.endpoints
    }

    /// The endpoint at an address.
    pub fn endpoint_at(&self, address: &Address) -> Option<&IndexedEndpoint> {
        self.endpoints.iter().find(|indexed| indexed.endpoint.address == *address)
    }

    /// What takes traffic now. O(1) but after an ejection or its end.
    pub fn available(&self) -> Guard<Arc<Available>> {
        let held = self.available.load();
        let epoch = self.live.epoch();
        if held.epoch == epoch && (held.until == u64::MAX || self.live.now() < held.until) {
            return held;
        }
        let next = Available::new(&self.levels, &self.endpoints, &self.cluster.traffic, epoch, self.live.now());
        self.available.store(Arc::new(next));
        self.available.load()
    }

    /// The endpoint at a position that [`Available`] or a [`Group`] names.
    pub fn at(&self, position: u32) -> Option<&IndexedEndpoint> {
        self.endpoints.get(usize::try_from(position).ok()?)
    }

    /// The endpoint that a hash leads to.
    pub fn by_hash(&self, hash: u64) -> Option<&IndexedEndpoint> {
        self.at(self.available().by_hash(&self.levels, hash)?)
    }

    /// The endpoints that take traffic now or as others fail, best priority first, with the weight that each has there.
    pub fn serving(&self) -> Vec<(&IndexedEndpoint, u32)> {
        let mut serving: Vec<(&IndexedEndpoint, u32)> = self
            .endpoints
            .iter()
            .filter(|indexed| indexed.endpoint.health == EndpointHealth::Healthy && indexed.priority.is_some())
            .map(|indexed| (indexed, self.share_of(indexed)))
            .collect();
        serving.sort_by_key(|(indexed, _)| indexed.priority);
        serving
    }

    /// An endpoint's part of its locality's share, else its own weight.
    fn share_of(&self, indexed: &IndexedEndpoint) -> u32 {
        let locality = &self.cluster.traffic.locality;
        let own = u64::from(indexed.endpoint.weight.max(1));
        let share = locality.share(&indexed.endpoint);
        let palisade_model::cluster::LocalityPolicy::Distribute(shares) = locality else {
            return indexed.endpoint.weight;
        };
        let Some(weight) = share.and_then(|share| shares.get(share)).map(|share| u64::from(share.weight)) else {
            return 0;
        };
        let healthy = self.endpoints.iter().filter(|other| other.endpoint.health == EndpointHealth::Healthy);
        let total: u64 = healthy
            .filter(|other| locality.share(&other.endpoint) == share)
            .map(|other| u64::from(other.endpoint.weight.max(1)))
            .sum();
        u32::try_from((weight * own).div_ceil(total.max(1))).unwrap_or(u32::MAX)
    }

    /// How far an endpoint has warmed up, from just above 0 to 1.
    pub(crate) fn warmth(&self, indexed: &IndexedEndpoint, now: u64) -> f64 {
        let Some(warmup) = &self.cluster.traffic.warmup else { return 1.0 };
        let age = now.saturating_sub(indexed.live.since());
        let minimum = f64::from(warmup.minimum.0) / f64::from(palisade_model::route::Percent::ALWAYS.0);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a process's life")]
        let part = age as f64 / (warmup.duration.as_secs_f64() * 1000.0).max(1.0);
        part.clamp(0.0, 1.0).powf(1000.0 / f64::from(warmup.aggression.max(1))).max(minimum).clamp(0.001, 1.0)
    }

    /// The time, if some endpoint is still warming up then.
    pub(crate) fn warming_now(&self) -> Option<u64> {
        if self.warm_at == 0 {
            return None;
        }
        Some(self.live.now()).filter(|now| *now < self.warm_at)
    }

    /// Options of its connections; `None` = the defaults.
    pub fn connection(&self) -> Option<&Arc<ConnectionOptions>> {
        self.connection.as_ref()
    }

    /// SPIFFE ids of the workloads behind the service.
    pub fn identities(&self) -> &[SpiffeId] {
        &self.identities
    }

    /// The same as texts.
    pub fn sans(&self) -> &Arc<[Arc<str>]> {
        &self.sans
    }

    /// Its live state.
    pub fn live(&self) -> &Arc<ClusterLive> {
        &self.live
    }
}

fn is_in_subset(discovery: &Discovery, endpoint: &Endpoint) -> bool {
    match discovery {
        Discovery::Endpoints { key: _, subset } => {
            subset.iter().all(|(label, value)| endpoint.labels.get(label) == Some(value))
        }
        Discovery::OriginalDestination
        | Discovery::OriginalAddress { port: _ }
        | Discovery::Workload { port: _ }
        | Discovery::DynamicName { port: _ }
        | Discovery::BlackHole => false,
    }
}

/// When the last endpoint has warmed up. Envoy warms up under these two algorithms only.
fn warm_at(cluster: &Cluster, endpoints: &[IndexedEndpoint]) -> u64 {
    let Some(warmup) = &cluster.traffic.warmup else { return 0 };
    if !matches!(cluster.load_balancer, LoadBalancer::LeastRequest { choices: _ } | LoadBalancer::RoundRobin) {
        return 0;
    }
    let length = u64::try_from(warmup.duration.as_millis()).unwrap_or(u64::MAX);
    endpoints.iter().map(|indexed| indexed.live.since().saturating_add(length)).max().unwrap_or(0)
}
