//! Circuit breakers: what is in use of a cluster, who waits, and who is turned away.
//!
//! Limits are configuration and come with each question; counts are live and outlast every configuration. Taking and giving
//! back are atomic operations; the lock is for those who wait.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use palisade_model::{cluster::RetryBudget, route::Percent};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::window::Window;

/// Streams on one HTTP/2 connection where nothing is set: as the transport's.
const STREAMS: u32 = 100;

/// What of a cluster is in use.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Whole connections in the upper half, streams on shared ones in the lower.
    connections: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
    pending: AtomicU32,
    waiters: Mutex<VecDeque<Waiter>>,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Waiter {
    demand: Demand,
    answer: oneshot::Sender<Slot>,
}

/// What a request wants of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// It shares a connection with others (HTTP/2).
    pub is_shared: bool,
    /// Streams on a shared connection; `None` = the transport's default.
    pub streams: Option<u32>,
    /// Connections in use at most; `None` = no limit.
    pub limit: Option<u32>,
}

/// A connection in use, or a stream on a shared one; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    breaker: Arc<Breaker>,
    unit: u64,
}

/// A request running; ends when dropped.
#[derive(Debug)]
pub struct Running(Arc<Breaker>);

/// A retry running; ends when dropped.
#[derive(Debug)]
pub struct Retrying(Arc<Breaker>);

/// A place in the queue for a connection; given up when dropped.
#[derive(Debug)]
pub struct Waiting {
    breaker: Arc<Breaker>,
    answer: oneshot::Receiver<Slot>,
}

const WHOLE: u64 = 1 << 32;
const SHARED: u64 = 1;

/// Connections behind a packed count.
fn used(packed: u64, streams: u32) -> u64 {
    (packed >> 32) + (packed & (WHOLE - 1)).div_ceil(u64::from(streams.max(1)))
}

impl Demand {
    const fn unit(self) -> u64 {
        if self.is_shared { SHARED } else { WHOLE }
    }
}

impl Breaker {
    /// Takes a connection if the limit leaves one. `is_first`: the endpoint has none yet, and may always have one (Envoy: or
    /// other endpoints' connections could starve it for ever).
    pub fn try_connect(self: &Arc<Self>, demand: Demand, is_first: bool) -> Option<Slot> {
        let unit = demand.unit();
        let streams = demand.streams.unwrap_or(STREAMS);
        let fits = |next: u64| is_first || demand.limit.is_none_or(|limit| used(next, streams) <= u64::from(limit));
        let taken = self.connections.fetch_update(SeqCst, SeqCst, |packed| {
            let next = packed.saturating_add(unit);
            fits(next).then_some(next)
        });
        taken.ok().map(|_| Slot { breaker: Arc::clone(self), unit })
    }

    /// Queues for a connection; `None` when the queue is full.
    pub fn queue(self: &Arc<Self>, demand: Demand, max_pending: Option<u32>) -> Option<Waiting> {
        take(&self.pending, max_pending)?;
        let (answer, receiver) = oneshot::channel();
        // From here on dropping it gives the place up.
        let waiting = Waiting { breaker: Arc::clone(self), answer: receiver };
        self.waiters.lock().push_back(Waiter { demand, answer });
        // A connection may have come free between the question and the queue.
        self.hand_over();
        Some(waiting)
    }

    /// Counts a request if the limit leaves one.
    pub fn try_run(self: &Arc<Self>, limit: Option<u32>) -> Option<Running> {
        take(&self.requests, limit).map(|()| Running(Arc::clone(self)))
    }

    /// Counts a request for a retry budget that looks back.
    pub(crate) fn note_request(&self, now: u64, budget: Option<&RetryBudget>) {
        if let Some(interval) = budget.and_then(|budget| budget.interval) {
            self.window.lock().count(now, milliseconds(interval));
        }
    }

    /// Counts a retry if limit or budget leave one; the budget replaces the limit.
    pub(crate) fn try_retry(
        self: &Arc<Self>,
        limit: Option<u32>,
        budget: Option<&RetryBudget>,
        now: u64,
    ) -> Option<Retrying> {
        let limit = match budget {
            None => limit,
            Some(RetryBudget { percent, min_concurrency, interval }) => {
                let base = match interval {
                    Some(interval) => self.window.lock().sum(now, milliseconds(*interval)),
                    None => u64::from(self.requests.load(SeqCst)) + u64::from(self.pending.load(SeqCst)),
                };
                let share = base.saturating_mul(u64::from(percent.0)) / u64::from(Percent::ALWAYS.0);
                Some(u32::try_from(share).unwrap_or(u32::MAX).max(*min_concurrency))
            }
        };
        take(&self.retries, limit).map(|()| Retrying(Arc::clone(self)))
    }

    /// Requests running.
    pub fn requests(&self) -> u32 {
        self.requests.load(SeqCst)
    }

    /// Requests waiting.
    pub fn pending(&self) -> u32 {
        self.pending.load(SeqCst)
    }

    /// Retries running.
    pub fn retries(&self) -> u32 {
        self.retries.load(SeqCst)
    }

    /// Connections in use, shared ones by their streams.
    pub fn connections(&self) -> u64 {
        used(self.connections.load(SeqCst), STREAMS)
    }

    /// Gives free connections to those who wait, first come first served.
    fn hand_over(self: &Arc<Self>) {
        loop {
            let (waiter, slot) = {
                let mut waiters = self.waiters.lock();
                while waiters.front().is_some_and(|waiter| waiter.answer.is_closed()) {
                    waiters.pop_front();
                }
                let Some(demand) = waiters.front().map(|waiter| waiter.demand) else { return };
                let Some(slot) = self.try_connect(demand, false) else { return };
                let Some(waiter) = waiters.pop_front() else { return };
                (waiter, slot)
            };
            // Outside the lock: a waiter that has just left drops the slot, which comes back here.
            if waiter.answer.send(slot).is_ok() {
                return;
            }
        }
    }
}

fn take(count: &AtomicU32, limit: Option<u32>) -> Option<()> {
    let limit = limit.unwrap_or(u32::MAX);
    count.fetch_update(SeqCst, SeqCst, |n| (n < limit).then_some(n + 1)).ok().map(|_| ())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Waiting {
    /// Waits for a connection, so long at most; `None` when none came.
    pub async fn slot(mut self, limit: Duration) -> Option<Slot> {
        timeout(limit, &mut self.answer).await.ok()?.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // What was handed over and not taken goes back with the receiver.
        self.answer.close();
        let _unused = self.answer.try_recv();
        self.breaker.pending.fetch_sub(1, SeqCst);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.breaker.connections.fetch_sub(self.unit, SeqCst);
        if self.breaker.pending.load(SeqCst) > 0 {
            self.breaker.hand_over();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, SeqCst);
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Demand = Demand { is_shared: false, streams: None, limit: Some(1) };

    #[tokio::test]
    async fn who_waits_gets_the_connection_that_comes_free_and_the_queue_has_an_end() {
        let breaker = Arc::new(Breaker::default());
        let held = breaker.try_connect(ONE, false).unwrap();
        assert!(breaker.try_connect(ONE, false).is_none());
        let waiting = breaker.queue(ONE, Some(1)).unwrap();
        assert!(breaker.queue(ONE, Some(1)).is_none());
        let (slot, ()) = tokio::join!(waiting.slot(Duration::from_secs(5)), async { drop(held) });
        assert!(slot.is_some());
        assert_eq!((breaker.connections(), breaker.pending()), (1, 0));
        drop(slot);
        assert_eq!(breaker.connections(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_does_not_take_a_connection_with_it() {
        let breaker = Arc::new(Breaker::default());
        let held = breaker.try_connect(ONE, false).unwrap();
        let (left, stays) = (breaker.queue(ONE, None).unwrap(), breaker.queue(ONE, None).unwrap());
        let handed = breaker.queue(ONE, None).unwrap();
        drop(left);
        drop(held);
        drop(stays);
        assert!(handed.slot(Duration::from_secs(5)).await.is_some());
        assert_eq!((breaker.connections(), breaker.pending()), (0, 0));
    }

    #[test]
    fn an_endpoint_without_any_may_always_have_one() {
        let breaker = Arc::new(Breaker::default());
        let _held = breaker.try_connect(ONE, false).unwrap();
        assert!(breaker.try_connect(ONE, true).is_some());
    }

    #[test]
    fn streams_share_connections() {
        let breaker = Arc::new(Breaker::default());
        let stream = Demand { is_shared: true, streams: Some(2), limit: Some(1) };
        let held: Vec<_> = (0..3).map_while(|_| breaker.try_connect(stream, false)).collect();
        assert_eq!(held.len(), 2);
    }

    #[test]
    fn a_budget_is_a_share_of_the_running_requests_with_a_floor() {
        let breaker = Arc::new(Breaker::default());
        let budget = RetryBudget { percent: Percent(200_000), min_concurrency: 1, interval: None };
        let retries = || {
            let held: Vec<_> = (0..100).map_while(|_| breaker.try_retry(Some(0), Some(&budget), 0)).collect();
            held.len()
        };
        assert_eq!(retries(), 1);
        let running: Vec<_> = (0..20).map_while(|_| breaker.try_run(None)).collect();
        assert_eq!((running.len(), retries()), (20, 4));
        let budget = RetryBudget { interval: Some(Duration::from_secs(1)), ..budget };
        for _ in 0..50 {
            breaker.note_request(5000, Some(&budget));
        }
        let held: Vec<_> = (0..100).map_while(|_| breaker.try_retry(None, Some(&budget), 5000)).collect();
        assert_eq!(held.len(), 10);
    }
}
