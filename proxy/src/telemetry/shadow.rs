//! What audited and dry-run policies say of a request, as logs show it.

use std::sync::Arc;

use palisade_policy::{PolicyEngine, RecordedPolicy};
use serde::Serialize;

use crate::request::verdict::Authorization;

/// The audited and dry-run policies that matched a request or would change its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShadowRecord {
    /// Each by itself.
    pub policies: Vec<ShadowPolicy>,
    /// `allow` or `deny`: the decision if all dry-run policies were enforced as well; `null` without any.
    pub all: Option<&'static str>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShadowPolicy {
    /// Namespace of the document.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The first rule that matched.
    pub rule: Option<u32>,
    /// Whether a rule matched.
    pub matched: bool,
    /// `allow` or `deny`: the decision if it alone were enforced as well; `null` for an audited one.
    pub decision: Option<&'static str>,
}

impl ShadowRecord {
    /// What is worth a line; `None` where nothing matched and nothing would change.
    pub fn of(said: &Authorization) -> Option<Self> {
        let recorded =
            said.recorded.as_deref().filter(|recorded| PolicyEngine::is_telling(recorded, said.is_allowed))?;
        let is_telling =
            |policy: &&RecordedPolicy| policy.matched || policy.allowed.is_some_and(|it| it != said.is_allowed);
        let policies = recorded.policies.iter().filter(is_telling).filter_map(ShadowPolicy::of).collect();
        Some(Self { policies, all: recorded.all_allowed.map(word) })
    }
}

impl ShadowPolicy {
    /// `None` for a policy that stands in no document.
    pub fn of(recorded: &RecordedPolicy) -> Option<Self> {
        let policy = recorded.policy();
        let source = policy.source.as_ref()?;
        Some(Self {
            namespace: Arc::clone(&source.namespace),
            name: Arc::clone(&source.name),
            rule: policy.rule.filter(|_| recorded.matched),
            matched: recorded.matched,
            decision: recorded.allowed.map(word),
        })
    }
}

/// `allow` or `deny`.
pub const fn word(is_allowed: bool) -> &'static str {
    if is_allowed { "allow" } else { "deny" }
}
