//! One upstream HTTP/2 stream, as a session of the `HttpProxy`.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts as RequestParts;
use http::{HeaderMap, Method, Request, StatusCode, header};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout;

use super::pool::Lease;
use super::request;
use super::retry::before_response;
use crate::transport::link::{Link, Side};

/// A request on an HTTP/2 connection.
pub struct H2Upstream {
    lease: Lease,
    link: Arc<Link>,
    /// The link is the client's too: its reads are gated, so our writes need not wait.
    is_gated: bool,
    response: Option<ResponseFuture>,
    send: Option<SendStream<Bytes>>,
    /// END_STREAM was sent with the header.
    ended: bool,
    header: Option<ResponseHeader>,
    body: Option<RecvStream>,
    /// The request's method allows its response a body.
    expects_body: bool,
    /// Bytes of the response's body that were announced and have not come; 0 where no length was announced.
    missing: u64,
    read_timeout: Option<Duration>,
}

impl H2Upstream {
    pub(super) fn new(lease: Lease) -> Self {
        Self {
            lease,
            link: Link::new(None),
            is_gated: false,
            response: None,
            send: None,
            ended: false,
            header: None,
            body: None,
            expects_body: true,
            missing: 0,
            read_timeout: None,
        }
    }

    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHeader>> {
        let Some(response) = self.response.as_mut() else {
            return Poll::Ready(Error::e_explain(ErrorType::InternalError, "no request was sent"));
        };
        if let Poll::Ready(Some(informational)) = response.poll_informational(cx) {
            let (parts, ()) = informational.map_err(|e| self.lost(e))?.into_parts();
            return Poll::Ready(Ok(parts.into()));
        }
        let (parts, body) = ready!(Pin::new(response).poll(cx)).map_err(|e| self.lost(e))?.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Error::e_explain(ErrorType::InvalidHTTPHeader, "101 on HTTP/2"));
        }
        let is_bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if self.expects_body && !is_bodiless {
            let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
            // The h2 crate has refused what is no length.
            self.missing = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        }
        self.body = Some(body);
        self.response = None;
        Poll::Ready(Ok(parts.into()))
    }

    fn lost(&self, e: h2::Error) -> Box<Error> {
        self.note(&e);
        before_response(e, "response header")
    }

    fn note(&self, e: &h2::Error) {
        if let Some(reason) = e.reason().filter(|_| e.is_reset() && e.is_remote()) {
            self.link.upstream_has_reset(reason);
        }
        if e.is_go_away() || e.is_io() {
            self.lease.0.leave();
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        ready!(self.link.poll_gate(Side::Up, cx));
        let Some(body) = self.body.as_mut() else { return Poll::Ready(Ok(None)) };
        let Some(data) = ready!(body.poll_data(cx)) else { return Poll::Ready(Ok(None)) };
        match data {
            Ok(data) => {
                let _ = body.flow_control().release_capacity(data.len());
                self.link.count_received(data.len());
                self.link.touch();
                self.missing = self.missing.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
                Poll::Ready(Ok(Some(data)))
            }
            // RFC 9113 section 8.1: a complete response, and no interest in the rest of the request. One that is not complete has
            // failed, whatever the code says.
            Err(e) if is_no_error(&e) && self.missing == 0 => Poll::Ready(Ok(None)),
            Err(e) => {
                self.note(&e);
                Poll::Ready(Error::e_because(ErrorType::ReadError, "response body", e))
            }
        }
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(Ok(None)) };
        match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(Ok(trailers)),
            Err(e) if is_no_error(&e) => Poll::Ready(Ok(None)),
            Err(e) => {
                self.note(&e);
                Poll::Ready(Error::e_because(ErrorType::ReadError, "response trailers", e))
            }
        }
    }

    /// Bounds a read by the read timeout and the stream idle timeout.
    async fn bounded<T>(
        &mut self,
        what: &'static str,
        mut read: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<Result<T>>,
    ) -> Result<T> {
        let limit = self.read_timeout;
        let read = poll_fn(|cx| {
            if let Poll::Ready(done) = read(self, cx) {
                return Poll::Ready(done);
            }
            ready!(self.link.poll_idle(cx));
            Poll::Ready(Error::e_explain(ErrorType::ReadTimedout, "stream idle timeout"))
        });
        match limit {
            None => read.await,
            Some(limit) => match timeout(limit, read).await {
                Ok(done) => done,
                Err(_) => Error::e_explain(ErrorType::ReadTimedout, what),
            },
        }
    }
}

fn is_no_error(e: &h2::Error) -> bool {
    e.is_reset() && e.is_remote() && e.reason() == Some(Reason::NO_ERROR)
}

#[async_trait]
impl Session for H2Upstream {
    async fn write_request_header(&mut self, mut header: Box<RequestHeader>, end: bool) -> Result<()> {
        request::prepare(&mut header, self.lease.0.is_tls)?;
        self.expects_body = header.method != Method::HEAD;
        if let Some(link) = header.extensions.get::<Arc<Link>>() {
            self.link = Arc::clone(link);
            self.is_gated = true;
        }
        // A retry of a request that was read to its end before, and turned out to be trailers only.
        let trailers = if end { self.link.trailers() } else { None };
        self.ended = end;
        let (response, mut send) = self
            .lease
            .0
            .sender()
            .send_request(Request::from_parts(RequestParts::from(*header), ()), end && trailers.is_none())
            .map_err(|e| {
                self.lease.0.leave();
                let is_connection = e.is_go_away() || e.is_io();
                let mut error = before_response(e, "request header");
                // Nothing of the request was sent.
                error.set_retry(is_connection || error.retry());
                error
            })?;
        if let Some(trailers) = trailers {
            send.send_trailers(trailers).or_err(ErrorType::WriteError, "request trailers")?;
        }
        self.link.touch();
        self.response = Some(response);
        self.send = Some(send);
        Ok(())
    }

    async fn write_request_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        // Pingora takes the body writer instead.
        match self.send.as_mut() {
            Some(send) => send.send_data(data, end).or_err(ErrorType::WriteError, "request body"),
            None => Ok(()),
        }
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        if self.ended { Ok(()) } else { self.write_request_body(Bytes::new(), true).await }
    }

    fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.read_timeout = limit;
    }

    fn set_write_timeout(&mut self, _limit: Option<Duration>) {
        // Writes never wait.
    }

    async fn read_response_header(&mut self) -> Result<()> {
        let header = self.bounded("response header", Self::poll_header).await?;
        self.link.touch();
        self.header = Some(header);
        Ok(())
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        self.bounded("response body", Self::poll_body).await
    }

    fn response_finished(&self) -> bool {
        // `is_end_stream` is true of a stream that was reset as well.
        self.missing == 0 && self.body.as_ref().is_some_and(RecvStream::is_end_stream)
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        if let Some(mut send) = self.send.take().filter(|_| !self.ended) {
            send.send_reset(self.link.code_for_upstream());
        }
        self.link.up.reset(self.link.code_for_upstream());
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.header.as_ref()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.lease.0.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        // Shared with the connection's other streams.
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.lease.0.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.lease.0.digest.socket_digest.as_ref()?.local_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        self.bounded("response trailers", Self::poll_trailers).await
    }

    fn fd(&self) -> i32 {
        self.lease.0.fd
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        let Some(body) = self.body.as_mut().filter(|body| body.is_end_stream()) else { return Ok(false) };
        // `is_end_stream` is true of a stream that failed as well; only reading tells (hyperium/h2#806).
        match poll_fn(|cx| Poll::Ready(body.poll_data(cx))).await {
            Poll::Ready(None) => Ok(true),
            Poll::Ready(Some(Err(e))) if is_no_error(&e) && self.missing == 0 => Ok(true),
            Poll::Ready(Some(Err(e))) => {
                self.note(&e);
                Error::e_because(ErrorType::H2Error, "response body", e)
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => Error::e_explain(ErrorType::H2Error, "data after the end"),
        }
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        let send = self.send.take()?;
        self.link.up.open_h2(send);
        if self.is_gated {
            self.link.set_coupled();
        }
        Some(Box::new(LinkedBody { link: Arc::clone(&self.link), waits: !self.is_gated, ended: self.ended }))
    }

    // Custom messages do not exist in HTTP/2, but Pingora fails every request whose session has none to give.
    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}

/// Writes a request's body. Never waits: the read of the next chunk does. Never fails: what the stream has to say comes
/// with the response, and an early answer with RST_STREAM(NO_ERROR) is no failure at all.
struct LinkedBody {
    link: Arc<Link>,
    waits: bool,
    ended: bool,
}

#[async_trait]
impl BodyWrite for LinkedBody {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        let link = &self.link;
        if self.waits {
            poll_fn(|cx| link.up.poll_room(cx)).await;
        }
        self.ended = link.is_last() && !link.has_trailers();
        if data.is_empty() && !self.ended {
            return Ok(()); // h2 peers count empty frames, and close the connection after a hundred
        }
        link.count_sent(data.len());
        let _ = link.up.send(data.split_to(data.len()), self.ended);
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let link = &self.link;
        if link.is_cut() {
            link.up.reset(Reason::NO_ERROR);
        } else if self.ended {
            return Ok(());
        } else if let Some(trailers) = link.trailers() {
            let _ = link.up.send_trailers(trailers);
        } else {
            let _ = link.up.send(Bytes::new(), true);
        }
        self.ended = true;
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}

impl Drop for LinkedBody {
    fn drop(&mut self) {
        if self.ended {
            self.link.up.close();
        } else {
            self.link.up.reset(self.link.code_for_upstream());
        }
    }
}
