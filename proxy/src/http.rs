//! The `ProxyHttp` application: Pingora's phases, each a thin call into the pure pipeline and the upstream tries.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, header};
use palisade_model::reason::Reason;
use pingora_core::{
    Error, ErrorType, Result, modules::http::HttpModules, protocols::Digest, upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

mod checked_body;
mod context;
pub(crate) mod copies;
mod head;
mod intake;
pub(crate) mod limits;
mod outcome;
mod retry;
pub mod stream;
mod tries;

pub use context::RequestCtx;

use crate::{
    answer,
    request::{
        changes::apply,
        upstream::{DECISION_HEADER, POLICY_HEADER},
        verdict::{Action, Answer},
    },
    runtime::Runtime,
    transport::{couple, upstream_bytes},
};

/// The length that a request's header announces; 0 where it announces none.
fn declared_length(header: &RequestHeader) -> u64 {
    let length = header.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

/// The application of gateway and sidecar.
#[derive(Debug)]
pub struct MeshApp {
    runtime: Arc<Runtime>,
}

impl MeshApp {
    /// The application over a runtime.
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime }
    }
}

#[async_trait]
impl ProxyHttp for MeshApp {
    type CTX = RequestCtx;

    fn new_ctx(&self) -> RequestCtx {
        self.runtime.metrics.open_streams.inc();
        RequestCtx::new(Arc::clone(&self.runtime.settings().proxy))
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // None: the default would add compression.
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<()> {
        intake::judge(&self.runtime, session, ctx).await
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<bool> {
        let Some(verdict) = &ctx.verdict else {
            return Error::e_explain(ErrorType::InternalError, "no verdict");
        };
        let may_forward = matches!(verdict.action, Action::Forward(_));
        ctx.body_left = self.runtime.settings().max_body_bytes;
        if may_forward && ctx.body_left.is_some_and(|max| declared_length(session.req_header()) > max) {
            ctx.record.reason = Reason::BodyTooLarge;
            let answer = Answer::refusal(Reason::BodyTooLarge, ctx.is_grpc, None);
            (ctx.record.status, ctx.record.grpc_status) = (Some(answer.status), answer.grpc_status);
            // The body is not read: the connection cannot carry another request.
            session.set_keepalive(None);
            answer::send(session, &answer, None).await?;
            return Ok(true);
        }
        if let Some(delay) = verdict.fault.delay {
            tokio::time::sleep(delay).await;
        }
        match &verdict.action {
            Action::Forward(_) => {
                tries::prepare(&self.runtime, session, ctx);
                copies::begin(&self.runtime, session, ctx);
                // Here and not when Pingora asks: what cannot be forwarded at all is answered, and the client keeps its
                // connection.
                match tries::next(&self.runtime, session, ctx).await {
                    Ok(peer) => {
                        ctx.tries.ready = Some(peer);
                        Ok(false)
                    }
                    Err(error) => match outcome::refuse(&self.runtime, session, &error, ctx).await {
                        Some(_status) => Ok(true),
                        None => Err(error),
                    },
                }
            }
            Action::Respond(answer) => {
                answer::send(session, answer, ctx.told.as_ref()).await?;
                Ok(true)
            }
            Action::Close | Action::Ask(_) | Action::Check(_) => {
                ctx.is_closed = true;
                Error::e_explain(ErrorType::ConnectionClosed, "closed by configuration")
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>> {
        ctx.tee.rewind();
        match ctx.tries.ready.take() {
            Some(peer) => Ok(peer),
            None => tries::next(&self.runtime, session, ctx).await,
        }
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        couple(session, digest);
        tries::connected(&self.runtime, session, ctx, digest);
        // What was revoked while the connection was being made goes no further.
        tries::check_going(ctx)
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        let carries = ctx.tries.protocol.and_then(|protocol| protocol.carries);
        let attempt = ctx.tries.retries.saturating_add(1);
        match ctx.verdict.as_ref().map(|verdict| &verdict.action) {
            Some(Action::Forward(plan)) => {
                head::write(request, &plan.head, carries, attempt)?;
                tries::close_after_last(request, ctx)
            }
            _ => Error::e_explain(ErrorType::InternalError, "forwarding without a plan"),
        }
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        tries::check_going(ctx)?;
        tries::check_size(ctx, body.as_ref().map_or(0, Bytes::len))?;
        ctx.tee.pass(body.as_ref(), end_of_stream);
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        tries::check_response(&self.runtime, session, response, ctx)
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        ctx.record.status = Some(response.status.as_u16());
        ctx.record.grpc_status = outcome::grpc_status(&response.headers);
        response.insert_header(header::SERVER, answer::SERVER)?;
        if ctx.record.upstream_identity.is_none() {
            // Only proxies of the mesh speak of decisions.
            response.remove_header(&DECISION_HEADER);
            response.remove_header(&POLICY_HEADER);
        }
        if let Some(Action::Forward(plan)) = ctx.verdict.as_ref().map(|verdict| &verdict.action) {
            apply(&mut head::Response(response), &plan.response);
            let address = ctx.tries.tried.last();
            let kept = plan.session.as_ref().zip(address).and_then(|(held, at)| held.answer(plan.cluster.name(), at));
            apply(&mut head::Response(response), kept.as_slice());
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut RequestCtx,
    ) -> Result<Option<std::time::Duration>> {
        tries::check_going(ctx).map(|()| None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        if let Some(status) = outcome::grpc_status(trailers) {
            tries::answered_with_trailers(&self.runtime, ctx, status);
            ctx.record.grpc_status = Some(status);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut RequestCtx,
        error: Box<Error>,
    ) -> Box<Error> {
        tries::not_connected(&self.runtime, session, ctx, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut RequestCtx,
        client_reused: bool,
    ) -> Box<Error> {
        tries::broken(&self.runtime, session, ctx, error, client_reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestCtx) -> FailToProxy {
        // Pingora closes the connection after a try that failed, whatever is said here: the client must know.
        session.set_keepalive(None);
        let error_code = outcome::refuse(&self.runtime, session, error, ctx).await.unwrap_or(0);
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut RequestCtx) {
        ctx.tries.end();
        ctx.registration = None;
        self.runtime.metrics.open_streams.dec();
        outcome::finish(session, error, ctx, upstream_bytes(session));
        self.runtime.metrics.count_request(&ctx.record);
        self.runtime.log.write(&ctx.record);
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &RequestCtx, _error: &Error) -> bool {
        // The access log says it, with its reason.
        true
    }
}
