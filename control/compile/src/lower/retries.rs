//! Retries: what a rule writes, and the policy of every rule that writes none.

use std::{collections::BTreeSet, time::Duration};

use palisade_crds::istio::HttpRetry;
use palisade_model::route::{RetryOn, RetryPolicy};

use crate::time;

/// Envoy's first back-off.
const BACKOFF: Duration = Duration::from_millis(25);

/// Status codes that Go's `net/http` knows: only these are read as codes in `retryOn`.
const KNOWN_STATUSES: [(u16, u16); 9] =
    [(100, 103), (200, 208), (226, 226), (300, 305), (307, 308), (400, 418), (421, 426), (428, 431), (500, 511)];

/// The policy of a rule; `None` written = the default. Present without attempts = off (istio-semantics 4.3).
pub(crate) fn lower(written: Option<&HttpRetry>) -> Option<RetryPolicy> {
    let Some(HttpRetry {
        attempts,
        per_try_timeout,
        retry_on,
        retry_remote_localities,
        retry_ignore_previous_hosts,
        backoff,
    }) = written
    else {
        return Some(default());
    };
    let attempts = u32::try_from(*attempts).ok().filter(|attempts| *attempts > 0)?;
    let mut policy = RetryPolicy { attempts, ..default() };
    if !retry_on.is_empty() {
        (policy.on, policy.statuses) = parse_conditions(retry_on);
    }
    policy.leaves_locality = retry_remote_localities.unwrap_or(false);
    policy.per_try = per_try_timeout.and_then(time::positive);
    if let Some(avoid) = retry_ignore_previous_hosts {
        policy.avoid_previous = *avoid;
    }
    if let Some(base) = backoff.and_then(time::positive) {
        policy.backoff = base;
        policy.max_backoff = base.saturating_mul(10);
    }
    Some(policy)
}

/// Two retries where nothing was processed; none on a plain 5xx.
pub(crate) fn default() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        per_try: None,
        on: BTreeSet::from([
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::Unavailable,
            RetryOn::Cancelled,
            RetryOn::RetriableStatusCodes,
        ]),
        statuses: BTreeSet::new(),
        backoff: BACKOFF,
        max_backoff: BACKOFF.saturating_mul(10),
        avoid_previous: true,
        leaves_locality: false,
    }
}

/// Conditions by name and status codes by number; what is neither was reported by validation and retries nothing.
fn parse_conditions(text: &str) -> (BTreeSet<RetryOn>, BTreeSet<u16>) {
    let mut on = BTreeSet::new();
    let mut statuses = BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        match part.parse::<u16>() {
            Ok(status) if KNOWN_STATUSES.iter().any(|(low, high)| (*low..=*high).contains(&status)) => {
                statuses.insert(status);
                on.insert(RetryOn::RetriableStatusCodes);
            }
            Ok(_) => {}
            Err(_) => {
                on.extend(condition(part));
            }
        }
    }
    (on, statuses)
}

/// A condition by Envoy's name; `None` = not one.
pub(crate) fn condition(name: &str) -> Option<RetryOn> {
    Some(match name {
        "5xx" => RetryOn::ServerError,
        "gateway-error" => RetryOn::GatewayError,
        "reset" => RetryOn::Reset,
        "reset-before-request" => RetryOn::ResetBeforeRequest,
        "connect-failure" => RetryOn::ConnectFailure,
        "envoy-ratelimited" => RetryOn::EnvoyRatelimited,
        "retriable-4xx" => RetryOn::Retriable4xx,
        "refused-stream" => RetryOn::RefusedStream,
        "retriable-status-codes" => RetryOn::RetriableStatusCodes,
        "retriable-headers" => RetryOn::RetriableHeaders,
        "http3-post-connect-failure" => RetryOn::Http3PostConnectFailure,
        "cancelled" => RetryOn::Cancelled,
        "deadline-exceeded" => RetryOn::DeadlineExceeded,
        "internal" => RetryOn::Internal,
        "resource-exhausted" => RetryOn::ResourceExhausted,
        "unavailable" => RetryOn::Unavailable,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(attempts: i32, retry_on: &str) -> HttpRetry {
        HttpRetry {
            attempts,
            per_try_timeout: None,
            retry_on: retry_on.to_owned(),
            retry_remote_localities: None,
            retry_ignore_previous_hosts: None,
            backoff: None,
        }
    }

    #[test]
    fn absent_means_two_retries_and_no_status_codes() {
        let policy = lower(None).unwrap();
        assert_eq!(policy.attempts, 2);
        assert!(policy.statuses.is_empty());
        assert!(!policy.on.contains(&RetryOn::ServerError));
    }

    #[test]
    fn written_without_attempts_means_off() {
        assert_eq!(lower(Some(&written(0, ""))), None);
        assert_eq!(lower(Some(&written(-1, "5xx"))), None);
    }

    #[test]
    fn numbers_are_status_codes() {
        let policy = lower(Some(&written(3, "5xx, 503,429,999"))).unwrap();
        assert_eq!(policy.statuses, BTreeSet::from([429, 503]));
        assert_eq!(policy.on, BTreeSet::from([RetryOn::ServerError, RetryOn::RetriableStatusCodes]));
    }
}
