//! What became of a case, compared with what was expected.

use palisade_crds::palisade::Expectation;
use palisade_proxy::request::authorize::Depth;

use super::coverage::Touched;
use crate::eval::{Answer, Case, World, judge_observed};

/// What became of a case, as far as a test can ask.
#[derive(Debug)]
pub(super) struct Found {
    outcome: &'static str,
    decision: Option<&'static str>,
    status: Option<u16>,
    reason: &'static str,
    /// `NAMESPACE/NAME` and rule of the deciding policy.
    policy: Option<(String, Option<u32>)>,
}

/// Judges a case.
///
/// # Errors
/// What of the case cannot be.
pub(super) fn judge(world: &mut World, case: &Case, touched: Option<&mut Touched>) -> Result<Found, String> {
    let answer = match touched {
        None => judge_observed(world, case, Depth::Usual, &mut |_| {})?,
        Some(touched) => judge_observed(world, case, Depth::Sampled, &mut |said| {
            if let Some(captured) = &said.captured {
                said.engine.cover(captured, touched.coverage());
            }
        })?,
    };
    Ok(Found::of(&answer))
}

impl Found {
    fn of(answer: &Answer) -> Self {
        let (decision, policy) = answer.decided();
        Self { outcome: answer.outcome(), decision, status: answer.status(), reason: answer.reason(), policy }
    }

    /// What differs from an expectation; only what is written there is compared.
    pub(super) fn differences(&self, expect: &Expectation) -> Vec<String> {
        let Expectation { outcome, decision, status, reason, policy, rule } = expect;
        let mut differences = Vec::new();
        let mut compare = |what: &str, expected: Option<String>, actual: Option<String>| {
            if let Some(expected) = expected
                && Some(&expected) != actual.as_ref()
            {
                let actual = actual.filter(|text| !text.is_empty()).unwrap_or_else(|| "none".to_owned());
                let expected = if expected.is_empty() { "none".to_owned() } else { expected };
                differences.push(format!("{what}: expected {expected}, got {actual}"));
            }
        };
        let decided = self.policy.as_ref();
        compare("outcome", outcome.map(|o| o.as_str().to_owned()), Some(self.outcome.to_owned()));
        compare("decision", decision.map(|d| d.as_str().to_owned()), self.decision.map(str::to_owned));
        compare("status", status.map(|s| s.to_string()), self.status.map(|s| s.to_string()));
        compare("reason", reason.clone(), Some(self.reason.to_owned()));
        let name = decided.map_or_else(String::new, |(name, _)| name.clone());
        compare("policy", policy.clone(), Some(name));
        let index = decided.and_then(|(_, rule)| *rule).map(|rule| rule.to_string());
        compare("rule", rule.map(|rule| rule.to_string()), index);
        differences
    }
}
