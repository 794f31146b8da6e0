//! Live state of upstreams: in-flight counts and cursors, under stable keys that every new index re-attaches to.
//!
//! Configuration is replaced; what happened is not (architecture rule 7).

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use ahash::AHashMap;
use palisade_model::endpoint::Address;
use parking_lot::Mutex;

/// Live state of all clusters of a proxy; shared by successive indexes.
#[derive(Debug, Default)]
pub struct LiveState {
    clusters: Mutex<AHashMap<Arc<str>, Arc<ClusterLive>>>,
}

/// Live state of one cluster.
#[derive(Debug, Default)]
pub struct ClusterLive {
    turn: AtomicUsize,
    endpoints: Mutex<AHashMap<Address, Arc<EndpointLive>>>,
}

/// Live state of one endpoint of a cluster.
#[derive(Debug, Default)]
pub struct EndpointLive {
    in_flight: AtomicU64,
}

/// One request in flight; ends when dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointLive>,
}

impl LiveState {
    /// The state of a cluster, made on first use.
    pub(super) fn cluster(&self, name: &Arc<str>) -> Arc<ClusterLive> {
        Arc::clone(self.clusters.lock().entry(Arc::clone(name)).or_default())
    }

    /// Forgets clusters that neither `is_used` nor anything in flight refers to.
    pub(super) fn retain(&self, is_used: impl Fn(&str) -> bool) {
        self.clusters.lock().retain(|name, live| is_used(name) || Arc::strong_count(live) > 1);
    }
}

impl ClusterLive {
    /// The state of an endpoint, made on first use.
    pub(super) fn endpoint(&self, address: &Address) -> Arc<EndpointLive> {
        Arc::clone(self.endpoints.lock().entry(address.clone()).or_default())
    }

    /// Forgets endpoints that neither an index nor a request refers to.
    pub(super) fn retain_used(&self) {
        self.endpoints.lock().retain(|_, live| Arc::strong_count(live) > 1);
    }

    /// The next turn of a round robin.
    pub fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl EndpointLive {
    /// Requests in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one request until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { endpoint: Arc::clone(self) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
