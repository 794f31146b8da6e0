//! Counters of circuit breakers and ejections. Labels are closed enumerations: no cluster, no address.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::index::Cause;

/// A limit that turned something away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections, of opaque traffic.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests running.
    Requests,
    /// Retries running.
    Retries,
}

/// What happened at upstreams.
#[derive(Debug)]
pub struct UpstreamMetrics {
    overflows: Vec<Counter>,
    ejections: Vec<Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

impl Limit {
    const ALL: [Self; 4] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

impl UpstreamMetrics {
    /// All series, at zero.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let overflows = Family::<LimitLabel, Counter>::default();
        registry.register(
            "upstream_overflows",
            "Requests, connections and retries that a circuit breaker turned away, by the limit",
            overflows.clone(),
        );
        let ejections = Family::<CauseLabel, Counter>::default();
        registry.register("upstream_ejections", "Endpoints ejected, by the cause", ejections.clone());
        let limit = |limit: Limit| overflows.get_or_create(&LimitLabel { limit: limit.as_str() }).clone();
        let cause = |cause: Cause| ejections.get_or_create(&CauseLabel { cause: cause.as_str() }).clone();
        Self {
            overflows: Limit::ALL.into_iter().map(limit).collect(),
            ejections: Cause::ALL.into_iter().map(cause).collect(),
        }
    }

    /// Counts what a limit turned away.
    pub fn count_overflow(&self, limit: Limit) {
        if let Some(counter) = self.overflows.get(limit as usize) {
            counter.inc();
        }
    }

    /// Counts an ejection.
    pub fn count_ejection(&self, cause: Cause) {
        if let Some(counter) = self.ejections.get(cause as usize) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_lists() {
        assert!(Limit::ALL.into_iter().enumerate().all(|(index, limit)| limit as usize == index));
        assert!(Cause::ALL.into_iter().enumerate().all(|(index, cause)| cause as usize == index));
    }
}
