//! From a rule to the policies that enforce it: translate, validate, compile; and what a broken rule does instead.

use palisade_model::policy::{DenyAll, Policy};

use crate::{RuleSpec, TrustDomains};

/// What became of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Policies to add to the sets of the rule's targets: none, one, or two (`ID` and its TCP form `ID@tcp`).
    pub policies: Vec<Policy>,
    /// A broken DENY rule denies its whole target: this belongs into the sets of its targets.
    pub deny_all: Option<DenyAll>,
    /// What is wrong, or worth knowing, by field; empty for a sound rule.
    pub problems: Vec<RuleProblem>,
}

/// Something wrong in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleProblem {
    /// Field path inside the rule, for example `from[0].source.ipBlocks[1]`.
    pub field: String,
    /// What is wrong there, lower case, one line.
    pub message: String,
}

/// Translates, validates and compiles one rule. Never fails: a broken rule becomes what "What a broken policy does" says, and its problems.
pub fn admit_rule(rule: &RuleSpec, domains: &TrustDomains) -> Admission {
    let _ = (rule, domains);
    Admission { policies: Vec::new(), deny_all: None, problems: Vec::new() }
}

/// The permit that stands where no ALLOW policy selects a workload, id `mesh/default-allow`. One policy serves all targets.
pub fn default_permit() -> Policy {
    Policy {
        id: palisade_model::policy::PolicyId("mesh/default-allow".into()),
        source: None,
        rule: None,
        effect: palisade_model::policy::Effect::Permit,
        mode: palisade_model::policy::PolicyMode::Enforce,
        cedar: "".into(),
        ir_version: 0,
        ir: bytes::Bytes::new(),
    }
}

/// A set holds one [`DenyAll`]: the first by id, so that the result does not depend on the order of arrival.
pub fn fold_deny_all(a: Option<DenyAll>, b: Option<DenyAll>) -> Option<DenyAll> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b < a { b } else { a }),
        (a, b) => a.or(b),
    }
}
