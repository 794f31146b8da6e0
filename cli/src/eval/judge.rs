//! Judging one case: the real index, the real pipeline.

use std::sync::Arc;

use palisade_model::reason::Reason;
use palisade_policy::{PolicyRef, RecordedPolicy};
use palisade_proxy::{
    index::RuntimeIndex,
    request::{
        authorize::Depth,
        changes,
        connection::{Admitted, Carries, Mode, Seen, admit},
        decide_http_with, decide_tcp_with,
        external::{External, Testimony},
        facts::{Chance, Connection, Request},
        status,
        verdict::{Action, Authorization, Verdict},
    },
    telemetry::shadow::word,
};

use super::{
    answer::{
        Answer, AuthzAnswer, Bytes, ConnectionAnswer, CustomAnswer, FailedAnswer, NearAnswer, PolicyAnswer,
        RequestAnswer, ShadowAnswer,
    },
    case::Case,
    facts::{self, OwnedRequest},
    route, testimony,
    world::World,
};

/// How many questions one case may make the proxy ask: its address and its host.
const QUESTIONS: usize = 4;

/// The result of a case.
///
/// # Errors
/// What of the case cannot be.
pub(crate) fn judge(world: &mut World, case: &Case) -> Result<Answer, String> {
    judge_observed(world, case, Depth::Usual, &mut |_| {})
}

/// As [`judge`]; `observe` is shown what authorization said, as deep as it is asked to look.
///
/// # Errors
/// What of the case cannot be.
pub(crate) fn judge_observed(
    world: &mut World,
    case: &Case,
    depth: Depth,
    observe: &mut dyn FnMut(&Authorization),
) -> Result<Answer, String> {
    let mut index = world.index(&case.proxy)?;
    let connection = facts::connection(case, index.settings(), world)?;
    let request = case.http.as_ref().map(|http| facts::request(http, connection.tls.is_some()));
    let mut testimony = testimony::of(case);
    let mut asked = 0;
    while asked < QUESTIONS {
        let mut chance = facts::chance(case)?.with_depth(depth);
        let outcome = decide(&index, connection.clone(), request.as_ref(), &testimony, &mut chance);
        if let Outcome::Decided(_, verdict) = &outcome
            && let Action::Check(question) = &verdict.action
        {
            // Each provider is asked once.
            testimony::answer(case, question, &mut testimony)?;
            continue;
        }
        asked += 1;
        if let Outcome::Decided(_, verdict) = &outcome
            && let Action::Ask(query) = &verdict.action
            && let Some(wiser) = world.ask(&case.proxy, query.clone())?
        {
            index = wiser;
            continue;
        }
        if let Outcome::Decided(admitted, _) = &outcome
            && admitted.mode == Mode::TlsTerminated
        {
            world.try_certificates(&case.proxy, &index, &admitted.entry);
        }
        if let Outcome::Decided(_, verdict) = &outcome
            && let Some(authorization) = &verdict.authorization
        {
            observe(authorization);
        }
        return Ok(answer(case, &index, outcome, request.as_ref().and_then(Option::as_ref)));
    }
    Err("the proxy keeps asking its control plane".to_owned())
}

enum Outcome {
    Refused(Reason),
    Decided(Box<Admitted>, Box<Verdict>),
}

fn decide(
    index: &Arc<RuntimeIndex>,
    connection: Connection,
    request: Option<&Option<OwnedRequest>>,
    testimony: &Testimony,
    chance: &mut Chance,
) -> Outcome {
    let has_tls = connection.tls.is_some();
    let seen = if request.is_some() { Seen::Http } else { Seen::Other };
    let admitted = match admit(index, connection, seen) {
        Ok(admitted) => admitted,
        Err(refused) => return Outcome::Refused(refused.reason),
    };
    let verdict = match admitted.carries {
        Carries::Bytes => decide_tcp_with(index, &admitted, testimony, chance),
        Carries::Http => {
            // Inside TLS that nobody terminates here the bytes are no HTTP.
            let is_readable = !has_tls || matches!(admitted.mode, Mode::Mtls | Mode::TlsTerminated);
            let request = request.filter(|_| is_readable).and_then(Option::as_ref).map(borrow);
            decide_http_with(index, &admitted, request.as_ref(), testimony, chance)
        }
    };
    Outcome::Decided(Box::new(admitted), Box::new(verdict))
}

fn borrow(request: &OwnedRequest) -> Request<'_> {
    let OwnedRequest { method, scheme, authority, target, version, headers } = request;
    Request { method, scheme, authority, target, version: *version, headers, jwt: None }
}

fn answer(case: &Case, index: &RuntimeIndex, outcome: Outcome, request: Option<&OwnedRequest>) -> Answer {
    let id = case.id.clone();
    let (admitted, verdict) = match outcome {
        Outcome::Decided(admitted, verdict) => (admitted, verdict),
        Outcome::Refused(reason) => {
            let protocol = if case.http.is_some() { "http" } else { "tcp" };
            return Answer {
                id,
                outcome: "reset",
                status: None,
                grpc_status: None,
                reason: reason.as_str(),
                connection: ConnectionAnswer { mode: "refused", protocol },
                request: None,
                authz: None,
                route: None,
            };
        }
    };
    let connection = ConnectionAnswer { mode: admitted.mode.as_str(), protocol: admitted.carries.as_str() };
    let (outcome, status) = match &verdict.action {
        Action::Forward(plan) if plan.is_passthrough => ("passthrough", (None, None)),
        Action::Forward(_) => ("forward", (None, None)),
        Action::Respond(answer) => ("respond", (Some(answer.status), answer.grpc_status)),
        // There is always a control plane here; one that cannot say is answered as a proxy without one would.
        Action::Ask(_) if admitted.carries == Carries::Http => {
            ("respond", (status::refusal(verdict.reason).map(|refusal| refusal.http), None))
        }
        Action::Close | Action::Ask(_) | Action::Check(_) => ("reset", (None, None)),
    };
    Answer {
        id,
        outcome,
        status: status.0,
        grpc_status: status.1,
        reason: verdict.reason.as_str(),
        connection,
        request: forwarded(&verdict, &admitted, request),
        // A refused token ends the request before any policy is asked.
        authz: verdict
            .authorization
            .as_ref()
            .filter(|_| !matches!(verdict.reason, Reason::JwtInvalid | Reason::JwtAudience))
            .map(|said| authz(said, &verdict.external)),
        route: route::answer(index, &admitted, &verdict, case.random.is_some()),
    }
}

/// The request as it goes upstream.
fn forwarded(verdict: &Verdict, admitted: &Admitted, request: Option<&OwnedRequest>) -> Option<RequestAnswer> {
    let Action::Forward(plan) = &verdict.action else { return None };
    let request = request.filter(|_| admitted.carries == Carries::Http)?;
    let mut headers = request.headers.clone();
    changes::apply(&mut headers, &plan.head.changes);
    Some(RequestAnswer {
        method: Bytes(request.method.clone().into_bytes()),
        authority: Bytes(plan.head.authority.clone().into_bytes()),
        path: Bytes(plan.head.target.clone()),
        headers: headers.iter().map(|(name, value)| (name.to_string(), Bytes(value.as_bytes().to_vec()))).collect(),
    })
}

fn authz(authorization: &Authorization, external: &External) -> AuthzAnswer {
    let Authorization { is_allowed, deciding, engine, captured, recorded } = authorization;
    let explanation = captured.as_ref().filter(|_| !*is_allowed).map(|captured| engine.explain(captured));
    let mut policies: Vec<PolicyAnswer> = deciding.iter().filter_map(policy).collect();
    let mut nearest = Vec::new();
    if let Some(explanation) = explanation {
        let further = explanation.policies.iter().filter(|policy| Some(*policy) != deciding.as_ref());
        policies.extend(further.filter_map(policy));
        for miss in explanation.nearest {
            let Some(PolicyAnswer { kind: _, namespace, name, rule }) = policy(&miss.policy) else { continue };
            let failed = miss.failed.into_iter().map(|clause| FailedAnswer {
                field: clause.field,
                expected: clause.expected,
                actual: clause.actual,
            });
            nearest.push(NearAnswer { namespace, name, rule, failed: failed.collect() });
        }
    }
    AuthzAnswer {
        decision: word(*is_allowed),
        policies,
        custom: external
            .said
            .iter()
            .map(|(provider, is_allowed)| CustomAnswer {
                provider: provider.to_string(),
                decision: if *is_allowed { "allow" } else { "deny" },
            })
            .collect(),
        shadow: recorded.iter().flat_map(|recorded| &recorded.policies).filter_map(shadow).collect(),
        shadow_all: recorded.as_ref().and_then(|recorded| recorded.all_allowed).map(word),
        nearest,
    }
}

/// What an audited or dry-run document says.
fn shadow(recorded: &RecordedPolicy) -> Option<ShadowAnswer> {
    let PolicyAnswer { kind, namespace, name, rule } = policy(recorded.policy())?;
    let decision = recorded.allowed.map(word);
    let rule = rule.filter(|_| recorded.matched);
    Some(ShadowAnswer { kind, namespace, name, rule, matched: recorded.matched, decision })
}

/// The user's document behind a policy; the mesh's own default permits have none and are not listed.
fn policy(policy: &PolicyRef) -> Option<PolicyAnswer> {
    let source = policy.source.as_ref()?;
    Some(PolicyAnswer {
        kind: source.kind.to_string(),
        namespace: source.namespace.to_string(),
        name: source.name.to_string(),
        rule: policy.rule,
    })
}
