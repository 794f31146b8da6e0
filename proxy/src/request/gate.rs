//! What a request passes before authorization: external authorizers, then its tokens (istio-semantics 1.1).

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderValue, header};
use palisade_model::policy::{DenyAll, PolicyId};
use palisade_policy::{JwtFacts, PolicyEngine, RequestFacts};

use super::{
    authority::Authority,
    changes::HeaderChange,
    connection::Admitted,
    external::{HttpCheck, Passing, Testimony},
    facts::Request,
    normalize::Target,
    tokens::{Authenticated, TokenRequest, TokenStatus},
    verdict::{Action, Answer, Authorization, Verdict},
};

/// What came through: the request as authorization, routes and upstream see it.
pub(super) struct Passed<'a> {
    pub(super) passing: Passing<'a>,
    /// Claims of the verified token.
    pub(super) jwt: Option<Cow<'a, JwtFacts>>,
}

/// Puts a normalised request before providers and looks at its tokens.
///
/// # Errors
/// The verdict, where it ends here or a provider must be asked first.
#[expect(clippy::too_many_arguments, reason = "everything that is known about a request at this point")]
pub(super) fn pass<'a>(
    admitted: &Admitted,
    request: &Request<'a>,
    hop: &'a [HeaderChange],
    authority: &Authority<'_>,
    target: &Target<'_>,
    remote_ip: IpAddr,
    is_grpc: bool,
    testimony: &Testimony,
    now: SystemTime,
) -> Result<Passed<'a>, Box<Verdict>> {
    let mut passing = Passing::new(request.headers, hop);
    if !admitted.checks.is_empty() {
        let check = HttpCheck { admitted, request, authority, target, remote_ip, is_grpc, now };
        check.run(testimony, &mut passing)?;
    }
    let verifier = admitted.tokens.as_ref();
    let authenticated = match (&testimony.claims, verifier) {
        (Some(claims), Some(verifier)) => verifier.vouched(&passing.headers, claims),
        (Some(claims), None) => {
            Authenticated { facts: Some(JwtFacts::from_claims(claims, &[])), ..Authenticated::default() }
        }
        (None, Some(verifier)) => {
            let judged = verifier.judge(&TokenRequest {
                method: request.method,
                headers: &passing.headers,
                query: passing.query.as_deref().or(target.query),
                now: testimony.tokens_at.unwrap_or(now),
            });
            judged.map_err(|status| {
                let answer = refusal(status, request.scheme, authority.text, &target.path, is_grpc);
                let external = std::mem::take(&mut passing.external);
                let facts = RequestFacts {
                    method: request.method,
                    scheme: request.scheme,
                    authority: authority.text.as_bytes(),
                    path: target.path.as_bytes(),
                    query: target.query,
                    headers: &passing.view(),
                    remote_ip,
                    jwt: None,
                    now,
                };
                let authorization = Some(refused(admitted, &facts, status));
                Box::new(Verdict {
                    authorization,
                    external,
                    ..Verdict::early(status.reason(), Action::Respond(answer))
                })
            })?
        }
        (None, None) => Authenticated::default(),
    };
    let Authenticated { facts, changes, query } = authenticated;
    // As Envoy: a verified token lets routes see what came of it.
    passing.reroutes |= facts.is_some();
    passing.change(changes);
    passing.query = query.or(passing.query);
    Ok(Passed { passing, jwt: facts.map(Cow::Owned).or(request.jwt.map(Cow::Borrowed)) })
}

/// What a refused token is explained from: no policy was asked, the token's status denies everything.
fn refused(admitted: &Admitted, facts: &RequestFacts<'_>, status: TokenStatus) -> Authorization {
    let reason = DenyAll { id: PolicyId("mesh/tokens".into()), source: None, message: status.message().into() };
    let engine = Arc::new(PolicyEngine::deny_all(&reason));
    let captured = engine.capture_http(&admitted.standing, facts);
    Authorization { is_allowed: false, deciding: None, engine, captured: Some(Box::new(captured)), recorded: None }
}

/// The answer to a refused token (RFC 6750).
fn refusal(status: TokenStatus, scheme: &str, authority: &str, path: &str, is_grpc: bool) -> Answer {
    let mut answer = Answer::refusal(status.reason(), is_grpc, None);
    answer.body = Bytes::from_static(status.message().as_bytes());
    answer.content_type = (!is_grpc).then(|| "text/plain".into());
    if let Ok(challenge) = HeaderValue::from_str(&status.challenge(scheme, authority, path)) {
        answer.headers.push((header::WWW_AUTHENTICATE, challenge));
    }
    answer
}
