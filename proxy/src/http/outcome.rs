//! How a request ended: errors as reasons, and the last lines of its record.

use http::HeaderMap;
use palisade_model::reason::Reason;
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;

use super::{context::RequestCtx, intake};
use crate::{
    answer,
    request::verdict::Answer,
    runtime::Runtime,
    transport::{is_answered, is_malformed, is_stream_idle},
};

/// The reason behind an error.
pub(super) fn reason_of(session: &Session, error: &Error, ctx: &RequestCtx) -> Reason {
    if ctx.is_closed {
        return match ctx.record.reason {
            Reason::Ok => Reason::DownstreamClosed,
            reason => reason,
        };
    }
    if let Some(reason) = ctx.registration.as_ref().and_then(|registration| registration.close_reason()) {
        return reason;
    }
    if is_stream_idle(session) {
        return Reason::IdleTimeout;
    }
    if let Some(reason) = ctx.tries.failure {
        return reason;
    }
    match error.etype() {
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::BindError
        | ErrorType::SocketError
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => Reason::UpstreamConnect,
        kind => match (error.esource(), kind) {
            (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader | ErrorType::H2Error) => Reason::BadRequest,
            (ErrorSource::Downstream, ErrorType::ReadTimedout) => Reason::RequestTimeout,
            (ErrorSource::Downstream, _) if is_malformed(session) => Reason::BadRequest,
            (ErrorSource::Downstream, _) => Reason::DownstreamClosed,
            (_, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Reason::Timeout,
            (_, ErrorType::InvalidHTTPHeader) => Reason::UpstreamProtocol,
            (_, _) => Reason::UpstreamReset,
        },
    }
}

/// Answers a request that failed, and notes how. `None`: there is nobody to answer, or the answer has begun already.
pub(super) async fn refuse(
    runtime: &Runtime,
    session: &mut Session,
    error: &Error,
    ctx: &mut RequestCtx,
) -> Option<u16> {
    let reason = reason_of(session, error, ctx);
    ctx.record.reason = reason;
    ctx.record.details = Some(details_of(error).into());
    intake::note_revoked(runtime, session, ctx, reason);
    let is_gone = ctx.is_closed
        || is_answered(session)
        || matches!(reason, Reason::DownstreamClosed | Reason::IdleTimeout | Reason::PeerRefused);
    if is_gone {
        return None;
    }
    let answer = Answer::refusal(reason, ctx.is_grpc, None);
    (ctx.record.status, ctx.record.grpc_status) = (Some(answer.status), answer.grpc_status);
    answer::send(session, &answer, ctx.told.as_ref()).await.ok().map(|()| answer.status)
}

/// What the log says about an error: its kind and context, none of which a peer writes.
pub(super) fn details_of(error: &Error) -> String {
    let mut text = error.to_string().replace('\n', " ");
    let mut end = text.len().min(512);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Completes the record.
pub(super) fn finish(session: &mut Session, error: Option<&Error>, ctx: &mut RequestCtx, upstream: (u64, u64)) {
    let elapsed = ctx.started.elapsed();
    if let Some(error) = error
        && ctx.record.reason == Reason::Ok
    {
        ctx.record.reason = reason_of(session, error, ctx);
        ctx.record.details.get_or_insert_with(|| details_of(error).into());
    }
    let record = &mut ctx.record;
    record.set_duration(elapsed);
    record.attempts = ctx.tries.begun;
    let as_u64 = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    record.bytes_received = as_u64(session.body_bytes_read()).max(upstream.0);
    record.bytes_sent = as_u64(session.body_bytes_sent());
}

/// `grpc-status` of trailers or of a trailers-only answer.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
