//! RequestAuthentication: which tokens are accepted. <https://istio.io/latest/docs/reference/config/security/request_authentication/>

use super::{PolicyTargetReference, WorkloadSelector};
use crate::duration::Duration;
use crate::schema::Check::{Each, Items, Length, Pattern, Positive, Rule};
use crate::schema::formats::is_plain_header;
use crate::schema::url::request_scheme;

record! {
    /// The spec of a RequestAuthentication.
    pub struct RequestAuthentication {
        /// Workloads it applies to.
        selector: Option<WorkloadSelector> = "selector";
        /// Deprecated: one target.
        target_ref: Option<PolicyTargetReference> = "targetRef";
        /// Objects it applies to.
        target_refs: Vec<PolicyTargetReference> = "targetRefs" [Items(0, 16)];
        /// Tokens that are accepted. A request without a token passes.
        jwt_rules: Vec<JwtRule> = "jwtRules" [Items(0, 4096)];
    }
    at_most_one ["selector", "targetRef", "targetRefs"];
}

impl RequestAuthentication {
    /// All targets, however they are written.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        self.target_ref.iter().chain(&self.target_refs)
    }
}

record! {
    /// One kind of token.
    pub struct JwtRule {
        /// The `iss` claim; absent is any issuer.
        issuer: Option<String> = "issuer" [Length(1, usize::MAX)];
        /// One of these must be in `aud`; empty is any.
        audiences: Vec<String> = "audiences" [Each(&[Length(1, usize::MAX)])];
        /// Where the keys are.
        jwks_uri: Option<String> = "jwksUri" [Length(1, 2048), Rule("an http or https URL", is_http_url, "url(self).getScheme() in ['http', 'https']")];
        /// The same under its protobuf name.
        jwks_uri_proto: Option<String> = "jwks_uri" [Length(1, 2048), Rule("an http or https URL", is_http_url, "url(self).getScheme() in ['http', 'https']")];
        /// The keys themselves, a JSON Web Key Set.
        jwks: Option<String> = "jwks";
        /// Headers that carry the token. If any place is given, only the given places count.
        from_headers: Vec<JwtHeader> = "fromHeaders";
        /// Query parameters that carry the token.
        from_params: Vec<String> = "fromParams" [Each(&[Length(1, usize::MAX)])];
        /// Cookies that carry the token.
        from_cookies: Vec<String> = "fromCookies" [Each(&[Length(1, usize::MAX)])];
        /// Header that carries the payload upstream; empty is none.
        output_payload_to_header: String = "outputPayloadToHeader" or String::new();
        /// Leave the token in the request.
        forward_original_token: bool = "forwardOriginalToken";
        /// Claims that become headers upstream.
        output_claim_to_headers: Vec<ClaimToHeader> = "outputClaimToHeaders";
        /// Limit of fetching the keys; absent is 5 s.
        timeout: Option<Duration> = "timeout" [Positive];
        /// Claims whose text is a list with spaces, beside `scope` and `permission`.
        space_delimited_claims: Vec<String> = "spaceDelimitedClaims" [Items(0, 64), Each(&[Length(1, usize::MAX)])];
        /// Whether a token must be there; absent is no.
        presence: Option<JwtPresence> = "presence";
    }
    at_most_one ["jwksUri", "jwks_uri", "jwks"];
}

record! {
    /// A header that carries a token.
    pub struct JwtHeader {
        /// Its name.
        name: String = "name" [Length(1, usize::MAX)];
        /// What stands before the token, its trailing space included.
        prefix: String = "prefix" or String::new();
    }
}

record! {
    /// A claim that becomes a header.
    pub struct ClaimToHeader {
        /// Name of the header.
        header: String = "header" [Length(1, usize::MAX), Pattern("letters, digits, `-` and `_`", is_plain_header, "^[-_A-Za-z0-9]+$")];
        /// Name of the claim, nested ones with dots.
        claim: String = "claim" [Length(1, usize::MAX)];
    }
}

choice! {
    /// Whether a token must be there.
    pub enum JwtPresence {
        /// A request without a token passes.
        Optional = "OPTIONAL",
        /// A request without a token is refused.
        Required = "REQUIRED",
    }
}

fn is_http_url(text: &str) -> bool {
    request_scheme(text).is_some_and(|scheme| matches!(scheme.as_str(), "http" | "https"))
}
