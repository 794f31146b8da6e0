//! Who may: authorization rules as Cedar text, compiled to an indexed matcher that decides without allocating.
//!
//! The control plane calls [`admit_rule`] for each rule of a document: it translates the rule to Cedar text, validates it strictly and
//! compiles it, and says what is wrong with a broken one. A proxy loads each [`palisade_model::policy::Policy`] once as a
//! [`CompiledPolicy`], builds one [`PolicyEngine`] per policy set, asks it [`PolicyEngine::connect`] per connection and
//! [`PolicyEngine::decide_http`] per request, and forwards only with the [`Permit`] that it got.
//!
//! Everything fails closed: what is unknown, missing, unreadable or failing denies.

mod admit;
mod cedar_document;
mod check;
mod claims;
mod compile;
mod compiled;
mod counts;
mod decision;
mod decision_id;
mod engine;
mod eval;
mod explain;
mod facts;
mod fallback;
mod form;
mod glob;
mod index;
mod ipset;
mod ir;
mod pattern;
mod peer;
mod rule;
mod schema;
mod translate;

pub use admit::{
    Admission, RuleProblem, admit_rule, default_egress_permit, default_permit, document_marker, fold_deny_all,
};
pub use cedar_document::{CedarAdmission, CedarDocument, CedarShare, TemplateLink, admit_cedar};
pub use check::{Finding, MAX_DEPTH, MAX_TEXT_BYTES, check_text};
pub use compiled::CompiledPolicy;
pub use counts::{EngineTotals, RecordedCounts};
pub use decision::{Decision, Denial, Permit, PolicyIndex, PolicyRef};
pub use decision_id::{DecisionId, DecisionIds, InvalidDecisionId, ShortId};
pub use engine::{
    ConnectionDecision, Coverage, MadeDecision, Outlook, PolicyCoverage, PolicyEngine, Recorded, RecordedPolicy,
    Replay, Unrestricted,
};
pub use explain::{CapturedHttp, CapturedRequest, Explanation, FailedClause, NearMiss, RecordedExplanation};
pub use facts::{
    CertificateNames, ClaimSet, ConnectionFacts, HeaderLines, JwtFacts, Peer, RequestFacts, TlsFacts, claim_key,
};
pub use rule::{Condition, Operation, RuleAction, RuleSpec, Source, TrustDomains};
pub use schema::SCHEMA;

#[cfg(test)]
mod tests;
