//! Which failures a retry policy takes, and how long to wait. Pure.

use std::time::Duration;

use palisade_model::route::{RetryOn, RetryPolicy};

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Connect,
    /// The upstream refused the stream without looking at it.
    Refused,
    /// The connection or stream ended before a response.
    Reset,
    /// No response within the try's time.
    PerTryTimeout,
    /// A response with this HTTP status.
    Status(u16),
    /// A response with this gRPC status.
    Grpc(u32),
}

/// Whether the policy retries this failure (Envoy: `RetryStateImpl`).
pub(super) fn is_wanted(policy: &RetryPolicy, failure: Failure) -> bool {
    let on = |condition: RetryOn| policy.on.contains(&condition);
    // Envoy counts every reset as a 5xx, since it would result in one.
    let as_server_error = || on(RetryOn::ServerError) || on(RetryOn::GatewayError) || on(RetryOn::Reset);
    match failure {
        Failure::Connect => on(RetryOn::ConnectFailure) || as_server_error(),
        Failure::Refused => on(RetryOn::RefusedStream) || on(RetryOn::ResetBeforeRequest) || as_server_error(),
        Failure::Reset | Failure::PerTryTimeout => as_server_error(),
        Failure::Status(status) => {
            (on(RetryOn::ServerError) && status >= 500)
                || (on(RetryOn::GatewayError) && matches!(status, 502..=504))
                || (on(RetryOn::Retriable4xx) && status == 409)
                || (on(RetryOn::RetriableStatusCodes) && policy.statuses.contains(&status))
        }
        Failure::Grpc(status) => match status {
            1 => on(RetryOn::Cancelled),
            4 => on(RetryOn::DeadlineExceeded),
            8 => on(RetryOn::ResourceExhausted),
            13 => on(RetryOn::Internal),
            14 => on(RetryOn::Unavailable),
            _ => false,
        },
    }
}

/// The pause before a retry (1 = the first): doubling, full jitter by `draw`, under the policy's ceiling.
pub(super) fn backoff(policy: &RetryPolicy, retry: u32, draw: f64) -> Duration {
    let doubled = policy.backoff.saturating_mul(1_u32.checked_shl(retry.saturating_sub(1).min(31)).unwrap_or(u32::MAX));
    doubled.min(policy.max_backoff).mul_f64(draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &[RetryOn]) -> RetryPolicy {
        RetryPolicy {
            attempts: 2,
            per_try: None,
            on: on.iter().copied().collect(),
            statuses: [429].into(),
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
            avoid_previous: true,
            leaves_locality: false,
        }
    }

    #[test]
    fn conditions_take_what_envoy_says() {
        use {Failure as F, RetryOn as R};
        for (name, on, failure, expected) in [
            ("connect", R::ConnectFailure, F::Connect, true),
            ("5xx takes connect failures", R::ServerError, F::Connect, true),
            ("5xx takes resets", R::ServerError, F::Reset, true),
            ("5xx", R::ServerError, F::Status(500), true),
            ("gateway errors only", R::GatewayError, F::Status(500), false),
            ("gateway error", R::GatewayError, F::Status(503), true),
            ("connect failures are no resets", R::ConnectFailure, F::Reset, false),
            ("listed status", R::RetriableStatusCodes, F::Status(429), true),
            ("unlisted status", R::RetriableStatusCodes, F::Status(503), false),
            ("grpc unavailable", R::Unavailable, F::Grpc(14), true),
            ("grpc other", R::Unavailable, F::Grpc(13), false),
            ("refused", R::RefusedStream, F::Refused, true),
        ] {
            assert_eq!(is_wanted(&policy(&[on]), failure), expected, "{name}");
        }
    }

    #[test]
    fn the_pause_doubles_up_to_its_ceiling() {
        let policy = policy(&[]);
        let pauses = [1, 2, 3, 9].map(|retry| backoff(&policy, retry, 1.0).as_millis());
        assert_eq!(pauses, [25, 50, 100, 250]);
        assert_eq!(backoff(&policy, 1, 0.0), Duration::ZERO);
    }
}
