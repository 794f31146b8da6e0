//! From a reason to the status that says it, in HTTP and in gRPC: the table of `docs/reference/reasons.md`.

use palisade_model::reason::Reason;

/// What a refusal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status for callers that do not speak gRPC.
    pub http: u16,
    /// gRPC status for those that do.
    pub grpc: u32,
}

/// The refusal of a reason; `None` where the answer is not the proxy's (an upstream's, a configured one, a closed
/// connection).
pub const fn refusal(reason: Reason) -> Option<Refusal> {
    let (http, grpc) = match reason {
        Reason::AuthzDenied
        | Reason::EgressDenied
        | Reason::JwtAudience
        | Reason::ExtAuthzDenied
        | Reason::ExtAuthzUnavailable => (403, 7),
        Reason::JwtInvalid => (401, 16),
        Reason::NoRoute => (404, 12),
        Reason::NoCluster
        | Reason::NoEndpoints
        | Reason::UpstreamConnect
        | Reason::UpstreamReset
        | Reason::Overflow
        | Reason::Overloaded
        | Reason::ConfigUnavailable
        | Reason::Draining => (503, 14),
        Reason::EgressUnknownHost | Reason::UpstreamProtocol => (502, 14),
        Reason::Timeout => (504, 4),
        Reason::RateLimited => (429, 8),
        Reason::BodyTooLarge => (413, 8),
        Reason::RequestTimeout => (408, 4),
        Reason::BadRequest => (400, 3),
        Reason::HeadersTooLarge => (431, 3),
        Reason::Misdirected => (421, 3),
        Reason::Ok
        | Reason::PeerRefused
        | Reason::NoFilterChain
        | Reason::FaultAbort
        | Reason::Redirect
        | Reason::DirectResponse
        | Reason::CorsPreflight
        | Reason::IdleTimeout
        | Reason::DownstreamClosed => return None,
    };
    Some(Refusal { http, grpc })
}

/// The gRPC status that stands for an HTTP status (gRPC's `http-grpc-status-mapping.md`).
pub const fn grpc_of_http(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The HTTP status that stands for a gRPC status (Google's `code.proto`).
pub const fn http_of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_holds() {
        for (reason, http, grpc) in [
            (Reason::AuthzDenied, 403, 7),
            (Reason::JwtInvalid, 401, 16),
            (Reason::NoRoute, 404, 12),
            (Reason::NoCluster, 503, 14),
            (Reason::EgressUnknownHost, 502, 14),
            (Reason::Timeout, 504, 4),
            (Reason::BadRequest, 400, 3),
            (Reason::HeadersTooLarge, 431, 3),
            (Reason::Misdirected, 421, 3),
            (Reason::Draining, 503, 14),
        ] {
            assert_eq!(refusal(reason), Some(Refusal { http, grpc }), "{reason}");
        }
        assert_eq!(refusal(Reason::PeerRefused), None);
    }
}
