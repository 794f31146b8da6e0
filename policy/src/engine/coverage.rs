//! Which rules and clauses a set of requests has touched, and what a whole connection comes to: for tests of policies and views of them.

use std::collections::BTreeMap;

use palisade_model::policy::PolicyId;

use super::{ConnectionDecision, PolicyEngine, stage::Hit};
use crate::{
    CapturedRequest, CompiledPolicy, ConnectionFacts, PolicyRef,
    eval::{ConnectionView, Outcome, RequestState, RequestView, Target, View},
    explain::clauses,
    ir::Actions,
};

/// What requests have touched, by policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// By policy id.
    pub policies: BTreeMap<PolicyId, PolicyCoverage>,
}

/// What of one policy was touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyCoverage {
    /// Requests that it matched.
    pub matched: u64,
    /// By field path: how often the clause held, and how often it did not.
    pub clauses: BTreeMap<String, (u64, u64)>,
}

/// What a connection comes to before any request is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outlook {
    /// Whatever it carries is allowed.
    Allowed,
    /// Whatever it carries is denied.
    Denied,
    /// It depends on the request.
    Depends,
}

impl CompiledPolicy {
    /// The field paths of the policy's clauses, in written order; empty for one without a compiled form.
    pub fn clauses(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(program) = self.program() {
            clauses(&program.condition, program, &mut |field, _| {
                if !all.contains(&field) {
                    all.push(field);
                }
            });
        }
        all
    }
}

impl PolicyEngine {
    /// Notes what one request touched. Takes microseconds a policy.
    pub fn cover(&self, captured: &CapturedRequest, coverage: &mut Coverage) {
        let connection = ConnectionView::of(&captured.connection);
        let outside = captured.egress_host.as_deref().map(Target::external);
        let target = outside.as_ref().unwrap_or(&self.target);
        let (facts, mut lowered) = (captured.http.as_ref().map(|http| http.facts()), Vec::new());
        let request = facts.as_ref().map(|facts| RequestView::of(facts, &mut lowered));
        let mut view = match &request {
            Some(request) => self.view(&connection, RequestState::Known(request)),
            None => self.view(&connection, RequestState::Opaque),
        };
        if outside.is_some() {
            let action = if request.is_some() { Actions::EGRESS_HTTP } else { Actions::EGRESS_TCP };
            view = View { action, target, ..view };
        }
        for policy in self.enforced.iter().chain(&self.recorded).filter(|policy| policy.is_about(view.action)) {
            let covered = coverage.policies.entry(policy.policy().id.clone()).or_default();
            if policy.eval_compiled(&view) == Outcome::True {
                covered.matched += 1;
            }
            let Some(program) = policy.program() else { continue };
            clauses(&program.condition, program, &mut |field, nodes| {
                let holds = nodes.iter().all(|node| node.eval(&view, false) == Outcome::True);
                let counts = covered.clauses.entry(field).or_default();
                let side = if holds { &mut counts.0 } else { &mut counts.1 };
                *side += 1;
            });
        }
    }

    /// What HTTP requests on a connection come to, and the policy that decides where one alone does.
    pub fn outlook_http(&self, facts: &ConnectionFacts) -> (Outlook, Option<&PolicyRef>) {
        if let Some(denies_all) = &self.denies_all {
            return (Outlook::Denied, Some(&denies_all.policy));
        }
        match self.candidates(&ConnectionView::of(facts)).constant {
            None => (Outlook::Depends, None),
            Some(Hit::Permitted(index)) => (Outlook::Allowed, self.policy(index)),
            Some(Hit::Forbidden(index) | Hit::Failed(index)) => (Outlook::Denied, self.policy(index)),
            Some(Hit::Nothing) => (Outlook::Denied, None),
        }
    }

    /// What an opaque connection comes to, and the policy that decides.
    pub fn outlook_tcp(&self, facts: &ConnectionFacts) -> (Outlook, Option<&PolicyRef>) {
        let connection: ConnectionDecision = self.connect(facts);
        let decision = self.decide_tcp(&connection);
        let outlook = if decision.is_allowed() { Outlook::Allowed } else { Outlook::Denied };
        (outlook, self.deciding(&decision))
    }

    /// The enforced policies, then the audited and dry-run ones, each in canonical order.
    pub fn members(&self) -> impl Iterator<Item = &PolicyRef> {
        self.enforced.iter().chain(&self.recorded).map(|policy| policy.policy())
    }

    /// Why the whole target is denied, whatever the members say; `None` normally.
    pub fn denies_all(&self) -> Option<(&PolicyRef, &str)> {
        self.denies_all.as_ref().map(|all| (&all.policy, all.message.as_str()))
    }
}
