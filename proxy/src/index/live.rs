//! Live state of upstreams: counts, cursors and ejections, under stable keys that every new index re-attaches to.
//!
//! Configuration is replaced; what happened is not (architecture rule 7).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use ahash::AHashMap;
use palisade_model::endpoint::Address;
use parking_lot::Mutex;

mod breaker;
mod clock;
mod window;

pub use breaker::{Breaker, Demand, Retrying, Running, Slot, Waiting};
pub use clock::Clock;

/// Live state of all clusters of a proxy; shared by successive indexes.
#[derive(Debug, Default)]
pub struct LiveState {
    clock: Clock,
    clusters: Mutex<AHashMap<Arc<str>, Arc<ClusterLive>>>,
}

/// Live state of one cluster.
#[derive(Debug, Default)]
pub struct ClusterLive {
    clock: Clock,
    turn: AtomicUsize,
    endpoints: Mutex<AHashMap<Address, Arc<EndpointLive>>>,
    /// Connections, requests and retries in use.
    pub breaker: Arc<Breaker>,
    /// Rises with every ejection.
    epoch: AtomicU64,
    /// Held while one endpoint of the cluster is ejected: shares are counted one after the other.
    ejecting: Mutex<()>,
}

/// Live state of one endpoint of a cluster. Times are milliseconds of the cluster's [`Clock`], never 0.
#[derive(Debug, Default)]
pub struct EndpointLive {
    in_flight: AtomicU64,
    /// When it began to take traffic; 0 = it does not.
    since: AtomicU64,
    takes_traffic: AtomicBool,
    errors: Consecutive,
    /// End of its latest ejection; 0 = it never was.
    ejected_until: AtomicU64,
    /// Length of its latest ejection, in steps.
    ejection_steps: AtomicU32,
}

/// Errors in a row.
#[derive(Debug, Default)]
pub(crate) struct Consecutive {
    pub(crate) server: AtomicU32,
    pub(crate) gateway: AtomicU32,
    pub(crate) local: AtomicU32,
}

/// One request in flight; ends when dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointLive>,
}

impl LiveState {
    /// State that measures time by a clock of the caller's.
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock, clusters: Mutex::default() }
    }

    /// The state of a cluster, made on first use.
    pub(super) fn cluster(&self, name: &Arc<str>) -> Arc<ClusterLive> {
        let made = || Arc::new(ClusterLive { clock: self.clock.clone(), ..ClusterLive::default() });
        Arc::clone(self.clusters.lock().entry(Arc::clone(name)).or_insert_with(made))
    }

    /// Forgets clusters that neither `is_used` nor anything in flight refers to.
    pub(super) fn retain(&self, is_used: impl Fn(&str) -> bool) {
        self.clusters.lock().retain(|name, live| is_used(name) || live.is_referred_to());
    }
}

impl ClusterLive {
    /// The state of an endpoint, made on first use.
    pub(super) fn endpoint(&self, address: &Address) -> Arc<EndpointLive> {
        Arc::clone(self.endpoints.lock().entry(address.clone()).or_default())
    }

    /// Forgets endpoints that neither an index nor a request refers to, once their ejection is over: one that comes back
    /// meanwhile is still ejected.
    pub(super) fn retain_used(&self) {
        let now = self.now();
        self.endpoints.lock().retain(|_, live| Arc::strong_count(live) > 1 || live.is_ejected(now));
    }

    fn is_referred_to(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || Arc::strong_count(&self.breaker) > 1
    }

    /// The next turn of a round robin.
    pub fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Milliseconds of the clock.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Changes with every ejection.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Ejects an endpoint unless `may_eject`, asked while nobody else ejects, forbids it. `steps` of `length` each, bounded by
    /// `longest`.
    pub(crate) fn eject(
        &self,
        endpoint: &EndpointLive,
        terms: &EjectionTerms,
        may_eject: impl FnOnce(u64) -> bool,
    ) -> bool {
        let _one_at_a_time = self.ejecting.lock();
        let now = self.now();
        if endpoint.is_ejected(now) || !may_eject(now) {
            return false;
        }
        let EjectionTerms { base, longest, interval } = *terms;
        let until = endpoint.ejected_until.load(Ordering::Relaxed);
        let calm = if until == 0 { 0 } else { now.saturating_sub(until) / interval.max(1) };
        let calm = u32::try_from(calm).unwrap_or(u32::MAX);
        let steps = endpoint.ejection_steps.load(Ordering::Relaxed).saturating_sub(calm).saturating_add(1);
        let length = base.saturating_mul(u64::from(steps)).min(longest).max(1);
        endpoint.ejection_steps.store(steps, Ordering::Relaxed);
        endpoint.ejected_until.store(now.saturating_add(length), Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        true
    }
}

/// Lengths of ejections, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EjectionTerms {
    /// The first.
    pub(crate) base: u64,
    /// The longest.
    pub(crate) longest: u64,
    /// Without ejection for so long, the next one is a step shorter.
    pub(crate) interval: u64,
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

    /// Whether it is ejected at a time.
    pub(crate) fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Acquire) > now
    }

    /// When its latest ejection ends; 0 = it never was ejected.
    pub(crate) fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Ordering::Acquire)
    }

    /// Errors in a row.
    pub(crate) fn errors(&self) -> &Consecutive {
        &self.errors
    }

    /// Notes what a new index says: an endpoint that begins to take traffic begins to warm up.
    pub(super) fn attach(&self, takes_traffic: bool, now: u64) {
        let did = self.takes_traffic.swap(takes_traffic, Ordering::Relaxed);
        if takes_traffic && !did {
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// When it began to take traffic; 0 = it does not.
    pub(crate) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
