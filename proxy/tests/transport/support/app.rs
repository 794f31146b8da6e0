//! A `ProxyHttp` that forwards everything to one upstream.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use http::Version;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use palisade_proxy::transport::{
    self, MeshConnector, PeerOptions, TransportRef, UpstreamProtocol, authority, conn_meta, downstream_meta,
};

/// What to speak upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speak {
    /// HTTP/2 for HTTP/2, HTTP/1 for HTTP/1.
    Same,
    /// One protocol; upgrades still go over HTTP/1.
    Always(UpstreamProtocol),
}

#[derive(Default)]
pub struct Seen {
    pub requests: AtomicUsize,
    pub ended: AtomicUsize,
    pub retries: AtomicUsize,
    pub failures: AtomicUsize,
    pub idle: AtomicUsize,
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

pub struct Forward {
    pub connector: MeshConnector,
    pub upstream: SocketAddr,
    pub transport: TransportRef,
    pub speak: Speak,
    pub stream_idle: Option<Duration>,
    pub max_requests: Option<NonZeroU32>,
    pub connect_timeout: Duration,
    pub seen: Arc<Seen>,
}

#[derive(Default)]
pub struct Ctx {
    tries: usize,
    upstream_id: Option<String>,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        self.seen.requests.fetch_add(1, SeqCst);
        Ctx::default()
    }

    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut Ctx) -> Result<bool> {
        if authority::of(session.req_header()).is_err() {
            session.respond_error(400).await?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        ctx.tries += 1;
        let protocol = match self.speak {
            _ if session.is_upgrade_req() => UpstreamProtocol::Http1,
            Speak::Always(protocol) => protocol,
            Speak::Same if session.req_header().version == Version::HTTP_2 => UpstreamProtocol::Http2,
            Speak::Same => UpstreamProtocol::Http1,
        };
        let options = PeerOptions {
            fresh: ctx.tries > 1,
            connect_timeout: self.connect_timeout,
            max_requests: self.max_requests,
            ..PeerOptions::default()
        };
        Ok(Box::new(self.connector.peer(self.upstream, &self.transport, protocol, &options)))
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        transport::couple(session, digest);
        if let (Some(limit), Some(digest)) = (self.max_requests, digest) {
            transport::count_request(digest, limit);
        }
        if self.stream_idle.is_some() {
            transport::set_stream_idle_timeout(session, self.stream_idle);
        }
        ctx.upstream_id = digest.and_then(conn_meta).and_then(|meta| meta.peer_identity()).map(ToString::to_string);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut Ctx,
    ) -> Result<()> {
        let meta = downstream_meta(session).unwrap();
        assert_eq!(meta.owner::<&'static str>(), Some(&"owner"));
        if let Some(id) = meta.peer_identity() {
            request.insert_header("x-client-id", id.to_string())?;
        }
        Ok(())
    }

    async fn response_filter(&self, _s: &mut Session, response: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
        if let Some(id) = ctx.upstream_id.clone() {
            response.insert_header("x-upstream-id", id)?;
        }
        Ok(())
    }

    fn fail_to_connect(&self, s: &mut Session, _p: &HttpPeer, ctx: &mut Ctx, mut e: Box<Error>) -> Box<Error> {
        // Nothing was sent: any request may go again, within reason.
        e.set_retry(ctx.tries < 4 && !s.as_ref().retry_buffer_truncated());
        e
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        let again = ctx.tries < 4 && transport::retry_is_safe(session, &e, reused);
        if again {
            self.seen.retries.fetch_add(1, SeqCst);
        }
        e.set_retry(again);
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, _ctx: &mut Ctx) -> FailToProxy {
        let code = match e.etype() {
            ErrorType::HTTPStatus(code) => *code,
            ErrorType::TLSHandshakeFailure => 503,
            _ => 502,
        };
        if session.response_written().is_none() {
            let _ = session.respond_error_with_body(code, format!("{e}").into()).await;
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, _ctx: &mut Ctx) {
        if let Some(e) = error {
            self.seen.failures.fetch_add(1, SeqCst);
            if std::env::var_os("PALISADE_TEST_LOG").is_some() {
                eprintln!("{}: {e}", session.request_summary());
            }
        }
        if transport::is_stream_idle(session) {
            self.seen.idle.fetch_add(1, SeqCst);
        }
        let (sent, received) = transport::upstream_bytes(session);
        self.seen.sent.fetch_add(sent, SeqCst);
        self.seen.received.fetch_add(received, SeqCst);
        self.seen.ended.fetch_add(1, SeqCst);
    }
}
