//! Tokens of requests: which are accepted at one target, where they are looked for, and what becomes of their claims.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The tokens that one target accepts: all RequestAuthentications that select it, merged.
///
/// A request without a token passes unless a rule requires one. A token that no rule verifies is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// Key of the policy set of the same target.
    pub key: Arc<str>,
    /// Rules, sorted by issuer: the first that verifies a token speaks for the request.
    pub rules: Arc<[TokenRule]>,
    /// Why every token is refused, whatever the rules say (a document that could not be read); `None` normally.
    pub refuse_tokens: Option<Arc<str>>,
}

/// One kind of token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRule {
    /// The `iss` claim; `None` = any.
    pub issuer: Option<Arc<str>>,
    /// One of these must be in `aud`; empty = any.
    pub audiences: Arc<[Arc<str>]>,
    /// A JSON Web Key Set; empty = no keys are known, and every token of the rule is refused.
    pub keys: Arc<str>,
    /// Where the token is looked for, in order; never empty.
    pub locations: Arc<[TokenLocation]>,
    /// The verified token stays in the request.
    pub forwards_token: bool,
    /// Header that carries the payload upstream, base64url without padding.
    pub payload_header: Option<Arc<str>>,
    /// Claims that become headers upstream.
    pub claim_headers: Arc<[ClaimHeader]>,
    /// Claims whose text is a list with spaces, beside `scope` and `permission`.
    pub space_delimited: Arc<[Arc<str>]>,
    /// A request without this rule's token is refused.
    pub is_required: bool,
}

/// A place that carries a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLocation {
    /// A header line.
    Header {
        /// Lower-case name.
        name: Arc<str>,
        /// What stands before the token, trailing space included; empty = the whole value.
        prefix: Arc<str>,
    },
    /// A query parameter.
    Query(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

/// A claim that becomes a header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClaimHeader {
    /// Lower-case name of the header.
    pub header: Arc<str>,
    /// Name of the claim, nested ones with dots.
    pub claim: Arc<str>,
}
