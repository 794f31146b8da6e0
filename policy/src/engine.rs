//! The engine of one policy set: built once, shared by all threads, asked per connection and per request.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use palisade_model::policy::{DenyAll, Effect, PolicyId, PolicyMode, PolicySet};

use crate::{
    CompiledPolicy, ConnectionFacts, Decision, Denial, Permit, PolicyIndex, PolicyRef, RequestFacts,
    admit::permit_all,
    eval::{ConnectionView, Outcome, RequestState, RequestView, Target, View},
    ir::Actions,
};

mod capture;
mod coverage;
mod egress;
mod record;
mod replay;
mod stage;

pub use coverage::{Coverage, Outlook, PolicyCoverage};
pub use record::{Recorded, RecordedPolicy};
pub use replay::{MadeDecision, Replay};

use record::Documents;
use stage::{Candidates, Hit, Stage};

/// The policies of one target, indexed. Immutable; `Send` and `Sync`.
#[derive(Debug)]
pub struct PolicyEngine {
    /// Tells engines apart, so that what a connection remembers of one is never used by another.
    generation: u64,
    target: Target,
    enforced: Vec<Arc<CompiledPolicy>>,
    recorded: Vec<Arc<CompiledPolicy>>,
    http: Stage,
    recorded_http: Stage,
    documents: Documents,
    /// A compiled form proved wrong: Cedar decides.
    on_cedar: AtomicBool,
    denies_all: Option<DeniesAll>,
    tells_grpc_apart: bool,
}

/// Why everything is denied.
#[derive(Debug)]
struct DeniesAll {
    denial: Denial,
    policy: PolicyRef,
    message: String,
}

/// What the engine remembers of one connection.
#[derive(Debug)]
pub struct ConnectionDecision {
    generation: u64,
    facts: ConnectionFacts,
    view: ConnectionView,
    http: OnceLock<Candidates>,
    recorded: OnceLock<Candidates>,
}

/// Traffic that no policy set stands before, by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrestricted {
    /// Outbound traffic of an identity that no egress policy selects: `mesh/default-egress`.
    Egress,
    /// A gateway's AUTO_PASSTHROUGH server: `mesh/auto-passthrough`.
    AutoPassthrough,
}

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

impl PolicyEngine {
    /// The engine of one set. A member that `lookup` does not know, and an enforced forbid that cannot be read, deny the whole target.
    pub fn build(set: &PolicySet, lookup: impl Fn(&PolicyId) -> Option<Arc<CompiledPolicy>>) -> Self {
        let PolicySet { key, policies, deny_all, has_authentication: _, has_external_authorization: _ } = set;
        let mut engine = Self::empty(key);
        let mut denies_all = deny_all.as_ref().map(DeniesAll::of_document);
        for id in policies.iter() {
            let Some(policy) = lookup(id) else {
                denies_all.get_or_insert_with(|| DeniesAll::of_missing(id));
                continue;
            };
            if policy.policy().mode == PolicyMode::Enforce {
                engine.enforced.push(policy);
            } else {
                engine.recorded.push(policy);
            }
        }
        // The mesh's own defaults last: what a document permits is never credited to them.
        engine.enforced.sort_by_key(|policy| policy.policy().source.is_none());
        for (position, policy) in engine.enforced.iter().enumerate() {
            if let Some(problem) = policy.problem().filter(|_| policy.is_forbid()) {
                let denial = Denial::Failed(index_of(position));
                let message = problem.to_owned();
                denies_all.get_or_insert_with(|| DeniesAll { denial, policy: policy.policy().clone(), message });
            }
        }
        engine.http = Stage::build(&engine.enforced, Actions::L7);
        engine.recorded_http = Stage::build(&engine.recorded, Actions::L7);
        engine.documents = Documents::of(&engine.recorded);
        let is_distrusted = engine.enforced.iter().chain(&engine.recorded).any(|p| p.is_distrusted());
        engine.on_cedar = AtomicBool::new(is_distrusted);
        engine.tells_grpc_apart = engine.enforced.iter().chain(&engine.recorded).any(|p| p.tells_grpc_apart());
        engine.denies_all = denies_all;
        engine
    }

    /// An engine that denies everything: for a target whose policy set is not known.
    pub fn deny_all(reason: &DenyAll) -> Self {
        Self { denies_all: Some(DeniesAll::of_document(reason)), ..Self::empty("") }
    }

    /// An engine that permits everything, for what is unrestricted by design.
    pub fn unrestricted(what: Unrestricted) -> Self {
        let id = match what {
            Unrestricted::Egress => "mesh/default-egress",
            Unrestricted::AutoPassthrough => "mesh/auto-passthrough",
        };
        let enforced = vec![Arc::new(CompiledPolicy::load(&permit_all(id)))];
        Self { http: Stage::build(&enforced, Actions::L7), enforced, ..Self::empty("") }
    }

    fn empty(key: &str) -> Self {
        Self {
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
            target: Target::of_key(key),
            enforced: Vec::new(),
            recorded: Vec::new(),
            http: Stage::default(),
            recorded_http: Stage::default(),
            documents: Documents::default(),
            on_cedar: AtomicBool::new(false),
            denies_all: None,
            tells_grpc_apart: false,
        }
    }

    /// What holds for a whole connection: call it once per connection, and again when the engine was replaced.
    pub fn connect(&self, facts: &ConnectionFacts) -> ConnectionDecision {
        ConnectionDecision {
            generation: self.generation,
            facts: facts.clone(),
            view: ConnectionView::of(facts),
            http: OnceLock::new(),
            recorded: OnceLock::new(),
        }
    }

    /// Decides one request, without allocating for an authority in lower case. A connection that another engine has looked at is looked at
    /// again, at some cost. What audited and dry-run documents say is neither asked nor counted.
    pub fn decide_http(&self, connection: &ConnectionDecision, request: &RequestFacts<'_>) -> Decision {
        if connection.generation == self.generation
            && self.denies_all.is_none()
            && !self.is_on_cedar()
            && let Some(hit) = connection.http.get().and_then(|candidates| candidates.constant)
        {
            return decision(hit);
        }
        let mut lowered = Vec::new();
        let request = RequestView::of(request, &mut lowered);
        self.decision(self.hit_http(connection, &request))
    }

    /// Decides one request and says and counts what audited and dry-run documents make of it; `None` where there are none.
    pub fn judge_http(
        &self,
        connection: &ConnectionDecision,
        request: &RequestFacts<'_>,
    ) -> (Decision, Option<Recorded>) {
        if !self.records() {
            return (self.decide_http(connection, request), None);
        }
        let mut lowered = Vec::new();
        let request = RequestView::of(request, &mut lowered);
        let hit = self.hit_http(connection, &request);
        let (recorded, standing) = self.recorded_http(connection, &request, hit);
        self.count(&recorded, standing);
        (self.decision(hit), Some(recorded))
    }

    /// Decides an opaque connection, by the TCP forms of the policies.
    pub fn decide_tcp(&self, connection: &ConnectionDecision) -> Decision {
        self.decision(self.hit_tcp(&self.view(&connection.view, RequestState::Opaque)))
    }

    /// As [`PolicyEngine::judge_http`], of an opaque connection.
    pub fn judge_tcp(&self, connection: &ConnectionDecision) -> (Decision, Option<Recorded>) {
        let view = self.view(&connection.view, RequestState::Opaque);
        let hit = self.hit_tcp(&view);
        let recorded = self.records().then(|| {
            let (recorded, standing) = self.recorded_linear(&view, Actions::TCP, hit);
            self.count(&recorded, standing);
            recorded
        });
        (self.decision(hit), recorded)
    }

    /// What the enforced set says of a request; `None`: the whole target is denied.
    fn hit_http(&self, connection: &ConnectionDecision, request: &RequestView<'_>) -> Option<Hit> {
        if self.denies_all.is_some() {
            return None;
        }
        let view = self.view(&connection.view, RequestState::Known(request));
        if self.is_on_cedar() {
            return Some(stage::decide_all(&self.enforced, &view, CompiledPolicy::eval_by_cedar));
        }
        let fresh;
        let candidates = if connection.generation == self.generation {
            connection.http.get_or_init(|| self.candidates(&connection.view))
        } else {
            fresh = self.candidates(&connection.view);
            &fresh
        };
        let decide = || self.http.decide(&self.enforced, candidates, &view, request);
        Some(candidates.constant.unwrap_or_else(decide))
    }

    /// What the enforced set says of a whole view; `None`: the whole target is denied.
    fn hit_tcp(&self, view: &View<'_>) -> Option<Hit> {
        if self.denies_all.is_some() {
            return None;
        }
        Some(stage::decide_all(&self.enforced, view, |policy, view| self.outcome(policy, view)))
    }

    /// One policy's word, by Cedar where compiled forms are no longer trusted.
    fn outcome(&self, policy: &CompiledPolicy, view: &View<'_>) -> Outcome {
        if self.is_on_cedar() { policy.eval_by_cedar(view) } else { policy.eval(view) }
    }

    fn decision(&self, hit: Option<Hit>) -> Decision {
        match (hit, &self.denies_all) {
            (Some(hit), None) => decision(hit),
            (_, Some(denies_all)) => Decision::Deny(denies_all.denial),
            // INVARIANT: only a whole denial has no hit.
            (None, None) => Decision::Deny(Denial::DenyAll),
        }
    }

    /// A policy of this engine.
    pub fn policy(&self, index: PolicyIndex) -> Option<&PolicyRef> {
        self.enforced.get(usize::try_from(index.0).ok()?).map(|p| p.policy())
    }

    /// The policy that decided; `None` for the default deny.
    pub fn deciding(&self, decision: &Decision) -> Option<&PolicyRef> {
        match decision {
            Decision::Allow(permit) => self.policy(permit.policy()),
            Decision::Deny(Denial::Forbidden(index) | Denial::Failed(index)) => self.policy(*index),
            Decision::Deny(Denial::DenyAll) => self.denies_all.as_ref().map(|d| &d.policy),
            Decision::Deny(Denial::NoPermit) => None,
        }
    }

    /// Members that cannot be read, with the reason: for status.
    pub fn problems(&self) -> impl Iterator<Item = (&PolicyRef, &str)> {
        self.enforced.iter().chain(&self.recorded).filter_map(|p| Some((p.policy(), p.problem()?)))
    }

    fn candidates(&self, connection: &ConnectionView) -> Candidates {
        // Whether the request is a gRPC call is not known yet; a policy that asks is never folded to a constant.
        let view = View { action: Actions::HTTP, target: &self.target, connection, request: RequestState::Pending };
        self.http.candidates(&self.enforced, &view, self.tells_grpc_apart)
    }

    fn recorded_candidates(&self, connection: &ConnectionView) -> Candidates {
        let view = View { action: Actions::HTTP, target: &self.target, connection, request: RequestState::Pending };
        self.recorded_http.candidates(&self.recorded, &view, self.tells_grpc_apart)
    }

    fn view<'a>(&'a self, connection: &'a ConnectionView, request: RequestState<'a>) -> View<'a> {
        let action = match request {
            RequestState::Opaque => Actions::TCP,
            RequestState::Known(request) if self.tells_grpc_apart && request.is_grpc() => Actions::GRPC,
            RequestState::Known(_) | RequestState::Pending => Actions::HTTP,
        };
        View { action, target: &self.target, connection, request }
    }
}

impl ConnectionDecision {
    /// The facts that it was made from.
    pub fn facts(&self) -> &ConnectionFacts {
        &self.facts
    }

    /// Whether every request of this connection will be decided alike, as far as requests asked so far have shown; `Some(true)`: allowed.
    pub fn constant(&self) -> Option<bool> {
        self.http.get().and_then(|c| c.constant).map(|hit| matches!(hit, Hit::Permitted(_)))
    }
}

impl DeniesAll {
    fn of_document(reason: &DenyAll) -> Self {
        let DenyAll { id, source, message } = reason;
        // The id of a broken rule names it: `NAMESPACE/NAME[RULE]`.
        let rule =
            id.as_str().strip_suffix(']').and_then(|id| id.rsplit_once('[')).and_then(|(_, rule)| rule.parse().ok());
        let policy = PolicyRef {
            id: id.clone(),
            source: source.clone(),
            rule,
            effect: Effect::Forbid,
            mode: PolicyMode::Enforce,
        };
        Self { denial: Denial::DenyAll, policy, message: message.to_string() }
    }

    fn of_missing(id: &PolicyId) -> Self {
        let policy =
            PolicyRef { id: id.clone(), source: None, rule: None, effect: Effect::Forbid, mode: PolicyMode::Enforce };
        Self { denial: Denial::DenyAll, policy, message: format!("policy `{id}` of this target is missing") }
    }
}

fn index_of(position: usize) -> PolicyIndex {
    PolicyIndex(u32::try_from(position).unwrap_or(u32::MAX))
}

fn decision(hit: Hit) -> Decision {
    match hit {
        Hit::Permitted(index) => Decision::Allow(Permit::granted_by(index)),
        Hit::Forbidden(index) => Decision::Deny(Denial::Forbidden(index)),
        Hit::Failed(index) => Decision::Deny(Denial::Failed(index)),
        Hit::Nothing => Decision::Deny(Denial::NoPermit),
    }
}

/// A forbid that fails denies as if it had matched; so does one whose word is still not known when it is needed.
fn is_forbidding(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::True | Outcome::Error | Outcome::Unknown)
}
