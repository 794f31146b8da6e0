//! Policy engines: one per policy set, rebuilt only when a member or the set itself changed.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use palisade_model::{
    hash::ContentHash,
    origin::Origin,
    policy::{DenyAll, PolicyId, PolicyMode},
    resource::{Resource, ResourceKind},
    snapshot::Snapshot,
};
use palisade_policy::{CompiledPolicy, EngineTotals, PolicyEngine, PolicyRef, RecordedCounts, Unrestricted};

/// The engines of a snapshot.
#[derive(Debug)]
pub struct PolicyTable {
    policies: AHashMap<Arc<str>, (ContentHash, Arc<CompiledPolicy>)>,
    sets: AHashMap<Arc<str>, IndexedSet>,
    unknown: Arc<PolicyEngine>,
    egress: Arc<PolicyEngine>,
    passthrough: Arc<PolicyEngine>,
    /// Counts of the whole process, handed on from table to table.
    totals: Arc<EngineTotals>,
}

#[derive(Debug, Clone)]
struct IndexedSet {
    hash: ContentHash,
    engine: Arc<PolicyEngine>,
}

impl PolicyTable {
    pub(super) fn build(snapshot: &Snapshot, previous: Option<&Self>) -> Self {
        let totals = previous.map(|p| Arc::clone(&p.totals)).unwrap_or_default();
        let edited = previous.map(|previous| previous.edited_documents(snapshot)).unwrap_or_default();
        let mut changed = AHashSet::new();
        let mut policies = AHashMap::new();
        for entry in snapshot.of_kind(ResourceKind::Policy) {
            let Resource::Policy(policy) = entry.resource() else { continue };
            let name = &entry.key().name;
            let is_counted_anew =
                is_recorded(policy.mode) && policy.source.as_ref().is_some_and(|s| edited.contains(s));
            let held = previous.and_then(|p| p.policies.get(name));
            let held = held.filter(|(hash, _)| *hash == entry.hash() && !is_counted_anew);
            let compiled = held.map(|(_, compiled)| Arc::clone(compiled)).unwrap_or_else(|| {
                changed.insert(Arc::clone(name));
                Arc::new(CompiledPolicy::load_counted(policy, &totals))
            });
            policies.insert(Arc::clone(name), (entry.hash(), compiled));
        }
        let mut sets = AHashMap::new();
        for entry in snapshot.of_kind(ResourceKind::PolicySet) {
            let Resource::PolicySet(set) = entry.resource() else { continue };
            let held = previous.and_then(|p| p.sets.get(&set.key)).filter(|held| {
                held.hash == entry.hash() && !set.policies.iter().any(|PolicyId(id)| changed.contains(id))
            });
            let indexed = held.cloned().unwrap_or_else(|| {
                let lookup = |PolicyId(id): &PolicyId| policies.get(id).map(|(_, compiled)| Arc::clone(compiled));
                IndexedSet { hash: entry.hash(), engine: Arc::new(PolicyEngine::build(set, lookup)) }
            });
            sets.insert(Arc::clone(&set.key), indexed);
        }
        let (unknown, egress, passthrough) = match previous {
            Some(held) => (Arc::clone(&held.unknown), Arc::clone(&held.egress), Arc::clone(&held.passthrough)),
            None => (
                Arc::new(PolicyEngine::deny_all(&DenyAll {
                    id: PolicyId("mesh/unknown-policy-set".into()),
                    source: None,
                    message: "the policy set of this target is not known".into(),
                })),
                Arc::new(PolicyEngine::unrestricted(Unrestricted::Egress)),
                Arc::new(PolicyEngine::unrestricted(Unrestricted::AutoPassthrough)),
            ),
        };
        Self { policies, sets, unknown, egress, passthrough, totals }
    }

    /// Audited and dry-run documents that are not in a snapshot as they are here: one of their policies counts for all of them, and what it
    /// has counted is about other rules.
    fn edited_documents(&self, snapshot: &Snapshot) -> AHashSet<Origin> {
        let is_held = |name: &str, hash: ContentHash| self.policies.get(name).is_some_and(|(held, _)| *held == hash);
        let mut edited = AHashSet::new();
        for entry in snapshot.of_kind(ResourceKind::Policy) {
            let Resource::Policy(policy) = entry.resource() else { continue };
            if is_recorded(policy.mode) && !is_held(&entry.key().name, entry.hash()) {
                edited.extend(policy.source.clone());
            }
        }
        for (name, (_, compiled)) in &self.policies {
            let policy = compiled.policy();
            if is_recorded(policy.mode) && snapshot.get(ResourceKind::Policy, name).is_none() {
                edited.extend(policy.source.clone());
            }
        }
        edited
    }

    /// The engine of a set; one that denies everything when the set is not known.
    pub fn engine(&self, set: &str) -> &Arc<PolicyEngine> {
        self.sets.get(set).map_or(&self.unknown, |indexed| &indexed.engine)
    }

    /// What all policies that this process ever loaded have counted together.
    pub fn totals(&self) -> &EngineTotals {
        &self.totals
    }

    /// Every audited and dry-run document of every set, with what it has counted; one that several sets share comes several times.
    pub fn recorded_documents(&self) -> impl Iterator<Item = (&PolicyRef, RecordedCounts)> {
        self.sets.values().flat_map(|indexed| indexed.engine.recorded_documents())
    }

    /// The engine of outbound traffic that no egress policy selects.
    pub fn egress(&self) -> &Arc<PolicyEngine> {
        &self.egress
    }

    /// The engine of AUTO_PASSTHROUGH servers, which Istio does not authorize.
    pub fn auto_passthrough(&self) -> &Arc<PolicyEngine> {
        &self.passthrough
    }
}

/// Whether policies of this mode count what they match.
fn is_recorded(mode: PolicyMode) -> bool {
    match mode {
        PolicyMode::Audit | PolicyMode::Shadow => true,
        PolicyMode::Enforce => false,
    }
}
