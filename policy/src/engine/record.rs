//! What audited and shadowed policies say, beside the decision that counts.

use palisade_model::{origin::Origin, policy::PolicyMode};

use super::{ConnectionDecision, PolicyEngine, is_forbidding};
use crate::{
    PolicyRef, RequestFacts,
    eval::{Outcome, RequestState, RequestView, View},
    ir::Actions,
};

/// What audited and shadowed policies say of a request. They never change the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// One entry for each audited and shadowed rule, in canonical order.
    pub policies: Vec<RecordedPolicy>,
    /// The decision if all shadowed policies were enforced as well (`true`: allowed); `None` without shadowed policies.
    pub all_allowed: Option<bool>,
}

/// One audited or shadowed policy's say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedPolicy {
    /// The policy.
    pub policy: PolicyRef,
    /// Whether it matched. A policy that failed to evaluate counts as matched if it is a forbid.
    pub matched: bool,
    /// The decision if the policy's whole document were enforced as well (`true`: allowed); `None` for an audited policy.
    pub allowed: Option<bool>,
}

/// What the enforced set says, apart by side.
struct Verdict {
    is_denied: bool,
    /// A permit of a document matched; the mesh's own default does not count, because any ALLOW document removes it.
    is_permitted: bool,
    is_default_permitted: bool,
}

impl PolicyEngine {
    /// Whether there are audited or shadowed policies, so that recording is worth asking for.
    pub fn records(&self) -> bool {
        !self.recorded.is_empty()
    }

    /// What audited and shadowed policies say of a request.
    pub fn record_http(&self, connection: &ConnectionDecision, request: &RequestFacts<'_>) -> Recorded {
        let mut lowered = Vec::new();
        let request = RequestView::of(request, &mut lowered);
        self.record(&self.view(&connection.view, RequestState::Known(&request)))
    }

    /// What audited and shadowed policies say of an opaque connection.
    pub fn record_tcp(&self, connection: &ConnectionDecision) -> Recorded {
        self.record(&self.view(&connection.view, RequestState::Opaque))
    }

    fn record(&self, view: &View<'_>) -> Recorded {
        let layer = if view.action == Actions::TCP { Actions::TCP } else { Actions::L7 };
        // A rule with two forms speaks once. One that has no form on this layer speaks too: its document counts.
        let has_other_form = |policy: &PolicyRef| {
            let is_form = |p: &PolicyRef| (&p.source, p.rule, p.mode) == (&policy.source, policy.rule, policy.mode);
            self.recorded.iter().any(|p| p.is_about(layer) && is_form(p.policy()))
        };
        let said: Vec<(&PolicyRef, bool)> = self
            .recorded
            .iter()
            .filter(|p| p.is_about(layer) || !has_other_form(p.policy()))
            .map(|p| {
                let outcome = p.eval(view);
                (p.policy(), outcome == Outcome::True || (p.is_forbid() && is_forbidding(outcome)))
            })
            .collect();
        let is_shadow = |policy: &PolicyRef| policy.mode == PolicyMode::Shadow;
        let has_shadow = said.iter().any(|(policy, _)| is_shadow(policy));
        let enforced = has_shadow.then(|| self.verdict(view));
        let with = |is_member: &dyn Fn(&PolicyRef) -> bool| {
            enforced.as_ref().map(|enforced| enforced.with(said.iter().filter(|(p, _)| is_shadow(p) && is_member(p))))
        };
        let policies = said
            .iter()
            .map(|(policy, matched)| {
                let document: Option<&Origin> = policy.source.as_ref();
                let allowed = if is_shadow(policy) {
                    with(&|p| p.id == policy.id || (document.is_some() && p.source.as_ref() == document))
                } else {
                    None
                };
                RecordedPolicy { policy: (*policy).clone(), matched: *matched, allowed }
            })
            .collect();
        Recorded { policies, all_allowed: with(&|_| true) }
    }

    fn verdict(&self, view: &View<'_>) -> Verdict {
        let mut verdict =
            Verdict { is_denied: self.denies_all.is_some(), is_permitted: false, is_default_permitted: false };
        for policy in &self.enforced {
            let outcome = policy.eval(view);
            if policy.is_forbid() {
                verdict.is_denied |= is_forbidding(outcome);
            } else if outcome == Outcome::True {
                if policy.policy().source.is_some() {
                    verdict.is_permitted = true;
                } else {
                    verdict.is_default_permitted = true;
                }
            }
        }
        verdict
    }
}

impl Verdict {
    /// The decision if these policies were enforced as well.
    fn with<'a>(&self, shadows: impl Iterator<Item = &'a (&'a PolicyRef, bool)>) -> bool {
        let (mut is_denied, mut is_permitted, mut has_permits) = (self.is_denied, self.is_permitted, false);
        for (policy, matched) in shadows {
            match policy.effect {
                palisade_model::policy::Effect::Forbid => is_denied |= *matched,
                palisade_model::policy::Effect::Permit => {
                    has_permits = true;
                    is_permitted |= *matched;
                }
            }
        }
        !is_denied && (is_permitted || (self.is_default_permitted && !has_permits))
    }
}
