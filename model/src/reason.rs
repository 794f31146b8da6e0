//! Why a request or connection ended as it did: the closed list that `eval`, access log, metrics and `why` share.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One outcome's reason. The names are stable and documented in `docs/reference/reasons.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Served by an upstream; status as upstream.
    Ok,
    /// An authorization policy denied: 403, gRPC 7.
    AuthzDenied,
    /// An external authorizer denied: its own status.
    ExtAuthzDenied,
    /// An external authorizer was missing, failed or timed out: 403 or the status set for errors.
    ExtAuthzUnavailable,
    /// A token was presented and is not valid: 401, gRPC 16.
    JwtInvalid,
    /// A valid token for another audience: 403, gRPC 7.
    JwtAudience,
    /// Inbound at a pod: plaintext under STRICT, a wrong or missing certificate, a foreign trust domain.
    PeerRefused,
    /// Gateway: no listener or SNI takes the connection.
    NoFilterChain,
    /// No route matches: 404, gRPC 12.
    NoRoute,
    /// The chosen cluster does not exist: 503 (Gateway API: 500), gRPC 14.
    NoCluster,
    /// The chosen cluster has no usable endpoint: 503 (Gateway API: 500), gRPC 14.
    NoEndpoints,
    /// REGISTRY_ONLY and the host is in no registry: 502, gRPC 14.
    EgressUnknownHost,
    /// An egress policy denied: 403, gRPC 7.
    EgressDenied,
    /// Connecting upstream failed: 503, gRPC 14.
    UpstreamConnect,
    /// The upstream reset before or during its answer: 503, gRPC 14.
    UpstreamReset,
    /// The upstream broke the protocol: 502, gRPC 14.
    UpstreamProtocol,
    /// Route or per-try timeout: 504, gRPC 4.
    Timeout,
    /// A circuit breaker is open: 503, gRPC 14.
    Overflow,
    /// A rate limit is used up: 429, gRPC 8.
    RateLimited,
    /// The proxy sheds load: 503, gRPC 14.
    Overloaded,
    /// A configured fault aborted the request.
    FaultAbort,
    /// A configured redirect.
    Redirect,
    /// A configured direct response.
    DirectResponse,
    /// A CORS preflight answered by the proxy.
    CorsPreflight,
    /// The request body exceeds its limit: 413, gRPC 8.
    BodyTooLarge,
    /// The request did not arrive in time: 408, gRPC 4.
    RequestTimeout,
    /// The stream or connection was idle for too long: closed, gRPC 14.
    IdleTimeout,
    /// Malformed, ambiguous path, smuggling: 400, gRPC 3.
    BadRequest,
    /// Headers exceed their limit: 431, gRPC 3.
    HeadersTooLarge,
    /// The authority does not belong to this TLS connection: 421, gRPC 3.
    Misdirected,
    /// Not yet known and no control plane to ask: 503, gRPC 14.
    ConfigUnavailable,
    /// The proxy is draining: 503, gRPC 14.
    Draining,
    /// The client went away first.
    DownstreamClosed,
}

impl Reason {
    /// Every reason, in the order of the reference page.
    pub const ALL: [Self; 33] = [
        Self::Ok,
        Self::AuthzDenied,
        Self::ExtAuthzDenied,
        Self::ExtAuthzUnavailable,
        Self::JwtInvalid,
        Self::JwtAudience,
        Self::PeerRefused,
        Self::NoFilterChain,
        Self::NoRoute,
        Self::NoCluster,
        Self::NoEndpoints,
        Self::EgressUnknownHost,
        Self::EgressDenied,
        Self::UpstreamConnect,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::Timeout,
        Self::Overflow,
        Self::RateLimited,
        Self::Overloaded,
        Self::FaultAbort,
        Self::Redirect,
        Self::DirectResponse,
        Self::CorsPreflight,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::IdleTimeout,
        Self::BadRequest,
        Self::HeadersTooLarge,
        Self::Misdirected,
        Self::ConfigUnavailable,
        Self::Draining,
        Self::DownstreamClosed,
    ];

    /// The stable name, as in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::AuthzDenied => "authz-denied",
            Self::ExtAuthzDenied => "ext-authz-denied",
            Self::ExtAuthzUnavailable => "ext-authz-unavailable",
            Self::JwtInvalid => "jwt-invalid",
            Self::JwtAudience => "jwt-audience",
            Self::PeerRefused => "peer-refused",
            Self::NoFilterChain => "no-filter-chain",
            Self::NoRoute => "no-route",
            Self::NoCluster => "no-cluster",
            Self::NoEndpoints => "no-endpoints",
            Self::EgressUnknownHost => "egress-unknown-host",
            Self::EgressDenied => "egress-denied",
            Self::UpstreamConnect => "upstream-connect",
            Self::UpstreamReset => "upstream-reset",
            Self::UpstreamProtocol => "upstream-protocol",
            Self::Timeout => "timeout",
            Self::Overflow => "overflow",
            Self::RateLimited => "rate-limited",
            Self::Overloaded => "overloaded",
            Self::FaultAbort => "fault-abort",
            Self::Redirect => "redirect",
            Self::DirectResponse => "direct-response",
            Self::CorsPreflight => "cors-preflight",
            Self::BodyTooLarge => "body-too-large",
            Self::RequestTimeout => "request-timeout",
            Self::IdleTimeout => "idle-timeout",
            Self::BadRequest => "bad-request",
            Self::HeadersTooLarge => "headers-too-large",
            Self::Misdirected => "misdirected",
            Self::ConfigUnavailable => "config-unavailable",
            Self::Draining => "draining",
            Self::DownstreamClosed => "downstream-closed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_serialized_form_equals_them() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
