//! Outlier detection: what each try says about its endpoint, and when that is enough to eject it.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use palisade_model::cluster::OutlierDetection;

use super::IndexedCluster;
use crate::index::live::{EjectionTerms, EndpointLive};

/// No ejection is longer, unless the first one is (Envoy).
const LONGEST: Duration = Duration::from_secs(300);

/// How a try went, as far as its endpoint is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this HTTP status; of gRPC the status that its own stands for.
    Answered(u16),
    /// A connection for bytes was made: all that can be known.
    Served,
    /// A connection was made, or was there.
    Connected,
    /// No connection, or it broke before the answer was complete.
    Failed,
    /// No answer in time.
    TimedOut,
}

/// What an endpoint was ejected for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Server errors in a row.
    ServerErrors,
    /// Gateway errors in a row.
    GatewayErrors,
    /// Failures to connect, resets and timeouts in a row.
    LocalErrors,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 3] = [Self::ServerErrors, Self::GatewayErrors, Self::LocalErrors];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerErrors => "5xx",
            Self::GatewayErrors => "gateway",
            Self::LocalErrors => "local-origin",
        }
    }
}

impl IndexedCluster {
    /// Notes how a try went. The cause, when its endpoint is ejected for it. Costs nothing without outlier detection, and
    /// nothing but a few atomic operations until an endpoint is ejected.
    pub fn report(&self, endpoint: &EndpointLive, outcome: Outcome) -> Option<Cause> {
        let policy = self.cluster().traffic.outlier.as_ref()?;
        let errors = endpoint.errors();
        if policy.consecutive_local.is_some() {
            match outcome {
                Outcome::Failed | Outcome::TimedOut => {
                    let is_enough = one_more(&errors.local, policy.consecutive_local.unwrap_or(0));
                    return is_enough.then_some(Cause::LocalErrors).filter(|_| self.eject(endpoint, policy));
                }
                Outcome::Connected | Outcome::Served => errors.local.store(0, Relaxed),
                Outcome::Answered(_) => {}
            }
        }
        // Istio's default: what goes wrong on the way counts as the answer that the client gets for it.
        let status = match outcome {
            Outcome::Answered(status) => status,
            Outcome::Served if policy.consecutive_local.is_none() => 200,
            Outcome::Failed => 503,
            Outcome::TimedOut => 504,
            Outcome::Served | Outcome::Connected => return None,
        };
        let is_error = match policy.error_statuses.is_empty() {
            true => status >= 500,
            false => policy.error_statuses.contains(&status),
        };
        if !is_error {
            reset(&errors.server);
            reset(&errors.gateway);
            return None;
        }
        let mut cause = None;
        if matches!(status, 502..=504) {
            if one_more(&errors.gateway, policy.consecutive_gateway) {
                cause = Some(Cause::GatewayErrors);
            }
        } else {
            reset(&errors.gateway);
        }
        if one_more(&errors.server, policy.consecutive_5xx) {
            cause = cause.or(Some(Cause::ServerErrors));
        }
        cause.filter(|_| self.eject(endpoint, policy))
    }

    fn eject(&self, endpoint: &EndpointLive, policy: &OutlierDetection) -> bool {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let terms = EjectionTerms {
            base: milliseconds(policy.base_ejection),
            longest: milliseconds(policy.base_ejection.max(LONGEST)),
            interval: milliseconds(policy.interval),
        };
        let all = self.endpoints();
        self.live().eject(endpoint, &terms, |now| {
            let ejected = all.iter().filter(|indexed| indexed.live.is_ejected(now)).count();
            // One may always go: or a share of few endpoints would be none.
            ejected == 0 || (ejected + 1) * 100 <= usize::from(policy.max_ejection_percent.min(100)) * all.len()
        })
    }
}

/// Counts an error; whether there are as many in a row as it takes, in which case counting begins anew. 0 = never.
fn one_more(count: &AtomicU32, enough: u32) -> bool {
    if enough == 0 {
        return false;
    }
    let is_enough = count.fetch_add(1, Relaxed).saturating_add(1) >= enough;
    if is_enough {
        count.store(0, Relaxed);
    }
    is_enough
}

/// Success is the rule: the shared line is written only where there is something to forget.
fn reset(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests;
