//! Authorization: from a normalised request to the engine's decision.

use std::{net::IpAddr, time::SystemTime};

use palisade_policy::{Decision, Recorded, RequestFacts};

use super::{
    authority::Authority,
    connection::Admitted,
    facts::Request,
    normalize::Target,
    verdict::{Authorization, would_change},
    view::HeaderView,
};
use crate::index::RuntimeIndex;

/// How much of a decision is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// What audited and dry-run documents say is counted; what a denial was decided from is kept.
    #[default]
    Usual,
    /// As [`Depth::Usual`], and what a permission was decided from is kept where a dry run would change it.
    Changes,
    /// As [`Depth::Usual`], and what a permission was decided from is kept too.
    Sampled,
    /// As [`Depth::Usual`], and nothing is counted: what lives already is looked at again, which is no new request.
    Recheck,
}

/// Decides one request. A denial keeps what it was decided from, for its explanation.
pub fn request(admitted: &Admitted, facts: &RequestFacts<'_>, depth: Depth) -> (Decision, Authorization) {
    let engine = &admitted.engine;
    let (decision, recorded) = match depth {
        Depth::Recheck => (engine.decide_http(&admitted.standing, facts), None),
        Depth::Usual | Depth::Changes | Depth::Sampled => engine.judge_http(&admitted.standing, facts),
    };
    let captured = depth.captures(&decision, recorded.as_ref()).then(|| engine.capture_http(&admitted.standing, facts));
    let said = Authorization::of(engine, &decision, captured, recorded);
    (decision, said)
}

/// Decides a request of the workload itself: about every host outside the mesh that it may reach. None: it stays inside, which needs no
/// permit of an egress policy.
pub fn egress_request(
    index: &RuntimeIndex,
    admitted: &Admitted,
    facts: &RequestFacts<'_>,
    hosts: &[String],
    depth: Depth,
) -> (Decision, Authorization) {
    let engine = &admitted.engine;
    let inside = || {
        let free = index.policies().egress();
        let decision = free.decide_http(&admitted.standing, facts);
        let said = Authorization::of(free, &decision, None, None);
        (decision, said)
    };
    let mut last = None;
    for host in hosts {
        let (decision, recorded) = engine.judge_egress_http(&admitted.standing, facts, host, depth != Depth::Recheck);
        let captured = depth
            .captures(&decision, recorded.as_ref())
            .then(|| engine.capture_http(&admitted.standing, facts).towards(host));
        let is_allowed = decision.is_allowed();
        last = Some((decision, captured, recorded));
        if !is_allowed {
            break;
        }
    }
    let Some((decision, captured, recorded)) = last else { return inside() };
    let said = Authorization::of(engine, &decision, captured, recorded);
    (decision, said)
}

/// As [`egress_request`], of an opaque connection.
pub fn egress_connection(
    index: &RuntimeIndex,
    admitted: &Admitted,
    hosts: &[String],
    depth: Depth,
) -> (Decision, Authorization) {
    let engine = &admitted.engine;
    let mut last = None;
    for host in hosts {
        let (decision, recorded) = engine.judge_egress_tcp(&admitted.standing, host, depth != Depth::Recheck);
        let captured =
            depth.captures(&decision, recorded.as_ref()).then(|| engine.capture_tcp(&admitted.standing).towards(host));
        let is_allowed = decision.is_allowed();
        last = Some((decision, captured, recorded));
        if !is_allowed {
            break;
        }
    }
    let Some((decision, captured, recorded)) = last else {
        let free = index.policies().egress();
        let decision = free.decide_tcp(&admitted.standing);
        let said = Authorization::of(free, &decision, None, None);
        return (decision, said);
    };
    let said = Authorization::of(engine, &decision, captured, recorded);
    (decision, said)
}

/// Decides an opaque connection.
pub fn connection(admitted: &Admitted, depth: Depth) -> (Decision, Authorization) {
    let engine = &admitted.engine;
    let (decision, recorded) = match depth {
        Depth::Recheck => (engine.decide_tcp(&admitted.standing), None),
        Depth::Usual | Depth::Changes | Depth::Sampled => engine.judge_tcp(&admitted.standing),
    };
    let captured = depth.captures(&decision, recorded.as_ref()).then(|| engine.capture_tcp(&admitted.standing));
    let said = Authorization::of(engine, &decision, captured, recorded);
    (decision, said)
}

/// A request as the engine is told of it.
pub(super) fn facts<'a>(
    request: &Request<'a>,
    authority: &Authority<'a>,
    target: &'a Target<'_>,
    headers: &'a HeaderView<'_>,
    remote_ip: IpAddr,
    now: SystemTime,
) -> RequestFacts<'a> {
    RequestFacts {
        method: request.method,
        scheme: request.scheme,
        authority: authority.text.as_bytes(),
        path: target.path.as_bytes(),
        query: target.query,
        headers,
        remote_ip,
        jwt: request.jwt,
        now,
    }
}

impl Depth {
    fn captures(self, decision: &Decision, recorded: Option<&Recorded>) -> bool {
        match self {
            Self::Recheck | Self::Usual => !decision.is_allowed(),
            Self::Changes => !decision.is_allowed() || would_change(recorded, decision.is_allowed()),
            Self::Sampled => true,
        }
    }
}
