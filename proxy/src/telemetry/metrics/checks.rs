//! Counters of questions to external authorizers. Labels are closed enumerations: no provider, no address.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::request::external::{CheckAnswer, kept::AnswerSource};

/// Answers of external authorizers, by where they came from and what they were.
#[derive(Debug)]
pub struct CheckMetrics(Vec<Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    from: &'static str,
    answer: &'static str,
}

const SOURCES: [(AnswerSource, &str); 4] = [
    (AnswerSource::Provider, "provider"),
    (AnswerSource::Cache, "cache"),
    (AnswerSource::Flight, "flight"),
    (AnswerSource::DryRun, "dry-run"),
];
const ANSWERS: [&str; 3] = ["allowed", "denied", "unavailable"];

impl CheckMetrics {
    /// All series, at zero.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::<CheckLabels, Counter>::default();
        registry.register("ext_authz_checks", "Answers of external authorizers, by source and answer", family.clone());
        let of = |from| ANSWERS.map(|answer| family.get_or_create(&CheckLabels { from, answer }).clone());
        Self(SOURCES.iter().flat_map(|(_, from)| of(from)).collect())
    }

    /// Counts an answer.
    pub fn count(&self, from: AnswerSource, answer: &CheckAnswer) {
        let kind = match answer {
            CheckAnswer::Allowed(_) => 0,
            CheckAnswer::Denied(_) | CheckAnswer::BodyTooLarge => 1,
            CheckAnswer::Unavailable(_) => 2,
        };
        if let Some(counter) = self.0.get(from as usize * ANSWERS.len() + kind) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_list() {
        assert!(SOURCES.into_iter().enumerate().all(|(index, (source, _))| source as usize == index));
    }
}
