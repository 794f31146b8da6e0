//! What the engine answers.

use palisade_model::{
    origin::Origin,
    policy::{Effect, Policy, PolicyId, PolicyMode},
};

/// The verdict on one request or connection.
#[derive(Debug)]
#[must_use = "a decision that nobody reads protects nothing"]
pub enum Decision {
    /// Go on, with the proof.
    Allow(Permit),
    /// Stop here.
    Deny(Denial),
}

/// Proof that a request or connection was authorized. Only the engine makes one, and it cannot be copied; whoever picks an upstream peer
/// takes it by reference, so forwarding without authorization does not compile.
#[derive(Debug)]
pub struct Permit {
    policy: PolicyIndex,
}

/// Why a request or connection was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// This forbid matched.
    Forbidden(PolicyIndex),
    /// This forbid could not be evaluated, or cannot be read at all.
    Failed(PolicyIndex),
    /// No permit matched: the default.
    NoPermit,
    /// The whole target is denied, because a document that protects it is broken.
    DenyAll,
}

/// A policy's place in its engine; means nothing to another engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyIndex(pub(crate) u32);

/// What logs and explanations say of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRef {
    /// Stable id.
    pub id: PolicyId,
    /// The user's document; `None` for the mesh's own default permits.
    pub source: Option<Origin>,
    /// Index of the rule in the document.
    pub rule: Option<u32>,
    /// Permit or forbid.
    pub effect: Effect,
    /// Enforced, audited or shadowed.
    pub mode: PolicyMode,
}

impl Decision {
    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

impl Permit {
    pub(crate) fn granted_by(policy: PolicyIndex) -> Self {
        Self { policy }
    }

    /// The permit policy that matched first, in canonical order.
    pub fn policy(&self) -> PolicyIndex {
        self.policy
    }
}

impl From<&Policy> for PolicyRef {
    fn from(policy: &Policy) -> Self {
        let Policy { id, source, rule, effect, mode, cedar: _, ir_version: _, ir: _ } = policy;
        Self { id: id.clone(), source: source.clone(), rule: *rule, effect: *effect, mode: *mode }
    }
}
