//! The control plane's own metrics.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Counters and histograms; cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Connected proxies.
    pub proxies: Gauge,
    /// Offers sent, by what became of them.
    pub answers: Family<AnswerLabels, Counter>,
    /// From an offer's first byte to its ack.
    pub ack_seconds: Histogram,
    /// Compile runs.
    pub compile_seconds: Histogram,
    /// Compile runs that ended in a defect; the mesh stayed as it was.
    pub compile_failures: Counter,
    /// Certificates, by result.
    pub certificates: Family<CertificateLabels, Counter>,
    /// Connections and calls that were refused, by reason.
    pub refused: Family<RefusedLabels, Counter>,
    /// Decision records that came from proxies.
    pub decision_records: Counter,
    /// Decision records that proxies left out.
    pub decision_records_dropped: Counter,
    /// Who listens to decision records.
    pub decision_listeners: Gauge,
    /// Status writes, by kind and by what became of them.
    pub status_writes: Family<StatusWriteLabels, Counter>,
    /// Writes of objects that run Gateways.
    pub gateway_writes: Family<GatewayWriteLabels, Counter>,
    /// 1 while this replica writes status.
    pub leader: Gauge,
    key_fetches: Family<KeyFetchLabels, Counter>,
    keys_fetched: Family<KeyLabels, Gauge>,
    watch_failures: Family<WatchLabels, Counter>,
}

/// Label of watches of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    kind: String,
}

/// Labels of fetches of token keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyFetchLabels {
    source: String,
    result: FetchResult,
}

/// What became of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
enum FetchResult {
    Fetched,
    Failed,
}

/// Label of token keys: a source that documents name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    source: String,
}

/// Labels of status writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusWriteLabels {
    /// Kind of the object.
    pub kind: String,
    /// What became of it.
    pub result: StatusWrite,
}

/// Labels of writes of objects that run Gateways.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GatewayWriteLabels {
    /// Kind of the object.
    pub kind: String,
}

/// What became of a status write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum StatusWrite {
    /// Written.
    Done,
    /// The object had changed.
    Conflict,
    /// The API server was overloaded or away.
    Busy,
    /// The API server would not have it.
    Refused,
}

/// Label of answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabels {
    /// The answer.
    pub answer: Answer,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Answer {
    /// Swapped in.
    Ack,
    /// Refused.
    Nack,
}

/// Label of certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// The result.
    pub result: CertificateResult,
}

/// What became of a certificate request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum CertificateResult {
    /// Signed.
    Signed,
    /// Refused.
    Refused,
}

/// Label of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// Why.
    pub reason: Refusal,
}

/// Why a connection or call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// TLS did not come about.
    Handshake,
    /// Nobody proved to be anyone.
    Unauthenticated,
    /// A token that nobody could review.
    Unreviewed,
    /// Someone asked for what is not theirs.
    Forbidden,
    /// The protocol was broken.
    Protocol,
    /// Too many connections.
    Limit,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("palisade_control");
        let latency = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let (proxies, answers, ack_seconds, compile_seconds) =
            (Gauge::default(), Family::default(), latency(), latency());
        let (certificates, refused) = (Family::default(), Family::default());
        let (key_fetches, keys_fetched) = (Family::default(), Family::default());
        registry.register("proxies", "Connected proxies", proxies.clone());
        registry.register("offers", "Offers of configuration by answer", answers.clone());
        registry.register("ack_seconds", "From sending an offer to its ack", ack_seconds.clone());
        registry.register("compile_seconds", "Compile runs", compile_seconds.clone());
        let compile_failures = Counter::default();
        let help = "Compile runs that ended in a defect and left the mesh as it was";
        registry.register("compile_failures", help, compile_failures.clone());
        registry.register("certificates", "Certificate requests by result", certificates.clone());
        registry.register("refused", "Refused connections and calls", refused.clone());
        let (decision_records, decision_records_dropped) = (Counter::default(), Counter::default());
        let decision_listeners = Gauge::default();
        registry.register("decision_records", "Decision records that came from proxies", decision_records.clone());
        let help = "Decision records that proxies left out because their queue was full";
        registry.register("decision_records_dropped", help, decision_records_dropped.clone());
        registry.register("decision_listeners", "Who listens to decision records", decision_listeners.clone());
        registry.register("key_fetches", "Fetches of token keys by source and result", key_fetches.clone());
        let help = "When the keys of a source were last fetched, Unix seconds; 0 = there are none";
        registry.register("keys_fetched_timestamp_seconds", help, keys_fetched.clone());
        let (status_writes, leader) = (Family::default(), Gauge::default());
        registry.register("status_writes", "Status writes by kind and result", status_writes.clone());
        let gateway_writes = Family::default();
        registry.register("gateway_writes", "Writes of objects that run Gateways, by kind", gateway_writes.clone());
        registry.register("leader", "1 while this replica writes status", leader.clone());
        let watch_failures = Family::default();
        let help = "Lists and watches of the Kubernetes API that failed, by kind; each is tried again";
        registry.register("watch_failures", help, watch_failures.clone());
        Self {
            registry: Arc::new(registry),
            proxies,
            answers,
            ack_seconds,
            compile_seconds,
            compile_failures,
            certificates,
            refused,
            decision_records,
            decision_records_dropped,
            decision_listeners,
            status_writes,
            gateway_writes,
            leader,
            key_fetches,
            keys_fetched,
            watch_failures,
        }
    }

    /// The exposition text.
    ///
    /// # Errors
    /// Never: writing to a string does not fail.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts a fetch of token keys.
    pub(crate) fn count_fetch(&self, source: &str, is_good: bool) {
        let result = if is_good { FetchResult::Fetched } else { FetchResult::Failed };
        self.key_fetches.get_or_create(&KeyFetchLabels { source: source.to_owned(), result }).inc();
    }

    /// Notes when the keys of all sources were fetched; sources that no document names any more are forgotten.
    pub(crate) fn note_keys(&self, sources: impl Iterator<Item = (String, Option<jiff::Timestamp>)>) {
        self.keys_fetched.clear();
        for (source, fetched) in sources {
            let gauge = self.keys_fetched.get_or_create(&KeyLabels { source });
            gauge.set(fetched.map_or(0, jiff::Timestamp::as_second));
        }
    }

    /// Counts a list or watch of the Kubernetes API that failed.
    pub(crate) fn watch_failed(&self, kind: &str) {
        self.watch_failures.get_or_create(&WatchLabels { kind: kind.to_owned() }).inc();
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
