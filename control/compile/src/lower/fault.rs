//! Injected faults.

use palisade_crds::grpc_status;
use palisade_crds::istio::{HttpFaultAbort, HttpFaultDelay, HttpFaultInjection};
use palisade_model::route::{Fault, FaultAbort, Percent};

use crate::time;

/// Faults as written. A share that is absent is none (istio-semantics 4.3).
pub(crate) fn lower(written: &HttpFaultInjection) -> Fault {
    let HttpFaultInjection { delay, abort } = written;
    Fault {
        delay: delay.as_ref().and_then(|delay| {
            let HttpFaultDelay { fixed_delay, exponential_delay: _, percent, percentage } = delay;
            let share = match percentage {
                Some(percentage) => share(percentage.value),
                None => Percent(u32::try_from(*percent).unwrap_or(0).min(100).saturating_mul(10_000)),
            };
            fixed_delay.and_then(time::positive).map(|delay| (delay, share))
        }),
        abort: abort.as_ref().and_then(|abort| {
            let HttpFaultAbort { http_status, grpc_status, http2_error: _, percentage } = abort;
            let share = percentage.as_ref().map_or(Percent(0), |percentage| share(percentage.value));
            let answer = match (http_status, grpc_status) {
                (Some(status), _) => u16::try_from(*status).ok().map(FaultAbort::Http),
                (None, Some(name)) => grpc_status::code(name).map(FaultAbort::Grpc),
                (None, None) => None,
            };
            answer.map(|answer| (answer, share))
        }),
    }
}

/// A share in percent as millionths, cut off as Istio does.
pub(crate) fn share(percent: f64) -> Percent {
    let millionths = (percent.clamp(0.0, 100.0) * 10_000.0).floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1,000,000")]
    let millionths = millionths as u32;
    Percent(millionths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_share_is_none() {
        let abort = HttpFaultAbort { http_status: Some(500), grpc_status: None, http2_error: None, percentage: None };
        let fault = lower(&HttpFaultInjection { delay: None, abort: Some(abort) });
        assert_eq!(fault.abort, Some((FaultAbort::Http(500), Percent(0))));
    }
}
