//! Authorization: from a normalised request to the engine's decision.

use std::{net::IpAddr, ops::ControlFlow, time::SystemTime};

use http::HeaderMap;
use palisade_policy::{Decision, HeaderLines, RequestFacts};

use super::{authority::Authority, connection::Admitted, facts::Request, normalize::Target, verdict::Authorization};

/// Header lines as the engine reads them: each on its own (CVE-2026-31838).
pub(super) struct Lines<'a>(pub(super) &'a HeaderMap);

impl HeaderLines for Lines<'_> {
    fn visit_lines(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) {
        for line in self.0.get_all(name) {
            if visit(line.as_bytes()).is_break() {
                return;
            }
        }
    }
}

/// Decides one request. A denial keeps what it was decided from, for its explanation.
pub fn request(
    admitted: &Admitted,
    request: &Request<'_>,
    authority: &Authority<'_>,
    target: &Target<'_>,
    remote_ip: IpAddr,
    now: SystemTime,
) -> (Decision, Authorization) {
    let lines = Lines(request.headers);
    let facts = RequestFacts {
        method: request.method,
        scheme: request.scheme,
        authority: authority.text.as_bytes(),
        path: target.path.as_bytes(),
        headers: &lines,
        remote_ip,
        jwt: request.jwt,
        now,
    };
    let engine = &admitted.engine;
    let decision = engine.decide_http(&admitted.standing, &facts);
    let captured = (!decision.is_allowed()).then(|| engine.capture_http(&admitted.standing, &facts));
    let said = Authorization::of(engine, &decision, captured);
    (decision, said)
}

/// Decides an opaque connection.
pub fn connection(admitted: &Admitted) -> (Decision, Authorization) {
    let engine = &admitted.engine;
    let decision = engine.decide_tcp(&admitted.standing);
    let captured = (!decision.is_allowed()).then(|| engine.capture_tcp(&admitted.standing));
    let said = Authorization::of(engine, &decision, captured);
    (decision, said)
}
