//! Authorization policies as resources: one per rule, with its Cedar text and its compiled form.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::origin::Origin;

/// A policy's stable id: `NAMESPACE/NAME[RULE]`, or `mesh/default-allow` for the permit that stands where nothing restricts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyId(pub Arc<str>);

/// What a satisfied policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Cedar `permit`.
    Permit,
    /// Cedar `forbid`; wins over every permit, and an error in it denies.
    Forbid,
}

/// Which set a policy belongs to. Sets are evaluated apart and never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMode {
    /// Decides requests.
    Enforce,
    /// Istio's AUDIT: only recorded when it matches.
    Audit,
    /// A dry run: decided beside the enforced set, recorded, never answered.
    Shadow,
}

/// One policy: one rule of the user's document (architecture rule 12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Stable id, shown in logs and explanations.
    pub id: PolicyId,
    /// The document that the rule stands in; `None` for the mesh's own default permits.
    pub source: Option<Origin>,
    /// Index of the rule in the document's own list; `None` where there is no list.
    pub rule: Option<u32>,
    /// Permit or forbid.
    pub effect: Effect,
    /// Enforced, audited or shadowed.
    pub mode: PolicyMode,
    /// Cedar text: what is stored, shown and, when in doubt, decided by.
    pub cedar: Arc<str>,
    /// Encoding version of `ir`; a reader that does not know it compiles `cedar` instead.
    pub ir_version: u32,
    /// The compiled condition, encoded by the policy crate. Empty: this text has no compiled form and runs on Cedar itself.
    pub ir: bytes::Bytes,
}

/// Authorization of one target (a workload, a gateway): the policies that select it, in canonical order.
///
/// A set without any enforced permit denies everything: the mesh's default permit is an explicit member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySet {
    /// What the set protects, for example `workload/NS/NAME` or `gateway/NS/NAME`.
    pub key: Arc<str>,
    /// Members, sorted by id and mode.
    pub policies: Arc<[PolicyId]>,
    /// Why the whole target is denied, whatever the members say (a document that could not be read); `None` normally.
    pub deny_all: Option<DenyAll>,
    /// Token rules of the same key stand before the set: without them it would mean something else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_authentication: bool,
    /// External checks of the same key stand before the set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_external_authorization: bool,
}

/// A document so broken that its whole target is denied (the table "What a broken policy does").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DenyAll {
    /// The id that denials name.
    pub id: PolicyId,
    /// The broken document.
    pub source: Option<Origin>,
    /// What is wrong with it, for explanations.
    pub message: Arc<str>,
}

impl PolicyId {
    /// The id of one rule of a document.
    pub fn of_rule(namespace: &str, name: &str, rule: usize) -> Self {
        Self(format!("{namespace}/{name}[{rule}]").into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
