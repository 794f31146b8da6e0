//! The engine of one policy set: built once, shared by all threads, asked per connection and per request.

use std::sync::Arc;

use palisade_model::policy::{DenyAll, Policy, PolicyId, PolicySet};

use crate::{
    CapturedHttp, CapturedRequest, ConnectionFacts, Decision, Denial, Explanation, PolicyIndex, PolicyRef, RequestFacts,
};

/// One policy, ready to be evaluated; shared by all sets that it is in, and kept across configurations that do not change it.
#[derive(Debug)]
pub struct CompiledPolicy {
    policy: PolicyRef,
}

/// The policies of one target, indexed. Immutable; `Send` and `Sync`.
#[derive(Debug)]
pub struct PolicyEngine {
    policies: Vec<PolicyRef>,
}

/// What the engine remembers of one connection.
#[derive(Debug)]
pub struct ConnectionDecision {
    facts: ConnectionFacts,
}

/// Traffic that no policy set stands before, by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrestricted {
    /// Outbound traffic of an identity that no egress policy selects: `mesh/default-egress`.
    Egress,
    /// A gateway's AUTO_PASSTHROUGH server: `mesh/auto-passthrough`.
    AutoPassthrough,
}

/// What audited and shadowed policies say of a request. They never change the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// One entry for each audited and shadowed policy, in canonical order.
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
    /// The decision if the policy's document alone were enforced as well (`true`: allowed); `None` for an audited policy.
    pub allowed: Option<bool>,
}

impl CompiledPolicy {
    /// Loads a policy from its compiled form; from its text when that form's version is unknown or its bytes are damaged. Never fails: a
    /// policy that cannot be read at all grants nothing if it is a permit, and denies the whole target if it is a forbid.
    pub fn load(policy: &Policy) -> Self {
        Self { policy: policy.into() }
    }

    /// The policy's names.
    pub fn policy(&self) -> &PolicyRef {
        &self.policy
    }

    /// Why this policy cannot be read; `None` for a sound one.
    pub fn problem(&self) -> Option<&str> {
        None
    }

    /// How often Cedar itself had to evaluate this policy, because it has no compiled form.
    pub fn fallback_evaluations(&self) -> u64 {
        0
    }

    /// How often evaluating this policy failed.
    pub fn evaluation_errors(&self) -> u64 {
        0
    }
}

impl PolicyEngine {
    /// The engine of one set. A member that `lookup` does not know denies the whole target.
    pub fn build(set: &PolicySet, lookup: impl Fn(&PolicyId) -> Option<Arc<CompiledPolicy>>) -> Self {
        let policies = set.policies.iter().filter_map(|id| lookup(id).map(|p| p.policy.clone())).collect();
        Self { policies }
    }

    /// An engine that denies everything: for a target whose policy set is not known.
    pub fn deny_all(reason: DenyAll) -> Self {
        let _ = reason;
        Self { policies: Vec::new() }
    }

    /// An engine that permits everything, for what is unrestricted by design.
    pub fn unrestricted(what: Unrestricted) -> Self {
        let _ = what;
        Self { policies: Vec::new() }
    }

    /// What holds for a whole connection: call it once per connection, and again when the engine was replaced.
    pub fn connect(&self, facts: &ConnectionFacts) -> ConnectionDecision {
        ConnectionDecision { facts: facts.clone() }
    }

    /// Decides one request. A connection that another engine has looked at is looked at again, at some cost.
    pub fn decide_http(&self, connection: &ConnectionDecision, request: &RequestFacts<'_>) -> Decision {
        let _ = (connection, request);
        Decision::Deny(Denial::NoPermit)
    }

    /// Decides an opaque connection, by the TCP forms of the policies.
    pub fn decide_tcp(&self, connection: &ConnectionDecision) -> Decision {
        let _ = connection;
        Decision::Deny(Denial::NoPermit)
    }

    /// Whether there are audited or shadowed policies, so that recording is worth asking for.
    pub fn records(&self) -> bool {
        false
    }

    /// What audited and shadowed policies say of a request.
    pub fn record_http(&self, connection: &ConnectionDecision, request: &RequestFacts<'_>) -> Recorded {
        let _ = (connection, request);
        Recorded { policies: Vec::new(), all_allowed: None }
    }

    /// What audited and shadowed policies say of an opaque connection.
    pub fn record_tcp(&self, connection: &ConnectionDecision) -> Recorded {
        let _ = connection;
        Recorded { policies: Vec::new(), all_allowed: None }
    }

    /// Copies what [`PolicyEngine::explain`] needs; of the header lines only those that the policies mention.
    pub fn capture_http(&self, connection: &ConnectionDecision, request: &RequestFacts<'_>) -> CapturedRequest {
        let http = CapturedHttp {
            method: request.method.to_owned(),
            scheme: request.scheme.to_owned(),
            authority: request.authority.to_vec(),
            path: request.path.to_vec(),
            headers: Vec::new(),
            remote_ip: request.remote_ip,
            jwt: request.jwt.cloned(),
            now: request.now,
        };
        CapturedRequest { connection: connection.facts.clone(), http: Some(http) }
    }

    /// Copies what [`PolicyEngine::explain`] needs of an opaque connection.
    pub fn capture_tcp(&self, connection: &ConnectionDecision) -> CapturedRequest {
        CapturedRequest { connection: connection.facts.clone(), http: None }
    }

    /// Decides again, slowly, and says why: for `why`, `eval` and the admin page.
    pub fn explain(&self, captured: &CapturedRequest) -> Explanation {
        let _ = captured;
        Explanation { allowed: false, policies: Vec::new(), nearest: Vec::new(), message: None }
    }

    /// A policy of this engine.
    pub fn policy(&self, index: PolicyIndex) -> Option<&PolicyRef> {
        self.policies.get(usize::try_from(index.0).ok()?)
    }

    /// The policy that decided; `None` for the default deny.
    pub fn deciding(&self, decision: &Decision) -> Option<&PolicyRef> {
        match decision {
            Decision::Allow(permit) => self.policy(permit.policy()),
            Decision::Deny(Denial::Forbidden(index) | Denial::Failed(index)) => self.policy(*index),
            Decision::Deny(Denial::NoPermit | Denial::DenyAll) => None,
        }
    }
}

impl ConnectionDecision {
    /// The facts that it was made from.
    pub fn facts(&self) -> &ConnectionFacts {
        &self.facts
    }
}
