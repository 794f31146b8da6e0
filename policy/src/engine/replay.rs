//! A decision made again by Cedar itself, off the request's path: the guard against a compiled form that is wrong.

use std::sync::atomic::Ordering;

use super::PolicyEngine;
use crate::{
    CapturedRequest, PolicyRef,
    eval::{ConnectionView, Outcome, RequestState, RequestView, View},
};

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// Cedar says the same of every policy.
    Agrees,
    /// The request cannot be put into Cedar: a text in it is not UTF-8.
    NotComparable,
    /// Cedar judges these policies otherwise. From now on Cedar decides for this engine.
    Differs(Vec<PolicyRef>),
}

impl PolicyEngine {
    /// Evaluates every policy of the engine on Cedar, over the same facts, and compares. Takes tens of microseconds a policy. On a
    /// difference the engine, and every later one with such a policy in it, decides on Cedar alone.
    pub fn replay(&self, captured: &CapturedRequest) -> Replay {
        let connection = ConnectionView::of(&captured.connection);
        let mut lowered = Vec::new();
        let replay = match &captured.http {
            // Nothing of egress is indexed or folded; its conditions are the same as those of requests.
            _ if captured.egress_host.is_some() => Replay::Agrees,
            None => self.replay_view(&self.view(&connection, RequestState::Opaque)),
            Some(http) => {
                let facts = http.facts();
                let request = RequestView::of(&facts, &mut lowered);
                self.replay_view(&self.view(&connection, RequestState::Known(&request)))
            }
        };
        let mismatches = if let Replay::Differs(policies) = &replay { policies.len() } else { 0 };
        if let Some(policy) = self.enforced.iter().chain(&self.recorded).next() {
            policy.totals().count_replay(u64::try_from(mismatches).unwrap_or(u64::MAX));
        }
        replay
    }

    fn replay_view(&self, view: &View<'_>) -> Replay {
        let mut differing = Vec::new();
        for policy in self.enforced.iter().chain(&self.recorded).filter(|policy| policy.program().is_some()) {
            let Some(expected) = policy.eval_on_cedar(view) else { return Replay::NotComparable };
            // What is not there is an error to both, but Cedar also gives up where a stack is short: an error of its own says nothing
            // against the compiled form.
            let is_same = expected == policy.eval_compiled(view) || expected == Outcome::Error;
            if !is_same {
                policy.distrust();
                differing.push(policy.policy().clone());
            }
        }
        if differing.is_empty() {
            return Replay::Agrees;
        }
        self.on_cedar.store(true, Ordering::Relaxed);
        Replay::Differs(differing)
    }

    /// Whether Cedar decides, because a compiled form proved wrong.
    pub fn is_on_cedar(&self) -> bool {
        self.on_cedar.load(Ordering::Relaxed)
    }
}
