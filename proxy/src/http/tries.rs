//! The tries of one request: picking endpoints, deadlines, retries with back-off.

use std::{
    borrow::Cow,
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::header;
use palisade_model::{cluster::Discovery, endpoint::Address, reason::Reason};
use pingora_core::{Error, ErrorSource, ErrorType, Result, RetryType, protocols::Digest, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::{
    context::RequestCtx,
    limits::{self, Current},
    outcome,
    retry::{self, Failure},
};
use crate::{
    index::{IndexedCluster, Outcome},
    request::{
        balance::Picked,
        dynamic::{self, Wanted},
        facts::Chance,
        status,
        upstream::{PlannedTls, protocol_towards, tls_towards},
        verdict::{Action, ForwardPlan},
    },
    runtime::Runtime,
    telemetry::metrics::Limit,
    transport::{
        PeerOptions, UpstreamProtocol, conn_meta, count_request, is_answered, retry_is_safe, revoker,
        set_stream_idle_timeout,
    },
};

/// Repeats after stale pooled connections: after a peer's restart the neighbours of one are stale as well, and the next
/// repeat asks for a connection of its own.
const MAX_STALE: u32 = 3;
/// How long a pooled connection may idle where the cluster does not say (Envoy).
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

/// Starts the request's clock.
pub(super) fn prepare(runtime: &Runtime, session: &mut Session, ctx: &mut RequestCtx) {
    // INVARIANT: no try may wait for ever where the route has a limit.
    let limits = runtime.limits();
    let timeout = [plan(ctx).and_then(|plan| plan.timeout), limits.max_stream].into_iter().flatten().min();
    ctx.tries.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    set_stream_idle_timeout(session, limits.stream_idle);
}

fn plan(ctx: &RequestCtx) -> Option<&ForwardPlan> {
    match ctx.verdict.as_ref().map(|verdict| &verdict.action) {
        Some(Action::Forward(plan)) => Some(plan),
        _ => None,
    }
}

/// How many requests one connection to the cluster may carry, where that is limited.
fn max_requests(ctx: &RequestCtx) -> Option<NonZeroU32> {
    NonZeroU32::new(plan(ctx)?.cluster.cluster().max_requests_per_connection)
}

/// Picks the endpoint of the next try. Pausing first is the back-off.
pub(super) async fn next(runtime: &Runtime, session: &mut Session, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>> {
    ctx.tries.end_try();
    if let Some(pause) = ctx.tries.pause.take() {
        tokio::time::sleep(pause).await;
    }
    check_going(ctx)?;
    let mut left = remaining(ctx)?;
    let (Some(standing), Some(head)) = (ctx.standing.clone(), ctx.head.clone()) else {
        return Error::e_explain(ErrorType::InternalError, "forwarding an undecided request");
    };
    let client = &standing.admitted.facts;
    let Some(cluster) = plan(ctx).map(|plan| Arc::clone(&plan.cluster)) else {
        return Error::e_explain(ErrorType::InternalError, "forwarding without a permit");
    };
    let mut picked = match pick(ctx, &cluster, client.destination) {
        Ok(picked) => picked,
        Err(reason) => return fail(ctx, reason, "no endpoint"),
    };
    if let Err(reason) = limits::run(runtime, ctx, &cluster) {
        return fail(ctx, reason, "circuit breaker");
    }
    let endpoint = picked.endpoint.as_ref().map(|endpoint| &*endpoint.live);
    let waiting = limits::connection(runtime, &cluster, endpoint, head.version, left);
    let taken = tokio::select! {
        biased;
        taken = waiting => taken,
        // Nobody waits for the answer any more: the place in the queue is another's. Dropping `waiting` gives it up.
        gone = session.as_mut().read_body_or_idle(true) => return leave(ctx, gone),
    };
    let (slot, has_waited) = match taken {
        Ok(taken) => taken,
        Err(reason) => return fail(ctx, reason, "circuit breaker"),
    };
    ctx.tries.slot = Some(slot);
    if has_waited {
        // Much may have changed: who is healthy, and who may call whom.
        check_going(ctx)?;
        left = remaining(ctx)?;
        picked = match pick(ctx, &cluster, client.destination) {
            Ok(picked) => picked,
            Err(reason) => return fail(ctx, reason, "no endpoint"),
        };
    }
    let tls = tls_towards(&cluster, picked.endpoint.as_ref());
    let protocol = protocol_towards(&cluster, picked.endpoint.as_ref(), &tls, head.version, ctx.is_upgrade);
    let Some(plan) = plan(ctx) else {
        return Error::e_explain(ErrorType::InternalError, "forwarding without a permit");
    };
    // Nobody else asks for the name.
    let host = if matches!(tls, PlannedTls::Originate(_)) { plan.head.host() } else { Cow::Borrowed("") };
    let per_try = plan.retries.as_ref().and_then(|policy| policy.per_try);
    let connection = limits::options(&cluster, client);
    let found = runtime.transports.find(&standing.index, &tls, picked.source, &host, connection.as_ref());
    let transport = match found {
        Ok(transport) => transport,
        Err(error) => {
            ctx.record.details = Some(error.to_string().into());
            return fail(ctx, Reason::UpstreamConnect, "transport");
        }
    };
    let address = match runtime.names.destination(&picked, standing.index.settings()).await {
        Ok(address) => address,
        Err(error) => {
            ctx.record.details = Some(error.to_string().into());
            return fail(ctx, Reason::NoEndpoints, "no address");
        }
    };
    let connect_timeout = cluster.cluster().connect_timeout.min(left.unwrap_or(Duration::MAX));
    let options = PeerOptions {
        connect_timeout,
        read_timeout: [per_try, left].into_iter().flatten().min(),
        idle_timeout: limits::idle_of(connection.as_ref(), cluster.cluster().idle_timeout.unwrap_or(DEFAULT_IDLE)),
        fresh: ctx.tries.fresh || cluster.cluster().max_requests_per_connection == 1,
        max_requests: NonZeroU32::new(cluster.cluster().max_requests_per_connection),
    };
    let spoken = if protocol.is_http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
    let peer = runtime.transports.connector().peer(address, &transport, spoken, &options);
    ctx.tries.begun += 1;
    ctx.tries.failure = None;
    ctx.tries.in_flight = picked.endpoint.as_ref().map(|endpoint| endpoint.live.begin());
    ctx.tries.current = picked.endpoint.as_ref().map(|endpoint| Current::new(&cluster, &endpoint.live));
    ctx.tries.transport = Some(transport);
    ctx.tries.protocol = Some(protocol);
    ctx.tries.tried.push(picked.address);
    ctx.record.upstream = Some(address);
    Ok(Box::new(peer))
}

fn pick(ctx: &RequestCtx, cluster: &IndexedCluster, dialled: SocketAddr) -> std::result::Result<Picked, Reason> {
    let plan = plan(ctx).ok_or(Reason::NoCluster)?;
    let mut chance = Chance::random(SystemTime::now(), fastrand::Rng::new());
    if let Some(held) = &plan.session
        && let Some(picked) = held.pick(&plan.permit, cluster, &ctx.tries.tried)
    {
        return Ok(picked);
    }
    let avoid = plan.retries.as_ref().is_none_or(|policy| policy.avoid_previous);
    let tried: &[Address] = if avoid { &ctx.tries.tried } else { &[] };
    let is_dynamic = matches!(cluster.cluster().discovery, Discovery::DynamicName { port: _ });
    let host = if is_dynamic { plan.head.host() } else { Cow::Borrowed("") };
    dynamic::pick(&plan.permit, cluster, &Wanted { dialled, host: &host, hash: plan.hash }, tried, &mut chance)
}

/// Time left for the whole request.
fn remaining(ctx: &mut RequestCtx) -> Result<Option<Duration>> {
    let Some(deadline) = ctx.tries.deadline else { return Ok(None) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return fail(ctx, Reason::Timeout, "the request's time is up");
    }
    Ok(Some(left))
}

/// Ends a request whose client has gone, or has sent what belongs to no request.
fn leave<T>(ctx: &mut RequestCtx, gone: Result<Option<Bytes>>) -> Result<T> {
    ctx.tries.failure = Some(Reason::DownstreamClosed);
    let mut error = match gone {
        Ok(_) => Error::explain(ErrorType::ConnectionClosed, "bytes beside the request"),
        Err(error) => error,
    };
    error.set_retry(false);
    error.as_down();
    Err(error)
}

fn fail<T>(ctx: &mut RequestCtx, reason: Reason, what: &'static str) -> Result<T> {
    ctx.tries.failure = Some(reason);
    let mut error = Error::explain(ErrorType::ConnectError, what);
    error.set_retry(false);
    error.as_up();
    Err(error)
}

/// Notes who answered the connection.
pub(super) fn connected(runtime: &Runtime, session: &Session, ctx: &mut RequestCtx, digest: Option<&Digest>) {
    if let (Some(subject), Some(revoker)) = (&ctx.subject, revoker(session)) {
        // One link serves all tries of a request.
        let _ = subject.revoker.set(revoker);
    }
    limits::report(runtime, ctx, Outcome::Connected);
    let meta = digest.and_then(conn_meta);
    let life = ctx.tries.transport.as_ref().and_then(|transport| transport.transport().options.max_duration);
    let is_old = life.zip(meta).is_some_and(|(life, meta)| meta.since.elapsed() >= life);
    let is_counted_out = match (max_requests(ctx), digest) {
        (Some(limit), Some(digest)) => count_request(digest, limit),
        _ => false,
    };
    ctx.tries.is_last_on_connection = is_old || is_counted_out;
    let identity = meta.and_then(|meta| meta.peer_certificate());
    ctx.record.upstream_identity = identity.and_then(|peer| peer.uris.first()).map(|uri| uri.as_str().into());
}

/// Tells an HTTP/1 upstream that its connection ends with this request. HTTP/2 connections count by themselves.
pub(super) fn close_after_last(request: &mut RequestHeader, ctx: &RequestCtx) -> Result<()> {
    let is_http1 = ctx.tries.protocol.is_some_and(|protocol| !protocol.is_http2);
    if ctx.tries.is_last_on_connection && is_http1 && !ctx.is_upgrade {
        request.insert_header(header::CONNECTION, "close")?;
    }
    Ok(())
}

/// Notes the gRPC status that came after everything else.
pub(super) fn answered_with_trailers(runtime: &Runtime, ctx: &RequestCtx, grpc: u32) {
    if ctx.is_grpc {
        limits::report(runtime, ctx, Outcome::Answered(status::http_of_grpc(grpc)));
    }
}

/// Ends a request whose time is up, or that a new configuration no longer permits.
pub(super) fn check_going(ctx: &mut RequestCtx) -> Result<()> {
    if let Some(reason) = ctx.registration.as_ref().and_then(|registration| registration.close_reason()) {
        ctx.tries.failure = Some(reason);
        return Error::e_explain(ErrorType::ConnectionClosed, "closed by the registry");
    }
    if ctx.tries.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        ctx.tries.failure = Some(Reason::Timeout);
        return Error::e_explain(ErrorType::ReadTimedout, "the request's time is up");
    }
    Ok(())
}

/// Ends a request whose body exceeds its limit. A retry's copy of what was received counts once more: it is at most 64 KiB.
pub(super) fn check_size(ctx: &mut RequestCtx, bytes: usize) -> Result<()> {
    let Some(left) = ctx.body_left else { return Ok(()) };
    match left.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX)) {
        Some(left) => {
            ctx.body_left = Some(left);
            Ok(())
        }
        None => {
            ctx.tries.failure = Some(Reason::BodyTooLarge);
            Error::e_explain(ErrorType::ConnectionClosed, "the request's body is too large")
        }
    }
}

/// Turns a response that the policy retries into a failed try.
pub(super) fn check_response(
    runtime: &Runtime,
    session: &mut Session,
    response: &ResponseHeader,
    ctx: &mut RequestCtx,
) -> Result<()> {
    if response.status.is_informational() {
        return Ok(());
    }
    let status = Failure::Status(response.status.as_u16());
    let grpc = outcome::grpc_status(&response.headers);
    // What a gRPC server thinks of the call comes with the trailers, unless they are all that comes.
    let answered = match (ctx.is_grpc && response.status.is_success(), grpc) {
        (false, _) => Some(response.status.as_u16()),
        (true, grpc) => grpc.map(status::http_of_grpc),
    };
    if let Some(answered) = answered {
        limits::report(runtime, ctx, Outcome::Answered(answered));
    }
    let grpc = grpc.map(Failure::Grpc);
    for failure in [Some(status), grpc].into_iter().flatten() {
        if may_retry(runtime, session, ctx, failure) {
            let mut error = Error::explain(ErrorType::HTTPStatus(response.status.as_u16()), "retried by policy");
            error.set_retry(true);
            error.as_up();
            return Err(error);
        }
    }
    Ok(())
}

/// A connection could not be made: nothing was sent, so any method may go elsewhere.
pub(super) fn not_connected(
    runtime: &Runtime,
    session: &mut Session,
    ctx: &mut RequestCtx,
    mut error: Box<Error>,
) -> Box<Error> {
    let is_timeout = *error.etype() == ErrorType::ConnectTimedout;
    limits::report(runtime, ctx, if is_timeout { Outcome::TimedOut } else { Outcome::Failed });
    ctx.tries.end_try();
    let retry = may_retry(runtime, session, ctx, Failure::Connect);
    if !retry {
        ctx.tries.failure = Some(match is_expired(ctx) {
            true => Reason::Timeout,
            false => Reason::UpstreamConnect,
        });
    }
    error.set_retry(retry);
    error
}

/// A try broke after it had a connection.
pub(super) fn broken(
    runtime: &Runtime,
    session: &mut Session,
    ctx: &mut RequestCtx,
    mut error: Box<Error>,
    is_reused: bool,
) -> Box<Error> {
    if let Some(reason) = ctx.registration.as_ref().and_then(|registration| registration.close_reason()) {
        ctx.tries.failure = Some(reason);
    }
    if *error.esource() == ErrorSource::Downstream || ctx.tries.failure.is_some() {
        if ctx.tries.failure == Some(Reason::Timeout) && !is_answered(session) {
            limits::report(runtime, ctx, Outcome::TimedOut);
        }
        ctx.tries.end_try();
        error.set_retry(false);
        return error;
    }
    if matches!(error.etype(), ErrorType::HTTPStatus(_)) {
        // `check_response` decided.
        ctx.tries.end_try();
        error.retry.decide_reuse(false);
        return error;
    }
    if ctx.tries.stale < MAX_STALE && !is_expired(ctx) && retry_is_safe(session, &error, is_reused) {
        ctx.tries.end_try();
        ctx.tries.stale += 1;
        ctx.tries.fresh = true;
        ctx.tries.tried.pop();
        error.set_retry(true);
        return error;
    }
    let failure = match (error.etype(), &error.retry) {
        (ErrorType::ReadTimedout, _) => Failure::PerTryTimeout,
        (_, RetryType::Decided(true)) => Failure::Refused,
        _ => Failure::Reset,
    };
    let is_timeout = failure == Failure::PerTryTimeout;
    limits::report(runtime, ctx, if is_timeout { Outcome::TimedOut } else { Outcome::Failed });
    ctx.tries.end_try();
    let retry = may_retry(runtime, session, ctx, failure);
    error.set_retry(retry);
    error
}

fn is_expired(ctx: &RequestCtx) -> bool {
    ctx.tries.deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Whether the policy and the cluster's limits grant another try; if so, it is counted and its pause set.
fn may_retry(runtime: &Runtime, session: &Session, ctx: &mut RequestCtx, failure: Failure) -> bool {
    let is_replayable = !is_answered(session) && !session.as_ref().retry_buffer_truncated();
    let Some(plan) = plan(ctx) else { return false };
    let Some(policy) = plan.retries.as_ref() else { return false };
    let is_wanted =
        is_replayable && ctx.tries.retries < policy.attempts && !is_expired(ctx) && retry::is_wanted(policy, failure);
    if !is_wanted {
        return false;
    }
    let pause = retry::backoff(policy, ctx.tries.retries.saturating_add(1), fastrand::f64());
    let cluster = Arc::clone(&plan.cluster);
    if !limits::may_retry(ctx, &cluster) {
        runtime.metrics.upstream.count_overflow(Limit::Retries);
        return false;
    }
    ctx.tries.pause = Some(pause);
    ctx.tries.retries += 1;
    true
}
