//! What policies count, read when somebody asks: the engines keep the counts, nothing is copied while traffic flows.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
};

use palisade_model::policy::PolicyMode;
use palisade_policy::{EngineTotals, RecordedCounts};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::counter::ConstCounter,
};

use crate::index::RuntimeIndex;

/// The configuration whose policies are counted.
#[derive(Debug, Clone, Default)]
pub struct PolicyCounts(Arc<Mutex<Weak<RuntimeIndex>>>);

/// One audited or dry-run document; their number is bounded by configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct DocumentLabels {
    kind: String,
    namespace: String,
    name: String,
    mode: &'static str,
}

impl PolicyCounts {
    /// From now on this configuration's policies are counted.
    pub fn follow(&self, index: &Arc<RuntimeIndex>) {
        *self.0.lock() = Arc::downgrade(index);
    }
}

impl Collector for PolicyCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let index = self.0.lock().upgrade();
        let none = EngineTotals::default();
        let totals = index.as_ref().map_or(&none, |index| index.policies().totals());
        for (name, help, count) in [
            ("policy_errors", "Errors while evaluating policies; each one denied or did not match", totals.errors()),
            ("policy_fallbacks", "Evaluations of single policies by Cedar itself", totals.fallbacks()),
            ("policy_replays", "Decisions made again on Cedar itself, off the request's path", totals.replays()),
            (
                "policy_replay_mismatches",
                "Policies that Cedar judged otherwise than their compiled form",
                totals.mismatches(),
            ),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let documents = index.as_deref().map(documents).unwrap_or_default();
        type Read = fn(&RecordedCounts) -> u64;
        let matched: (_, _, Read) =
            ("policy_recorded_matches", "Requests that an audited or dry-run policy matched", |counts| counts.matched);
        let changed: (_, _, Read) = (
            "policy_recorded_changes",
            "Requests whose answer a dry-run policy would have changed, enforced by itself",
            |counts| counts.changed,
        );
        for (name, help, read) in [matched, changed] {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, counts) in &documents {
                ConstCounter::new(read(counts)).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn documents(index: &RuntimeIndex) -> BTreeMap<DocumentLabels, RecordedCounts> {
    let mut documents = BTreeMap::new();
    for (policy, counts) in index.policies().recorded_documents() {
        let Some(source) = &policy.source else { continue };
        let mode = match policy.mode {
            PolicyMode::Audit => "audit",
            PolicyMode::Shadow => "dry-run",
            // Never recorded.
            PolicyMode::Enforce => continue,
        };
        let labels = DocumentLabels {
            kind: source.kind.to_string(),
            namespace: source.namespace.to_string(),
            name: source.name.to_string(),
            mode,
        };
        // A document in several sets counts once: its first policy is shared by all of them.
        documents.insert(labels, counts);
    }
    documents
}
