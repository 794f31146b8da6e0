//! One downstream HTTP/2 stream, as the session of an `HttpProxy` request.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{self, HeaderMap, HeaderName};
use http::response::Parts as ResponseParts;
use http::{Request, Response, StatusCode};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::body_buffer::FixedBuffer;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::admission;
use crate::transport::limits::H2Limits;
use crate::transport::link::{Link, NextOfBody};

/// What Pingora keeps of a request's body for a retry, as in its own sessions.
const RETRY_BUFFER: usize = 64 * 1024;

/// RFC 9113 section 8.2.2.
const OF_ONE_CONNECTION: [HeaderName; 5] = [
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// In every error answer that Pingora makes.
const PLACEHOLDER_DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A request that was admitted.
pub(super) struct H2Stream {
    request: RequestHeader,
    body: RecvStream,
    link: Arc<Link>,
    digest: Arc<Digest>,
}

/// The session of one request.
pub(super) struct H2Session {
    request: RequestHeader,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    link: Arc<Link>,
    digest: Arc<Digest>,
    /// The final response's status; its fields have gone out.
    written: Option<ResponseHeader>,
    ended: bool,
    bytes_read: usize,
    bytes_sent: usize,
    retry: Option<FixedBuffer>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

impl H2Stream {
    /// Takes a request in.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub(super) fn admit(
        mut request: Request<RecvStream>,
        digest: &Arc<Digest>,
        limits: &H2Limits,
    ) -> Result<Self, StatusCode> {
        let link = Link::new(limits.stream_idle_timeout);
        request.extensions_mut().insert(Arc::clone(&link));
        let (parts, body) = request.into_parts();
        let request = RequestHeader::from(parts);
        admission::check(&request, limits.max_headers)?;
        Ok(Self { request, body, link, digest: Arc::clone(digest) })
    }

    pub(super) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    pub(super) fn answered_by(self, respond: SendResponse<Bytes>) -> H2Session {
        let Self { request, body, link, digest } = self;
        H2Session {
            request,
            body,
            respond,
            link,
            digest,
            written: None,
            ended: false,
            bytes_read: 0,
            bytes_sent: 0,
            retry: None,
            read_timeout: None,
            write_timeout: None,
            drain_timeout: None,
        }
    }
}

/// The stream idle timeout, where nothing of HTTP said so.
fn idle_error() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "stream idle timeout")
}

impl H2Session {
    /// Ready with the error when the client has reset the stream or left.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let reset = match self.link.down.poll_reset(cx) {
            Some(reset) => reset,
            None => self.respond.poll_reset(cx),
        };
        match reset {
            Poll::Ready(Ok(reason)) => {
                self.link.client_has_reset(reason);
                Poll::Ready(Error::explain(ErrorType::ConnectionClosed, format!("client reset the stream: {reason}")))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Error::because(ErrorType::ConnectionClosed, "client connection", e)),
            Poll::Pending => self.link.poll_idle(cx).map(|()| idle_error()),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if self.ended && self.link.is_coupled() {
            // Answered early: the rest is not wanted. Dropping `self` sends RST_STREAM(NO_ERROR).
            self.link.cut();
            return Poll::Ready(Ok(None));
        }
        if self.link.up.poll_room(cx).is_pending() {
            return self.poll_gone(cx).map(Err);
        }
        match self.link.next_of_body() {
            NextOfBody::Stream => {}
            NextOfBody::Chunk(data) => {
                if let Some(retry) = self.retry.as_mut() {
                    retry.write_to_buffer(&data);
                }
                self.link.touch();
                let is_last = self.is_body_done();
                self.link.set_last(is_last);
                return Poll::Ready(Ok(Some(data)));
            }
            NextOfBody::End => return Poll::Ready(Ok(None)),
        }
        let chunk = loop {
            match self.body.poll_data(cx) {
                Poll::Pending => return self.link.poll_idle(cx).map(|()| Err(idle_error())),
                Poll::Ready(None) => {
                    let trailers = match self.body.poll_trailers(cx) {
                        Poll::Pending => return self.link.poll_idle(cx).map(|()| Err(idle_error())),
                        Poll::Ready(trailers) => trailers.map_err(|e| self.read_error(e))?,
                    };
                    self.link.set_trailers(trailers);
                    break None;
                }
                // Pingora would write an empty last chunk to an HTTP/1 upstream as the end, and then the end once more.
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(data)) => {
                    let data = data.map_err(|e| self.read_error(e))?;
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.bytes_read += data.len();
                    if let Some(retry) = self.retry.as_mut() {
                        retry.write_to_buffer(&data);
                    }
                    break Some(data);
                }
            }
        };
        self.link.touch();
        self.link.set_last(self.body.is_end_stream());
        Poll::Ready(Ok(chunk))
    }

    fn read_error(&self, e: h2::Error) -> Box<Error> {
        if let Some(reason) = e.reason().filter(|_| e.is_reset() && e.is_remote()) {
            self.link.client_has_reset(reason);
            return Error::because(ErrorType::ConnectionClosed, "client reset the stream", e);
        }
        Error::because(ErrorType::ReadError, "request body", e)
    }

    async fn room(&self) -> Result<()> {
        let room = poll_fn(|cx| match self.link.down.poll_room(cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => self.link.poll_idle(cx).map(|()| Err(idle_error())),
        });
        match self.write_timeout {
            None => room.await,
            Some(limit) => tokio::time::timeout(limit, room).await.or_err(ErrorType::WriteTimedout, "response body")?,
        }
    }

    async fn write_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(header, end) => {
                self.write_header(header, end).await.map_err(|e| e.into_down())?;
                Ok(end)
            }
            HttpTask::Body(data, end) => {
                if let Some(data) = data.filter(|data| !data.is_empty()) {
                    self.write_body(data, end).await.map_err(|e| e.into_down())?;
                }
                Ok(end)
            }
            HttpTask::Trailer(trailers) => {
                if let Some(trailers) = trailers {
                    self.write_trailers(*trailers).await.map_err(|e| e.into_down())?;
                }
                Ok(true)
            }
            HttpTask::Done => Ok(true),
            HttpTask::Failed(e) => Err(e),
            HttpTask::UpgradedBody(..) => Error::e_explain(ErrorType::InternalError, "upgraded body on HTTP/2"),
        }
    }

    async fn write_header(&mut self, mut header: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.written.is_some() {
            return Ok(());
        }
        // RFC 9113 section 8.2.2: connection-specific fields make a response malformed.
        for name in &OF_ONE_CONNECTION {
            header.remove_header(name);
        }
        self.link.touch();
        if header.status.is_informational() {
            if header.status == StatusCode::SWITCHING_PROTOCOLS {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "101 on HTTP/2");
            }
            return self
                .respond
                .send_informational(Response::from_parts(ResponseParts::from(*header), ()))
                .or_err(ErrorType::WriteError, "1xx response");
        }
        // The upstream's date stays; Pingora's own answers carry a fixed one, to be replaced.
        if header.headers.get(header::DATE).is_none_or(|date| date == PLACEHOLDER_DATE) {
            header.insert_header(header::DATE, get_cached_date())?;
        }
        // Whoever asks later what was answered asks for the status.
        let written = ResponseHeader::build_no_case(header.status, Some(0))?;
        let stream = self
            .respond
            .send_response(Response::from_parts(ResponseParts::from(*header), ()), end)
            .or_err(ErrorType::WriteError, "response header")?;
        self.link.down.open_h2(stream);
        self.written = Some(written);
        self.ended = end;
        Ok(())
    }

    /// A response that was begun and cannot be completed.
    fn reset_if_open(&mut self) {
        if !self.ended && self.written.is_some() {
            self.ended = true;
            self.link.down.reset(self.link.code_for_client());
        }
    }
}

impl Drop for H2Session {
    fn drop(&mut self) {
        self.reset_if_open();
        // The upstream half may outlive us in a retry's leftovers; nobody will read for it any more.
        self.link.up.reset(self.link.code_for_upstream());
        self.link.down.close();
    }
}

#[async_trait]
impl Session for H2Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || (self.body.is_end_stream() && !self.link.has_front()) || self.is_body_empty() {
            return Err(poll_fn(|cx| self.poll_gone(cx)).await);
        }
        self.read_body_bytes().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        // The stream is reset instead: its neighbours do not care.
        Ok(())
    }

    fn is_body_done(&mut self) -> bool {
        self.link.is_cut() || (self.body.is_end_stream() && !self.link.has_front()) || self.is_body_empty()
    }

    fn is_body_empty(&mut self) -> bool {
        let says_empty = || self.request.headers.get(header::CONTENT_LENGTH).is_some_and(|value| value == "0");
        self.bytes_read == 0 && (self.body.is_end_stream() || says_empty())
    }

    /// Called for answers of the proxy's own, whose end Pingora tells in a frame of its own. A gRPC refusal is one header block that ends
    /// the stream: with anything behind it clients of gRPC find no status and call it an internal error.
    async fn write_response_header(&mut self, header: Box<ResponseHeader>, end: bool) -> Result<()> {
        let is_trailers_only = header.headers.contains_key("grpc-status");
        self.write_header(header, end || is_trailers_only).await
    }

    async fn write_response_header_ref(&mut self, header: &ResponseHeader, end: bool) -> Result<()> {
        self.write_response_header(Box::new(header.clone()), end).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        // Peers count empty frames, and close the connection after a hundred.
        if self.ended || (data.is_empty() && !end) {
            return Ok(());
        }
        if !self.link.is_coupled() {
            self.room().await?;
        }
        self.link.touch();
        self.bytes_sent += data.len();
        self.ended = end;
        self.link.down.send(data, end).or_err(ErrorType::WriteError, "response body")
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.link.touch();
        self.ended = true;
        self.link.down.send_trailers(trailers).or_err(ErrorType::WriteError, "response trailers")
    }

    async fn finish(&mut self) -> Result<()> {
        // Without a header there is nothing to finish: dropping `self` resets the stream.
        if self.written.is_none() { Ok(()) } else { self.write_body(Bytes::new(), true).await }
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut done = false;
        for task in tasks {
            done |= self.write_task(task).await?;
        }
        if done {
            self.finish().await.map_err(|e| e.into_down())?;
        }
        Ok(done)
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.reset_if_open();
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_ref()
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.request.method, self.request.uri)
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        // Asked for by subrequests only.
        Bytes::new()
    }

    fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.read_timeout = limit;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, limit: Option<Duration>) {
        self.write_timeout = limit;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, limit: Option<Duration>) {
        self.drain_timeout = limit;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn body_bytes_sent(&self) -> usize {
        self.bytes_sent
    }

    fn body_bytes_read(&self) -> usize {
        self.bytes_read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn enable_retry_buffering(&mut self) {
        self.retry.get_or_insert_with(|| FixedBuffer::new(RETRY_BUFFER));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.retry.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.retry.as_ref().filter(|buffer| !buffer.is_truncated())?.get_buffer()
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

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
