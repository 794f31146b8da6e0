//! What audited and dry-run documents say, beside the decision that counts and from the same look at the request.

use std::sync::Arc;

use palisade_model::policy::{Effect, PolicyMode};

use super::{ConnectionDecision, PolicyEngine, is_forbidding, stage::Hit};
use crate::{
    CompiledPolicy, PolicyRef, RequestFacts,
    eval::{Outcome, RequestState, RequestView, View},
    ir::Actions,
};

/// What audited and dry-run documents say of a request. They never change the answer.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// One entry for each audited and dry-run document, in the order of their first policies.
    pub policies: Vec<RecordedPolicy>,
    /// The decision if all dry-run documents were enforced as well (`true`: allowed); `None` without any.
    pub all_allowed: Option<bool>,
}

/// One document's say.
#[derive(Debug, Clone)]
pub struct RecordedPolicy {
    policy: Arc<CompiledPolicy>,
    /// Whether one of its rules matched. A rule that failed to evaluate counts as matched if it is a forbid.
    pub matched: bool,
    /// The decision if this document alone were enforced as well (`true`: allowed); `None` for an audited one.
    pub allowed: Option<bool>,
}

/// An audited or dry-run document of an engine.
#[derive(Debug)]
pub(super) struct Document {
    /// Place of its first policy, which counts for it.
    head: usize,
    is_shadow: bool,
    /// It has a permit: enforced, it would remove the default.
    permits: bool,
}

/// The documents of an engine.
#[derive(Debug, Default)]
pub(super) struct Documents {
    documents: Vec<Document>,
    /// For each recorded policy the place of its document.
    document_of: Vec<usize>,
}

/// What matched of a document.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The first rule that matched.
    first: Option<usize>,
    is_forbidden: bool,
    is_permitted: bool,
}

/// What the enforced set came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Denied,
    Permitted,
    /// By the mesh's own default, which any enforced permit removes.
    ByDefault,
    Nothing,
}

impl Documents {
    pub(super) fn of(recorded: &[Arc<CompiledPolicy>]) -> Self {
        let mut all = Self::default();
        for (position, policy) in recorded.iter().enumerate() {
            let of = policy.policy();
            let is_same = |document: &Document| {
                recorded.get(document.head).is_some_and(|head| {
                    let head = head.policy();
                    head.mode == of.mode && head.source.is_some() && head.source == of.source
                })
            };
            let at = all.documents.iter().position(is_same).unwrap_or_else(|| {
                let is_shadow = of.mode == PolicyMode::Shadow;
                all.documents.push(Document { head: position, is_shadow, permits: false });
                all.documents.len() - 1
            });
            if let Some(document) = all.documents.get_mut(at) {
                document.permits |= of.effect == Effect::Permit;
            }
            all.document_of.push(at);
        }
        all
    }
}

impl Standing {
    fn of(engine: &PolicyEngine, hit: Hit) -> Self {
        match hit {
            Hit::Forbidden(_) | Hit::Failed(_) => Self::Denied,
            Hit::Nothing => Self::Nothing,
            Hit::Permitted(index) if engine.policy(index).is_some_and(|policy| policy.source.is_some()) => {
                Self::Permitted
            }
            Hit::Permitted(_) => Self::ByDefault,
        }
    }

    fn is_allowed(self) -> bool {
        matches!(self, Self::Permitted | Self::ByDefault)
    }

    /// The decision if these documents were enforced as well.
    fn with<'a>(self, documents: impl Iterator<Item = (&'a Document, &'a Seen)>) -> bool {
        let (mut is_denied, mut is_permitted, mut has_permits) = (self == Self::Denied, self == Self::Permitted, false);
        for (document, seen) in documents {
            is_denied |= seen.is_forbidden;
            is_permitted |= seen.is_permitted;
            has_permits |= document.permits;
        }
        !is_denied && (is_permitted || (self == Self::ByDefault && !has_permits))
    }
}

impl RecordedPolicy {
    /// The document's names; of its rules the first that matched.
    pub fn policy(&self) -> &PolicyRef {
        self.policy.policy()
    }
}

impl PolicyEngine {
    /// Whether there are audited or dry-run documents.
    pub fn records(&self) -> bool {
        !self.recorded.is_empty()
    }

    /// Whether any audited or dry-run document has said something that is worth a line: it matched, or it would change the answer.
    pub fn is_telling(recorded: &Recorded, is_allowed: bool) -> bool {
        recorded.policies.iter().any(|p| p.matched || p.allowed.is_some_and(|allowed| allowed != is_allowed))
    }

    /// What audited and dry-run documents say of a request, without counting it.
    pub fn record_http(&self, connection: &ConnectionDecision, request: &RequestFacts<'_>) -> Recorded {
        let mut lowered = Vec::new();
        let request = RequestView::of(request, &mut lowered);
        let hit = self.hit_http(connection, &request);
        self.recorded_http(connection, &request, hit).0
    }

    /// What audited and dry-run documents say of an opaque connection, without counting it.
    pub fn record_tcp(&self, connection: &ConnectionDecision) -> Recorded {
        let view = self.view(&connection.view, RequestState::Opaque);
        let hit = self.hit_tcp(&view);
        self.recorded_linear(&view, Actions::TCP, hit).0
    }

    pub(super) fn recorded_http(
        &self,
        connection: &ConnectionDecision,
        request: &RequestView<'_>,
        hit: Option<Hit>,
    ) -> (Recorded, Standing) {
        let view = self.view(&connection.view, RequestState::Known(request));
        if connection.generation != self.generation || self.is_on_cedar() {
            return self.recorded_linear(&view, Actions::L7, hit);
        }
        let candidates = connection.recorded.get_or_init(|| self.recorded_candidates(&connection.view));
        let mut seen = vec![Seen::default(); self.documents.documents.len()];
        self.recorded_http
            .for_each_match(&self.recorded, candidates, &view, request, |position| self.note(&mut seen, position));
        self.conclude(&seen, hit)
    }

    /// Without an index: for opaque connections, and where the index is not to be used.
    pub(super) fn recorded_linear(&self, view: &View<'_>, layer: Actions, hit: Option<Hit>) -> (Recorded, Standing) {
        let mut seen = vec![Seen::default(); self.documents.documents.len()];
        for (position, policy) in self.recorded.iter().enumerate().filter(|(_, policy)| policy.is_about(layer)) {
            let outcome = self.outcome(policy, view);
            if outcome == Outcome::True || (policy.is_forbid() && is_forbidding(outcome)) {
                self.note(&mut seen, position);
            }
        }
        self.conclude(&seen, hit)
    }

    fn note(&self, seen: &mut [Seen], position: usize) {
        let Some(document) = self.documents.document_of.get(position) else { return };
        let (Some(seen), Some(policy)) = (seen.get_mut(*document), self.recorded.get(position)) else { return };
        seen.first = Some(seen.first.map_or(position, |first| first.min(position)));
        if policy.is_forbid() {
            seen.is_forbidden = true;
        } else {
            seen.is_permitted = true;
        }
    }

    fn conclude(&self, seen: &[Seen], hit: Option<Hit>) -> (Recorded, Standing) {
        // `None`: the whole target is denied.
        let standing = hit.map_or(Standing::Denied, |hit| Standing::of(self, hit));
        let all = || self.documents.documents.iter().zip(seen);
        let has_shadow = all().any(|(document, _)| document.is_shadow);
        let policies = all().filter_map(|(document, seen)| {
            let policy = self.recorded.get(seen.first.unwrap_or(document.head))?;
            let allowed = document.is_shadow.then(|| standing.with(std::iter::once((document, seen))));
            Some(RecordedPolicy { policy: Arc::clone(policy), matched: seen.first.is_some(), allowed })
        });
        let all_allowed = has_shadow.then(|| standing.with(all().filter(|(document, _)| document.is_shadow)));
        (Recorded { policies: policies.collect(), all_allowed }, standing)
    }

    /// Counts what was recorded, each document by its first policy.
    pub(super) fn count(&self, recorded: &Recorded, standing: Standing) {
        for (document, said) in self.documents.documents.iter().zip(&recorded.policies) {
            let is_change = said.allowed.is_some_and(|allowed| allowed != standing.is_allowed());
            if let Some(head) = self.recorded.get(document.head) {
                head.recordings.count(said.matched, is_change);
            }
        }
    }

    /// The audited and dry-run documents, each by its first policy, with what has been counted.
    pub fn recorded_documents(&self) -> impl Iterator<Item = (&PolicyRef, crate::RecordedCounts)> {
        let heads = self.documents.documents.iter().filter_map(|document| self.recorded.get(document.head));
        heads.map(|head| (head.policy(), head.recordings.read()))
    }
}
