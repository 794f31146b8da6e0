//! Decision records on their way through control: from proxies to whoever listens, bounded, nothing kept.

use std::sync::Arc;

use futures::Stream;
use palisade_model::settings::WorkloadRef;
use palisade_wire::proto::v1::{DecisionBatch, DecisionRecords};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::metrics::Metrics;

pub mod client;

/// Messages of all proxies that a slow listener may be behind; at 256 KiB each at most, 16 MiB.
const BACKLOG: usize = 64;

/// Listeners at a time.
const MAX_LISTENERS: usize = 16;

/// Hands records of all proxies to all listeners.
#[derive(Debug)]
pub struct DecisionHub {
    batches: broadcast::Sender<Arc<Batch>>,
    listeners: watch::Sender<usize>,
    /// Records sent so far.
    sent: Mutex<u64>,
    metrics: Metrics,
}

/// Records of one proxy.
#[derive(Debug)]
struct Batch {
    pod: WorkloadRef,
    /// Records of all proxies before these.
    before: u64,
    records: DecisionRecords,
}

/// Counts as a listener until it is dropped.
struct Listening(Arc<DecisionHub>);

/// Too many listen already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_LISTENERS} listen already")]
pub struct TooManyListeners;

impl DecisionHub {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        let (batches, _) = broadcast::channel(BACKLOG);
        Arc::new(Self { batches, listeners: watch::Sender::new(0), sent: Mutex::new(0), metrics })
    }

    /// How many listen, as it changes.
    pub(crate) fn listeners(&self) -> watch::Receiver<usize> {
        self.listeners.subscribe()
    }

    /// Records of a proven pod. Never waits: a listener that is too slow loses the oldest.
    pub(crate) fn publish(&self, pod: &WorkloadRef, records: DecisionRecords) {
        let count = u64::try_from(records.records.len()).unwrap_or(u64::MAX);
        self.metrics.decision_records.inc_by(count);
        self.metrics.decision_records_dropped.inc_by(records.dropped);
        // Counted and sent as one, so that listeners see the counts rise.
        let mut sent = self.sent.lock();
        let batch = Batch { pod: pod.clone(), before: *sent, records };
        *sent = sent.saturating_add(count);
        // Nobody may be listening any more.
        drop(self.batches.send(Arc::new(batch)));
    }

    /// Records from now on, of one namespace or (empty) all.
    ///
    /// # Errors
    /// When too many listen.
    pub fn subscribe(
        self: &Arc<Self>,
        namespace: String,
    ) -> Result<impl Stream<Item = DecisionBatch> + use<>, TooManyListeners> {
        let mut is_taken = false;
        self.listeners.send_if_modified(|listeners| {
            is_taken = *listeners < MAX_LISTENERS;
            *listeners += usize::from(is_taken);
            is_taken
        });
        if !is_taken {
            return Err(TooManyListeners);
        }
        let listening = Listening(Arc::clone(self));
        self.metrics.decision_listeners.inc();
        let sent = self.sent.lock();
        let listener = Listener {
            batches: self.batches.subscribe(),
            expected: *sent,
            dropped: 0,
            namespace,
            _listening: listening,
        };
        drop(sent);
        Ok(futures::stream::unfold(listener, |mut listener| async move {
            let batch = listener.next().await?;
            Some((batch, listener))
        }))
    }
}

struct Listener {
    batches: broadcast::Receiver<Arc<Batch>>,
    /// Records of all proxies before the next batch.
    expected: u64,
    /// Left out since the last batch that this listener got.
    dropped: u64,
    namespace: String,
    _listening: Listening,
}

impl Listener {
    async fn next(&mut self) -> Option<DecisionBatch> {
        loop {
            let batch = match self.batches.recv().await {
                Ok(batch) => batch,
                // What was lost shows in the count of the next one.
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            let Batch { pod, before, records: DecisionRecords { records, dropped } } = &*batch;
            let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
            self.dropped += before.saturating_sub(self.expected);
            self.expected = before.saturating_add(count);
            if !self.namespace.is_empty() && *self.namespace != *pod.namespace {
                continue;
            }
            let dropped = std::mem::take(&mut self.dropped).saturating_add(*dropped);
            return Some(DecisionBatch {
                namespace: pod.namespace.to_string(),
                name: pod.name.to_string(),
                records: Some(DecisionRecords { records: records.clone(), dropped }),
            });
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listeners.send_modify(|listeners| *listeners = listeners.saturating_sub(1));
        self.0.metrics.decision_listeners.dec();
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn pod(namespace: &str) -> WorkloadRef {
        WorkloadRef { namespace: namespace.into(), name: "a".into() }
    }

    fn records(texts: &[&'static str], dropped: u64) -> DecisionRecords {
        DecisionRecords { records: texts.iter().map(|text| (*text).into()).collect(), dropped }
    }

    #[tokio::test]
    async fn listeners_get_what_is_sent_while_they_listen() {
        let hub = DecisionHub::new(Metrics::new());
        hub.publish(&pod("x"), records(&["1"], 0));
        assert_eq!(*hub.listeners().borrow(), 0);
        let mut all = Box::pin(hub.subscribe(String::new()).unwrap());
        let mut one = Box::pin(hub.subscribe("y".to_owned()).unwrap());
        assert_eq!(*hub.listeners().borrow(), 2);
        hub.publish(&pod("x"), records(&["2", "3"], 4));
        hub.publish(&pod("y"), records(&["5"], 0));
        let batch = all.next().await.unwrap();
        assert_eq!((&*batch.namespace, &*batch.name), ("x", "a"));
        assert_eq!(batch.records.unwrap(), records(&["2", "3"], 4));
        assert_eq!(all.next().await.unwrap().records.unwrap(), records(&["5"], 0));
        assert_eq!(one.next().await.unwrap().records.unwrap(), records(&["5"], 0));
        drop((all, one));
        assert_eq!(*hub.listeners().borrow(), 0);
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_how_much_it_missed() {
        let hub = DecisionHub::new(Metrics::new());
        let mut slow = Box::pin(hub.subscribe(String::new()).unwrap());
        let count = 3 * BACKLOG;
        (0..count).for_each(|_| hub.publish(&pod("x"), records(&["a", "b"], 0)));
        let (mut got, mut dropped) = (0, 0);
        while got + dropped < 2 * u64::try_from(count).unwrap() {
            let batch = slow.next().await.unwrap().records.unwrap();
            got += u64::try_from(batch.records.len()).unwrap();
            dropped += batch.dropped;
        }
        assert!(dropped > 0 && got > 0);
        assert_eq!(got + dropped, 2 * u64::try_from(count).unwrap());
    }

    #[tokio::test]
    async fn listeners_are_bounded() {
        let hub = DecisionHub::new(Metrics::new());
        let held: Vec<_> = (0..MAX_LISTENERS).map(|_| hub.subscribe(String::new()).unwrap()).collect();
        assert!(hub.subscribe(String::new()).is_err());
        drop(held);
        assert!(hub.subscribe(String::new()).is_ok());
    }
}
