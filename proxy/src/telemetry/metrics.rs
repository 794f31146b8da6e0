//! Prometheus metrics. Labels come from closed enums, so the number of series is fixed when the proxy starts.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use palisade_model::reason::Reason;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{
    policies::PolicyCounts,
    record::{Direction, Record},
};

mod checks;
mod upstream;

pub use checks::CheckMetrics;
pub use upstream::{Limit, UpstreamMetrics};

/// Upper bounds of the request duration histogram, in seconds.
const DURATION_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What became of a copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It was sent, and its answer read to the end.
    Sent,
    /// It could not be sent or was not answered.
    Failed,
    /// Too many were in flight.
    LeftOut,
}

/// A proxy's metrics. Counting takes no lock.
pub struct Metrics {
    registry: Registry,
    requests: ByDirection<Vec<Counter>>,
    connections: ByDirection<Vec<Counter>>,
    durations: ByDirection<Histogram>,
    /// Circuit breakers and ejections.
    pub upstream: UpstreamMetrics,
    /// External authorizers.
    pub checks: CheckMetrics,
    /// Connections open now.
    pub open_connections: Gauge,
    /// Requests and opaque connections in progress now.
    pub open_streams: Gauge,
    /// Access log lines that did not fit into the queue.
    pub access_log_dropped: Counter,
    /// Decision records that did not fit into the queue.
    pub decision_log_dropped: Counter,
    /// Decision records for control that did not fit into the queue.
    pub decision_stream_dropped: Counter,
    /// Snapshots swapped in.
    pub config_applied: Counter,
    /// Snapshots refused.
    pub config_rejected: Counter,
    /// 1 while the control plane is connected.
    pub control_connected: Gauge,
    /// Unix time at which the workload certificate expires, in seconds.
    pub certificate_expiry: Gauge<f64, AtomicU64>,
    /// Workload certificates obtained since the start.
    pub certificates_issued: Counter,
    /// What the policies in force count.
    pub policies: PolicyCounts,
    copies: [Counter; 3],
}

#[derive(Debug)]
struct ByDirection<T> {
    inbound: T,
    outbound: T,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

impl Metrics {
    /// All series, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("palisade");
        let requests =
            by_reason(&mut registry, "requests", "Requests by direction and by the reason that they ended with");
        let connections = by_reason(
            &mut registry,
            "connections",
            "Connections accepted, by direction and by the reason that they ended with",
        );
        let family = Family::<DirectionLabel, Histogram>::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        registry.register(
            "request_duration_seconds",
            "From the first byte of a request to the last byte of its answer",
            family.clone(),
        );
        let of = |direction: Direction| family.get_or_create(&DirectionLabel { direction: direction.as_str() }).clone();
        let durations = ByDirection { inbound: of(Direction::Inbound), outbound: of(Direction::Outbound) };
        let mirrored = Family::<OutcomeLabel, Counter>::default();
        registry.register("mirrored_requests", "Copies of requests by what became of them", mirrored.clone());
        let copies =
            ["sent", "failed", "left-out"].map(|outcome| mirrored.get_or_create(&OutcomeLabel { outcome }).clone());
        let upstream = UpstreamMetrics::new(&mut registry);
        let checks = CheckMetrics::new(&mut registry);
        let mut metrics = Self {
            registry,
            requests,
            connections,
            durations,
            upstream,
            checks,
            open_connections: Gauge::default(),
            open_streams: Gauge::default(),
            access_log_dropped: Counter::default(),
            decision_log_dropped: Counter::default(),
            decision_stream_dropped: Counter::default(),
            config_applied: Counter::default(),
            config_rejected: Counter::default(),
            control_connected: Gauge::default(),
            certificate_expiry: Gauge::default(),
            certificates_issued: Counter::default(),
            policies: PolicyCounts::default(),
            copies,
        };
        metrics.register_rest();
        metrics
    }

    /// Counts a finished request.
    pub fn count_request(&self, record: &Record) {
        if let Some(counter) = self.requests.of(record.direction).get(position(record.reason)) {
            counter.inc();
        }
        let duration = Duration::from_micros(record.duration_us);
        self.durations.of(record.direction).observe(duration.as_secs_f64());
    }

    /// Counts a copy of a request that has ended.
    pub fn count_copy(&self, outcome: Copied) {
        let [sent, failed, left_out] = &self.copies;
        match outcome {
            Copied::Sent => sent.inc(),
            Copied::Failed => failed.inc(),
            Copied::LeftOut => left_out.inc(),
        };
    }

    /// Counts a finished connection.
    pub fn count_connection(&self, direction: Direction, reason: Reason) {
        if let Some(counter) = self.connections.of(direction).get(position(reason)) {
            counter.inc();
        }
    }

    /// The text exposition.
    ///
    /// # Errors
    /// When a label cannot be encoded; none of ours can cause this.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn register_rest(&mut self) {
        let Self {
            registry,
            requests: _,
            connections: _,
            durations: _,
            upstream: _,
            checks: _,
            open_connections,
            open_streams,
            access_log_dropped,
            decision_log_dropped,
            decision_stream_dropped,
            config_applied,
            config_rejected,
            control_connected,
            certificate_expiry,
            certificates_issued,
            policies,
            copies: _,
        } = self;
        registry.register("open_connections", "Downstream connections open now", open_connections.clone());
        registry.register("open_streams", "Requests and opaque connections in progress", open_streams.clone());
        registry.register("access_log_dropped", "Access log lines dropped", access_log_dropped.clone());
        registry.register("decision_log_dropped", "Decision records dropped", decision_log_dropped.clone());
        registry.register(
            "decision_stream_dropped",
            "Decision records that the control plane was to get, dropped",
            decision_stream_dropped.clone(),
        );
        registry.register("config_applied", "Configurations swapped in", config_applied.clone());
        registry.register("config_rejected", "Configurations refused", config_rejected.clone());
        registry.register("control_connected", "1 while connected to the control plane", control_connected.clone());
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the workload certificate expires",
            certificate_expiry.clone(),
        );
        registry.register("certificates_issued", "Workload certificates obtained", certificates_issued.clone());
        registry.register_collector(Box::new(policies.clone()));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl<T> ByDirection<T> {
    fn of(&self, direction: Direction) -> &T {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// Counters for every reason, in the order of [`Reason::ALL`].
fn by_reason(registry: &mut Registry, name: &str, help: &str) -> ByDirection<Vec<Counter>> {
    let family = Family::<Labels, Counter>::default();
    registry.register(name, help, family.clone());
    let of = |direction: Direction| {
        let labels = |reason: Reason| Labels { direction: direction.as_str(), reason: reason.as_str() };
        Reason::ALL.into_iter().map(|reason| family.get_or_create(&labels(reason)).clone()).collect()
    };
    ByDirection { inbound: of(Direction::Inbound), outbound: of(Direction::Outbound) }
}

/// Index into [`Reason::ALL`], which lists the reasons in the order of their declaration.
const fn position(reason: Reason) -> usize {
    reason as usize
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn requests_are_counted_by_direction_and_reason() {
        let metrics = Metrics::new();
        let mut record = Record::new(Timestamp::UNIX_EPOCH, "a/b".into(), Direction::Inbound);
        record.reason = Reason::AuthzDenied;
        metrics.count_request(&record);
        let text = metrics.render().unwrap();
        assert!(text.contains("palisade_requests_total{direction=\"inbound\",reason=\"authz-denied\"} 1"), "{text}");
        assert!(text.contains("palisade_requests_total{direction=\"outbound\",reason=\"authz-denied\"} 0"));
    }

    #[test]
    fn positions_follow_the_list_of_reasons() {
        assert!(Reason::ALL.into_iter().enumerate().all(|(index, reason)| position(reason) == index));
    }

    #[test]
    fn the_number_of_series_is_fixed() {
        let metrics = Metrics::new();
        let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        let before = series(&metrics.render().unwrap());
        for reason in Reason::ALL {
            for direction in [Direction::Inbound, Direction::Outbound] {
                let mut record = Record::new(Timestamp::UNIX_EPOCH, "a/b".into(), direction);
                record.reason = reason;
                record.path = Some(format!("/{reason}").into());
                metrics.count_request(&record);
                metrics.count_connection(direction, reason);
            }
        }
        assert_eq!(series(&metrics.render().unwrap()), before);
        assert!(before < 200, "{before} series");
    }
}
