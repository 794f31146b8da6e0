//! Why a decision came out as it did: the deciding policies, or the nearest misses and the clauses that failed.

use std::{net::IpAddr, time::SystemTime};

use crate::{ConnectionFacts, JwtFacts, PolicyRef};

/// An owned copy of what one decision was made from; [`crate::PolicyEngine::capture_http`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedRequest {
    /// The connection.
    pub connection: ConnectionFacts,
    /// The request; `None` for an opaque connection.
    pub http: Option<CapturedHttp>,
}

/// An owned copy of a request, with only those header lines that the engine's policies mention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedHttp {
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Authority, port included.
    pub authority: Vec<u8>,
    /// Path as the engine saw it, query included.
    pub path: Vec<u8>,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The original client.
    pub remote_ip: IpAddr,
    /// The verified token.
    pub jwt: Option<JwtFacts>,
    /// The time of the request.
    pub now: SystemTime,
}

/// The whole story of one decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The verdict.
    pub allowed: bool,
    /// All policies that matched on the deciding side, the deciding one first; empty for the default deny.
    pub policies: Vec<PolicyRef>,
    /// For the default deny: the permits that came nearest, fewest failed clauses first. At most [`NearMiss::LIMIT`].
    pub nearest: Vec<NearMiss>,
    /// For a target that is denied as a whole: what is wrong.
    pub message: Option<String>,
}

/// A permit that did not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The permit.
    pub policy: PolicyRef,
    /// What would have to be otherwise.
    pub failed: Vec<FailedClause>,
}

/// One clause that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedClause {
    /// Field path in the rule, for example `to[0].operation.methods`.
    pub field: String,
    /// What the rule names there.
    pub expected: Vec<String>,
    /// What the request had; empty when it had nothing.
    pub actual: String,
}

impl NearMiss {
    /// How many misses are told at most.
    pub const LIMIT: usize = 8;
}
