//! The first phase: pin a configuration, admit the connection again, decide, and note what the log will say.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue, header};
use palisade_model::reason::Reason;
use palisade_policy::Peer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::{checked_body::Gathered, context::RequestCtx, head, stream::StreamSubject};
use crate::{
    answer::Told,
    index::host_of,
    request::{
        self,
        changes::HeaderChange,
        connection::Entry,
        egress::Underway,
        external::{CheckAnswer, ShownBody, Testimony},
        facts::{Chance, HttpVersion},
        normalize::{PathRules, normalize},
        upstream::{is_grpc, is_upgrade},
        verdict::{Action, Answer, Authorization, Route, Verdict},
    },
    runtime::{
        Runtime,
        connection::{ConnectionContext, Standing},
        decisions::{Circumstances, Sample},
        providers::Providers,
    },
    telemetry::{ShadowRecord, TraceContext},
    transport::{downstream_meta, odd_target},
};

/// How often one request may learn that something else is not known yet: address, host, and one more of each.
const MAX_ASKS: u32 = 4;

/// Judges a request.
pub(super) async fn judge(runtime: &Arc<Runtime>, session: &mut Session, ctx: &mut RequestCtx) -> Result<()> {
    let connection = downstream_meta(session)
        .and_then(|meta| meta.owner.clone())
        .and_then(|owner| owner.downcast::<ConnectionContext>().ok());
    let Some(connection) = connection else {
        return Error::e_explain(ErrorType::InternalError, "a connection without its context");
    };
    ctx.connection = Some(Arc::clone(&connection));
    ctx.record.direction = connection.facts().direction;
    let mut asked = 0;
    let now = SystemTime::now();
    let sample = runtime.decisions.sample(now);
    let mut gathered = Gathered::default();
    let mut testimony = Testimony { tokens_at: Some(now), ..Testimony::default() };
    loop {
        let Some(index) = runtime.index() else {
            return Error::e_explain(ErrorType::InternalError, "no configuration");
        };
        let standing = match connection.standing(runtime, &index) {
            Ok(standing) => standing,
            Err(refused) => {
                ctx.is_closed = true;
                ctx.record.reason = refused.reason;
                if let Some(registration) = connection.registration() {
                    registration.close(refused.reason);
                }
                return Error::e_explain(ErrorType::ConnectionClosed, "the connection is not admitted any more");
            }
        };
        // Only where Pingora was shown the shortest target can there be another behind it.
        let odd = if session.req_header().raw_path() == b"/" { odd_target(session) } else { None };
        let head = Arc::new(head::read(session.req_header(), odd, &standing.admitted));
        let mut verdict = {
            let facts = head.facts();
            ctx.is_grpc = is_grpc(&facts);
            ctx.is_upgrade = is_upgrade(&facts);
            let mut chance = Chance::random(now, fastrand::Rng::new()).with_depth(sample.depth());
            request::decide_http_with(&index, &standing.admitted, Some(&facts), &testimony, &mut chance)
        };
        if let Action::Check(question) = &mut verdict.action {
            // Each provider is asked once: the next round has its answer.
            let limits = question.check.check.asks.service().and_then(|service| service.body);
            let shown = match limits.filter(|_| !ctx.is_upgrade) {
                Some(limits) => gathered.show(session, limits).await?,
                None => Some(ShownBody { bytes: bytes::Bytes::new(), is_partial: false }),
            };
            let answer = match shown {
                Some(body) => {
                    question.body = limits.map(|_| body);
                    Providers::ask(runtime, &standing, question).await
                }
                None => CheckAnswer::BodyTooLarge,
            };
            testimony.answers.push((Arc::clone(&question.check.check.provider), answer));
            continue;
        }
        if let Action::Ask(query) = &verdict.action {
            asked += 1;
            if asked <= MAX_ASKS && runtime.ask(query.clone()).await.is_ok() {
                continue;
            }
            verdict.action = Action::Respond(Answer::refusal(Reason::ConfigUnavailable, ctx.is_grpc, None));
        }
        testimony.underway = Underway::of_request(&verdict, &standing.admitted);
        register(ctx, &connection, &head, testimony);
        if !standing.is_in_force(runtime)
            && let Some(subject) = ctx.subject.take()
        {
            // Put in force meanwhile, and what lives has been judged by it, perhaps without this request.
            ctx.registration = None;
            testimony = Testimony { underway: None, ..subject.testimony.clone() };
            continue;
        }
        gathered.give_back(session);
        note(runtime, session, ctx, &standing, &verdict, sample, &head.target);
        for question in std::mem::take(&mut verdict.external.beside) {
            Providers::ask_beside(runtime, &standing, question);
        }
        ctx.standing = Some(standing);
        ctx.head = Some(head);
        ctx.verdict = Some(verdict);
        return Ok(());
    }
}

/// Requests that are answered at once need no second judgement.
fn register(
    ctx: &mut RequestCtx,
    connection: &Arc<ConnectionContext>,
    head: &Arc<super::stream::OwnedRequest>,
    testimony: Testimony,
) {
    if let Some(registration) = connection.registration() {
        let (connection, head) = (Arc::clone(connection), Arc::clone(head));
        let subject =
            Arc::new(StreamSubject { connection, head, testimony, revoker: OnceLock::new(), denial: OnceLock::new() });
        let judged: Arc<StreamSubject> = Arc::clone(&subject);
        ctx.subject = Some(subject);
        ctx.registration = Some(registration.stream(Some(judged)));
    }
}

fn note(
    runtime: &Runtime,
    session: &Session,
    ctx: &mut RequestCtx,
    standing: &Standing,
    verdict: &Verdict,
    sample: Sample,
    target: &[u8],
) {
    let admitted = &standing.admitted;
    let header = session.req_header();
    let record = &mut ctx.record;
    let text = |name: &str| header.headers.get(name).and_then(|value| value.to_str().ok());
    record.source = Some(admitted.caller());
    record.source_address = Some(admitted.facts.source);
    record.destination_address = Some(admitted.facts.destination);
    record.connection = admitted.mode.as_str();
    record.protocol = match header.version {
        http::Version::HTTP_2 => HttpVersion::Http2.as_str(),
        http::Version::HTTP_10 | http::Version::HTTP_09 => HttpVersion::Http10.as_str(),
        _ => HttpVersion::Http11.as_str(),
    };
    record.method = Some(header.method.clone());
    record.authority = header
        .uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| text(header::HOST.as_str()))
        .map(Into::into);
    record.path = Some(logged_path(target, standing));
    record.request_id = request_id(verdict).or_else(|| text("x-request-id")).map(Into::into);
    record.trace = TraceContext::from_headers(|name| of(&header.headers, name));
    record.reason = verdict.reason;
    record.cluster = verdict.cluster.clone();
    record.destination = destination(standing, verdict);
    record.route = match &verdict.route {
        Route::None => None,
        Route::Rule(entry) => Some(entry.rule.label()),
        Route::L4(route) => Some(format!("{}[{}]", route.source, route.rule).into()),
    };
    if let Some((status, grpc)) = verdict.status() {
        record.status = Some(status);
        record.grpc_status = grpc;
    }
    let Some(said) = &verdict.authorization else { return };
    decided(runtime, ctx, standing, said, verdict.reason, sample, Some(&header.headers));
}

/// Notes that a later configuration denied a request in progress, before its caller is told.
pub(super) fn note_revoked(runtime: &Runtime, session: &Session, ctx: &mut RequestCtx, reason: Reason) {
    let (Some(subject), Some(standing)) = (ctx.subject.clone(), ctx.standing.clone()) else { return };
    if let Some(said) = subject.denial.get() {
        decided(runtime, ctx, &standing, said, reason, Sample::default(), Some(&session.req_header().headers));
    }
}

/// Notes what authorization said, and what the caller is told of it.
fn decided(
    runtime: &Runtime,
    ctx: &mut RequestCtx,
    standing: &Standing,
    said: &Authorization,
    reason: Reason,
    sample: Sample,
    headers: Option<&HeaderMap>,
) {
    let record = &mut ctx.record;
    record.shadow = ShadowRecord::of(said).map(Box::new);
    record.policies =
        said.deciding.iter().filter(|policy| policy.source.is_some()).map(|p| Arc::clone(&p.id.0)).collect();
    let circumstances = Circumstances {
        time: record.time,
        reason,
        proxy: &runtime.settings().proxy,
        direction: record.direction,
        headers,
    };
    if let Some(id) = runtime.decisions.note(said, sample, &circumstances) {
        record.decision = Some(id.as_str().into());
        ctx.told = (!said.is_allowed).then(|| Told { decision: id, policy: named_policy(standing, said) });
    }
}

/// The policy that denied, for callers inside the mesh and where its namespace permits.
fn named_policy(standing: &Standing, said: &Authorization) -> Option<Arc<str>> {
    let (index, admitted) = (&standing.index, &standing.admitted);
    let is_inside = match admitted.entry {
        Entry::Outbound(_) => true,
        Entry::Inbound(_) | Entry::Gateway(_, _) => matches!(admitted.standing.facts().peer, Peer::Mesh(_)),
    };
    let policy = said.deciding.as_ref().filter(|_| is_inside)?;
    let namespace = &policy.source.as_ref()?.namespace;
    index.settings().telling_namespaces.contains(namespace).then(|| Arc::clone(&policy.id.0))
}

/// The request id that goes upstream, where this proxy makes it.
fn request_id(verdict: &Verdict) -> Option<&str> {
    let Action::Forward(plan) = &verdict.action else { return None };
    plan.head.changes.iter().rev().find_map(|change| match change {
        HeaderChange::Set(name, value) if *name == "x-request-id" => value.to_str().ok(),
        _ => None,
    })
}

fn of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(HeaderValue::to_str)?.ok()
}

/// The path as policies saw it, without query; a path that could not be normalised, as far as it is text.
fn logged_path(raw: &[u8], standing: &Standing) -> Box<str> {
    let rules = PathRules { rejects_parameters: false, ..PathRules::of(standing.index.settings()) };
    match normalize(raw, rules) {
        Ok(target) => (*target.path).into(),
        Err(_) => {
            let path = raw.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
            String::from_utf8_lossy(path.get(..path.len().min(512)).unwrap_or_default()).into()
        }
    }
}

/// The host of the service that was meant, else the address that was dialled.
fn destination(standing: &Standing, verdict: &Verdict) -> Option<Arc<str>> {
    let declared = match (&standing.admitted.entry, &verdict.action) {
        (Entry::Inbound(port), _) => port.service.clone(),
        (Entry::Outbound(_) | Entry::Gateway(_, _), Action::Forward(plan)) => plan.cluster.host().cloned(),
        (Entry::Outbound(_) | Entry::Gateway(_, _), _) => verdict.cluster.as_deref().and_then(host_of).map(Into::into),
    };
    Some(declared.unwrap_or_else(|| standing.admitted.facts.destination.to_string().into()))
}
