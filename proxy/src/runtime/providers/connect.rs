//! HTTP clients of single endpoints: pooled connections over the proxy's own dialling and TLS.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tower::Service;

use crate::serve::l4::{self, Dial, DialError, DialTls, Upstream};

/// Idle connections of one endpoint are closed after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Idle HTTP/1 connections of one endpoint.
const MAX_IDLE: usize = 32;
/// Header bytes of an answer.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Header lines of an answer.
const MAX_HEADERS: usize = 256;

/// A client of one endpoint; clones share connections.
pub(super) type Client = legacy::Client<Connect, tonic::body::Body>;

/// One endpoint.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// Mark of the socket, where redirection rules know the proxy's own by it.
    pub(super) mark: Option<u32>,
    /// Of TCP and TLS together.
    pub(super) timeout: Duration,
    pub(super) tls: Option<DialTls>,
}

/// Dials the endpoint, whatever the request's authority says.
#[derive(Debug, Clone)]
pub(super) struct Connect(Endpoint);

/// A connection to the endpoint.
pub(super) struct ProviderStream(TokioIo<Upstream>);

pub(super) fn client(endpoint: Endpoint, is_http2: bool) -> Client {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .set_host(false)
        .http2_only(is_http2)
        .http1_max_buf_size(MAX_HEADER_BYTES)
        .http1_max_headers(MAX_HEADERS)
        .http2_max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX));
    builder.build(Connect(endpoint))
}

impl Service<Uri> for Connect {
    type Response = ProviderStream;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<ProviderStream, DialError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Endpoint { address, mark, timeout, tls } = self.0.clone();
        Box::pin(async move {
            let stream = l4::dial(&Dial { address, source: None, mark, options: None, timeout, tls }).await?;
            Ok(ProviderStream(TokioIo::new(stream)))
        })
    }
}

impl Connection for ProviderStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for ProviderStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl Write for ProviderStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
