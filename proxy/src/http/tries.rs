//! The tries of one request: picking endpoints, deadlines, retries with back-off.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use palisade_model::{endpoint::Address, reason::Reason};
use pingora_core::{Error, ErrorSource, ErrorType, Result, RetryType, protocols::Digest, upstreams::peer::HttpPeer};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{
    context::RequestCtx,
    outcome,
    retry::{self, Failure},
};
use crate::{
    request::{
        authority::Authority,
        dynamic,
        facts::Chance,
        upstream::{protocol_towards, tls_towards},
        verdict::{Action, ForwardPlan},
    },
    runtime::Runtime,
    transport::{PeerOptions, UpstreamProtocol, conn_meta, retry_is_safe, set_stream_idle_timeout},
};

/// Repeats after stale pooled connections: after a peer's restart the neighbours of one are stale as well, and the next
/// repeat asks for a connection of its own.
const MAX_STALE: u32 = 3;
/// How long a pooled connection may idle where the cluster does not say (Envoy).
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

/// Starts the request's clock.
pub(super) fn prepare(session: &mut Session, ctx: &mut RequestCtx) {
    // INVARIANT: no try may wait for ever where the route has a limit.
    let timeout = plan(ctx).and_then(|plan| plan.timeout);
    ctx.tries.deadline = timeout.map(|timeout| Instant::now() + timeout);
    set_stream_idle_timeout(session, None);
}

fn plan(ctx: &RequestCtx) -> Option<&ForwardPlan> {
    match ctx.verdict.as_ref().map(|verdict| &verdict.action) {
        Some(Action::Forward(plan)) => Some(plan),
        _ => None,
    }
}

/// Picks the endpoint of the next try. Pausing first is the back-off.
pub(super) async fn next(runtime: &Runtime, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>> {
    if let Some(pause) = ctx.tries.pause.take() {
        tokio::time::sleep(pause).await;
    }
    let left = remaining(ctx)?;
    let (Some(standing), Some(head)) = (ctx.standing.clone(), ctx.head.clone()) else {
        return Error::e_explain(ErrorType::InternalError, "forwarding an undecided request");
    };
    let dialled = standing.admitted.facts.destination;
    let mut chance = Chance::random(SystemTime::now(), fastrand::Rng::new());
    let Some(Action::Forward(plan)) = ctx.verdict.as_ref().map(|verdict| &verdict.action) else {
        return Error::e_explain(ErrorType::InternalError, "forwarding without a permit");
    };
    let cluster = Arc::clone(&plan.cluster);
    let avoid = plan.retries.as_ref().is_none_or(|policy| policy.avoid_previous);
    let tried: &[Address] = if avoid { &ctx.tries.tried } else { &[] };
    let host = Authority::parse(&plan.head.authority).map_or_else(|_| String::new(), |a| a.host.into_owned());
    let picked = match dynamic::pick(&plan.permit, &cluster, dialled, &host, tried, &mut chance) {
        Ok(picked) => picked,
        Err(reason) => return fail(ctx, reason, "no endpoint"),
    };
    let tls = tls_towards(&cluster, picked.endpoint.as_ref());
    let version = head.version;
    let protocol = protocol_towards(&cluster, picked.endpoint.as_ref(), &tls, version, ctx.is_upgrade);
    let per_try = plan.retries.as_ref().and_then(|policy| policy.per_try);
    let transport = match runtime.transports.find(&standing.index, &tls, picked.source, &host) {
        Ok(transport) => transport,
        Err(error) => {
            ctx.record.details = Some(error.to_string().into());
            return fail(ctx, Reason::UpstreamConnect, "transport");
        }
    };
    let has_v6 = standing.index.settings().addresses.iter().any(IpAddr::is_ipv6);
    let Some(address) = runtime.names.locate(&picked.address, has_v6).await else {
        return fail(ctx, Reason::NoEndpoints, "the endpoint's name does not resolve");
    };
    let is_named_by_client = picked.endpoint.is_none() && !matches!(picked.address, Address::Socket(_));
    if is_named_by_client && !dynamic::is_outside(address.ip()) {
        return fail(ctx, Reason::NoEndpoints, "the host's name leads to this machine");
    }
    let connect_timeout = cluster.cluster().connect_timeout.min(left.unwrap_or(Duration::MAX));
    let options = PeerOptions {
        connect_timeout,
        read_timeout: [per_try, left].into_iter().flatten().min(),
        idle_timeout: cluster.cluster().idle_timeout.unwrap_or(DEFAULT_IDLE),
        fresh: ctx.tries.fresh || cluster.cluster().max_requests_per_connection == 1,
    };
    let spoken = if protocol.is_http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
    let peer = runtime.transports.connector().peer(address, &transport, spoken, &options);
    ctx.tries.begun += 1;
    ctx.tries.failure = None;
    ctx.tries.in_flight = picked.endpoint.as_ref().map(|endpoint| endpoint.live.begin());
    ctx.tries.transport = Some(transport);
    ctx.tries.protocol = Some(protocol);
    ctx.tries.tried.push(picked.address);
    ctx.record.upstream = Some(address);
    Ok(Box::new(peer))
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

fn fail<T>(ctx: &mut RequestCtx, reason: Reason, what: &'static str) -> Result<T> {
    ctx.tries.failure = Some(reason);
    let mut error = Error::explain(ErrorType::ConnectError, what);
    error.set_retry(false);
    error.as_up();
    Err(error)
}

/// Notes who answered the connection.
pub(super) fn connected(ctx: &mut RequestCtx, digest: Option<&Digest>) {
    let identity = digest.and_then(conn_meta).and_then(|meta| meta.peer_certificate());
    ctx.record.upstream_identity = identity.and_then(|peer| peer.uris.first()).map(|uri| uri.as_str().into());
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

/// Turns a response that the policy retries into a failed try.
pub(super) fn check_response(session: &mut Session, response: &ResponseHeader, ctx: &mut RequestCtx) -> Result<()> {
    if response.status.is_informational() {
        return Ok(());
    }
    let status = Failure::Status(response.status.as_u16());
    let grpc = outcome::grpc_status(&response.headers).map(Failure::Grpc);
    for failure in [Some(status), grpc].into_iter().flatten() {
        if may_retry(session, ctx, failure) {
            let mut error = Error::explain(ErrorType::HTTPStatus(response.status.as_u16()), "retried by policy");
            error.set_retry(true);
            error.as_up();
            return Err(error);
        }
    }
    Ok(())
}

/// A connection could not be made: nothing was sent, so any method may go elsewhere.
pub(super) fn not_connected(session: &mut Session, ctx: &mut RequestCtx, mut error: Box<Error>) -> Box<Error> {
    ctx.tries.in_flight = None;
    let retry = may_retry(session, ctx, Failure::Connect);
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
    session: &mut Session,
    ctx: &mut RequestCtx,
    mut error: Box<Error>,
    is_reused: bool,
) -> Box<Error> {
    ctx.tries.in_flight = None;
    if *error.esource() == ErrorSource::Downstream || ctx.tries.failure.is_some() {
        error.set_retry(false);
        return error;
    }
    if matches!(error.etype(), ErrorType::HTTPStatus(_)) {
        // `check_response` decided.
        error.retry.decide_reuse(false);
        return error;
    }
    if ctx.tries.stale < MAX_STALE && !is_expired(ctx) && retry_is_safe(session, &error, is_reused) {
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
    let retry = may_retry(session, ctx, failure);
    error.set_retry(retry);
    error
}

fn is_expired(ctx: &RequestCtx) -> bool {
    ctx.tries.deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Whether the policy grants another try; if so, it is counted and its pause set.
fn may_retry(session: &Session, ctx: &mut RequestCtx, failure: Failure) -> bool {
    let is_replayable = session.response_written().is_none() && !session.as_ref().retry_buffer_truncated();
    let Some(policy) = plan(ctx).and_then(|plan| plan.retries.as_ref()) else { return false };
    let granted =
        is_replayable && ctx.tries.retries < policy.attempts && !is_expired(ctx) && retry::is_wanted(policy, failure);
    if granted {
        let pause = retry::backoff(policy, ctx.tries.retries.saturating_add(1), fastrand::f64());
        ctx.tries.pause = Some(pause);
        ctx.tries.retries += 1;
    }
    granted
}
