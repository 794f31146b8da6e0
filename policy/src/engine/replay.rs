//! A decision made again by Cedar itself, off the request's path: the guard against a compiled form, or an index over them, that is wrong.

use std::sync::{Arc, atomic::Ordering};

use palisade_model::policy::PolicyId;

use super::{PolicyEngine, is_forbidding};
use crate::{
    CapturedRequest, CompiledPolicy, PolicyRef,
    eval::{Outcome, View},
};

/// The decision that is looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeDecision {
    /// Whether it allowed.
    pub is_allowed: bool,
    /// The policy that decided; `None` for the default deny.
    pub policy: Option<PolicyId>,
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// Cedar says the same of every policy, and of the decision.
    Agrees,
    /// The request cannot be put into Cedar: a text in it is not UTF-8.
    NotComparable,
    /// Cedar judges these policies otherwise, or the decision that they make together. From now on Cedar decides for this engine.
    Differs(Vec<PolicyRef>),
}

impl PolicyEngine {
    /// Evaluates every policy of the engine on Cedar, over the same facts, and compares: each with its compiled form, and all together with
    /// the decision that was made. Takes tens of microseconds a policy. On a difference the engine, and every later one with such a policy
    /// in it, decides on Cedar alone.
    pub fn replay(&self, captured: &CapturedRequest, made: &MadeDecision) -> Replay {
        let replay = self.with_view(captured, |view| self.replay_view(view, made));
        let mismatches = if let Replay::Differs(policies) = &replay { policies.len().max(1) } else { 0 };
        if let Some(policy) = self.enforced.iter().chain(&self.recorded).next() {
            policy.totals().count_replay(u64::try_from(mismatches).unwrap_or(u64::MAX));
        }
        replay
    }

    fn replay_view(&self, view: &View<'_>, made: &MadeDecision) -> Replay {
        let mut differing: Vec<&Arc<CompiledPolicy>> = Vec::new();
        // What Cedar says of the enforced policies; `None` where it gave up.
        let mut said: Option<Vec<(&Arc<CompiledPolicy>, Outcome)>> = Some(Vec::new());
        for (position, policy) in self.enforced.iter().chain(&self.recorded).enumerate() {
            // What cannot be read fails, whoever evaluates it.
            let on_cedar = if policy.problem().is_some() { Some(Outcome::Error) } else { policy.eval_on_cedar(view) };
            let Some(expected) = on_cedar else { return Replay::NotComparable };
            if policy.program().is_some() {
                let actual = policy.eval_compiled(view);
                // What is not there is an error to both, but Cedar also gives up where a stack is short: an error of its own says nothing
                // against the compiled form.
                if expected == Outcome::Error && actual != Outcome::Error {
                    said = None;
                } else if expected != actual {
                    differing.push(policy);
                }
            }
            if let Some(said) = said.as_mut().filter(|_| position < self.enforced.len()) {
                said.push((policy, expected));
            }
        }
        if differing.is_empty() {
            let Some(expected) = said.as_deref().map(|said| self.by_cedar(said)) else { return Replay::Agrees };
            if expected == made.is_allowed {
                return Replay::Agrees;
            }
            // Each policy is right and their decision is not: the index is at fault, about those that decide.
            let decides = |(policy, outcome): &(&Arc<CompiledPolicy>, Outcome)| match policy.is_forbid() {
                true => is_forbidding(*outcome),
                false => expected && *outcome == Outcome::True,
            };
            let of_decision = said.iter().flatten().filter(|said| decides(said)).map(|(policy, _)| *policy);
            let of_made = self.enforced.iter().filter(|policy| made.policy.as_ref() == Some(&policy.policy().id));
            differing = of_decision.chain(of_made).collect();
        }
        differing.iter().for_each(|policy| policy.distrust());
        self.on_cedar.store(true, Ordering::Relaxed);
        Replay::Differs(differing.into_iter().map(|policy| policy.policy().clone()).collect())
    }

    /// Whether Cedar allows, from what it says of every enforced policy.
    fn by_cedar(&self, said: &[(&Arc<CompiledPolicy>, Outcome)]) -> bool {
        let is_forbidden = said.iter().any(|(policy, outcome)| policy.is_forbid() && is_forbidding(*outcome));
        let is_permitted = said.iter().any(|(policy, outcome)| !policy.is_forbid() && *outcome == Outcome::True);
        self.denies_all.is_none() && !is_forbidden && is_permitted
    }

    /// Whether Cedar decides, because a compiled form proved wrong.
    pub fn is_on_cedar(&self) -> bool {
        self.on_cedar.load(Ordering::Relaxed)
    }
}
