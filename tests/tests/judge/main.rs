//! Envoy's own filters as judges: the random corpus of rules and requests through its RBAC filters, tokens through its JWT filter.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of it is tests; indexing a JSON value gives null, it does not panic"
)]

mod certificates;
mod client;
mod envoy;
mod rbac;
mod rules;
mod tokens;

// The corpus and the naive interpreter are those that the engine's own tests read.
#[path = "../../../policy/src/tests/facts.rs"]
#[expect(dead_code, reason = "the engine's own tests use the rest")]
mod facts;
#[path = "../../../policy/src/tests/naive.rs"]
mod naive;
#[path = "../../../policy/src/tests/random.rs"]
#[expect(dead_code, reason = "the engine's own tests use the rest")]
mod random;
// Tokens are signed as in the verifier's own tests.
#[path = "../../../proxy/src/request/tokens/tests/signer.rs"]
#[expect(dead_code, reason = "the verifier's own tests use the rest")]
mod signer;

use palisade_policy::{
    Admission, CertificateNames, ClaimSet, CompiledPolicy, Condition, ConnectionFacts, Decision, JwtFacts, Operation,
    Peer, PolicyEngine, RequestFacts, RuleAction, RuleSpec, Source, TlsFacts, TrustDomains, admit_rule, default_permit,
    fold_deny_all,
};
