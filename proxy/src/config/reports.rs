//! Decision records on their way to control: a bounded queue that fills only while control wants them, and the stream that empties it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use palisade_wire::{
    decisions::{MAX_MESSAGE_BYTES, MAX_RECORDS_BYTES},
    proto::v1::{
        DecisionRecords, DecisionReport, DecisionReporter, DecisionWish, decision_report::Kind,
        decision_reports_client::DecisionReportsClient,
    },
};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};

use super::{backoff::Backoff, dial::TokenSource};

/// Bytes that may wait for control: about 4,000 records.
const QUEUE: usize = 4 * 1024 * 1024;

/// Messages that wait for the stream; the rest waits in the queue.
const OUTBOUND: usize = 2;

/// A control plane that takes no records for this long is gone.
const STALLED: Duration = Duration::from_secs(30);

/// Records that wait to be sent. What does not fit is dropped and counted; nobody waits for it.
#[derive(Debug, Default)]
pub struct Outbox {
    is_wanted: AtomicBool,
    queue: Mutex<Queue>,
    filled: Notify,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<Bytes>,
    bytes: usize,
    /// Left out since the last message.
    dropped: u64,
}

impl Outbox {
    /// Nobody wants anything yet. `dropped` counts what does not fit.
    pub fn new(dropped: Counter) -> Self {
        Self { is_wanted: AtomicBool::new(false), queue: Mutex::default(), filled: Notify::new(), dropped }
    }

    /// Whether somebody listens: if not, a record need not be made.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Queues a record. Never waits.
    pub fn push(&self, record: &impl serde::Serialize) {
        if !self.is_wanted() {
            return;
        }
        // INVARIANT: a record holds no map with non-text keys, so it always serialises.
        let Ok(line) = serde_json::to_vec(record) else { return };
        let mut queue = self.queue.lock();
        if line.len() > MAX_RECORDS_BYTES || queue.bytes + line.len() > QUEUE {
            queue.dropped += 1;
            self.dropped.inc();
            return;
        }
        queue.bytes += line.len();
        queue.records.push_back(line.into());
        drop(queue);
        self.filled.notify_one();
    }

    fn want(&self, is_wanted: bool) {
        self.is_wanted.store(is_wanted, Ordering::Relaxed);
        if !is_wanted {
            *self.queue.lock() = Queue::default();
        }
    }

    /// As many records as fit one message, once there is one. Cancel-safe: nothing is taken before it returns.
    async fn next(&self) -> DecisionRecords {
        loop {
            if let Some(records) = self.take() {
                return records;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<DecisionRecords> {
        let mut queue = self.queue.lock();
        let (mut records, mut bytes) = (Vec::new(), 0);
        while queue.records.front().is_some_and(|record| bytes + record.len() <= MAX_RECORDS_BYTES) {
            let Some(record) = queue.records.pop_front() else { break };
            bytes += record.len();
            records.push(record);
        }
        queue.bytes -= bytes;
        (!records.is_empty()).then(|| DecisionRecords { records, dropped: std::mem::take(&mut queue.dropped) })
    }
}

/// Sends records over a channel to control for as long as it lives; ends only where control knows nothing of records.
pub(super) async fn report(channel: Channel, token: TokenSource, pod: (Arc<str>, Arc<str>), outbox: Arc<Outbox>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let status = {
            let _unwanted = Unwanted(&outbox);
            report_once(&channel, &token, &pod, &outbox).await
        };
        if status.code() == Code::Unimplemented {
            return;
        }
        let wait = backoff.next();
        tracing::debug!(%status, wait_ms = wait.as_millis(), "no stream of decision records");
        tokio::time::sleep(wait).await;
    }
}

/// However a stream ends, nobody wants records any more.
struct Unwanted<'a>(&'a Outbox);

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        self.0.want(false);
    }
}

async fn report_once(channel: &Channel, token: &TokenSource, pod: &(Arc<str>, Arc<str>), outbox: &Outbox) -> Status {
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    let (namespace, name) = (pod.0.to_string(), pod.1.to_string());
    let hello = DecisionReport { kind: Some(Kind::Reporter(DecisionReporter { namespace, name })) };
    if outbound.send(hello).await.is_err() {
        return Status::internal("the stream is closed");
    }
    let mut request = Request::new(ReceiverStream::new(messages));
    match token.bearer().await {
        Ok(bearer) => drop(request.metadata_mut().insert("authorization", bearer)),
        Err(error) => return Status::unauthenticated(error.to_string()),
    }
    let mut client = DecisionReportsClient::new(channel.clone()).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut wishes = match client.report(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    loop {
        // Both are cancel-safe. A wish first: it may be the end of it.
        tokio::select! {
            biased;
            wish = wishes.message() => match wish {
                Ok(Some(DecisionWish { is_wanted })) => outbox.want(is_wanted),
                Ok(None) => return Status::unavailable("the control plane closed the stream"),
                Err(status) => return status,
            },
            records = outbox.next() => {
                let count = u64::try_from(records.records.len()).unwrap_or(u64::MAX);
                let report = DecisionReport { kind: Some(Kind::Records(records)) };
                if outbound.send_timeout(report, STALLED).await.is_err() {
                    outbox.dropped.inc_by(count);
                    return Status::deadline_exceeded("the control plane takes no records");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        let outbox = Outbox::new(Counter::default());
        outbox.want(true);
        outbox
    }

    #[tokio::test]
    async fn records_are_kept_in_order_and_only_while_they_are_wanted() {
        let outbox = Outbox::new(Counter::default());
        outbox.push(&"nobody listens");
        assert!(outbox.take().is_none());
        outbox.want(true);
        outbox.push(&1);
        outbox.push(&2);
        let records = outbox.next().await;
        assert_eq!(records, DecisionRecords { records: vec!["1".into(), "2".into()], dropped: 0 });
        outbox.push(&3);
        outbox.want(false);
        outbox.want(true);
        assert!(outbox.take().is_none(), "what was wanted then is not wanted now");
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let outbox = outbox();
        outbox.push(&"x".repeat(MAX_RECORDS_BYTES));
        assert!(outbox.take().is_none(), "a record that no message can carry");
        let record = "x".repeat(1000);
        (0..2 * QUEUE / record.len()).for_each(|_| outbox.push(&record));
        let (mut taken, mut dropped) = (0, 0);
        while let Some(records) = outbox.take() {
            let bytes: usize = records.records.iter().map(Bytes::len).sum();
            assert!(bytes <= MAX_RECORDS_BYTES);
            taken += records.records.len();
            dropped += records.dropped;
        }
        assert!(taken * record.len() <= QUEUE && taken > 1000, "{taken}");
        assert_eq!(u64::try_from(taken).unwrap() + dropped, u64::try_from(2 * QUEUE / record.len() + 1).unwrap());
        assert_eq!(outbox.dropped.get(), dropped);
    }
}
