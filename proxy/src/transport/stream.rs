//! The one stream type handed to Pingora: plaintext or TLS, either direction, with eager digests and lazy buffers.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::FutureExt;
use pingora_core::connectors::http::custom::Connection;
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connector::Home;
use super::link::{Link, Side};
use super::meta::{Attached, ConnMeta};

mod ahead;
mod chunks;
mod core;
mod head;
mod shared;
mod strict;
mod wire;

use self::core::Io;
pub(crate) use self::core::{HeadLimits, Refusal};
pub(crate) use ahead::StreamAhead;
pub(crate) use shared::Shared;
pub use strict::InvalidHead;
pub(crate) use strict::{MAX_TARGET, is_length};
pub use wire::Wire;

/// The application protocol that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2, negotiated or by prior knowledge.
    Http2,
}

/// A ready connection, as Pingora's `IO`.
pub struct MeshStream {
    shared: Arc<Shared>,
    protocol: AppProtocol,
    fd: RawFd,
    socket: Arc<SocketDigest>,
    digest: Arc<ProxyDigest>,
    established: SystemTime,
    /// Where an upstream connection goes between two requests.
    home: Option<Home>,
    /// Its request is done, and it may carry another.
    is_given_back: bool,
}

impl MeshStream {
    /// A client's plaintext connection.
    ///
    /// # Errors
    /// Out of memory in Pingora's header type only.
    pub fn plain(wire: Wire, protocol: AppProtocol, meta: ConnMeta) -> Result<Self, pingora_core::BError> {
        Self::build_plain(wire, protocol, meta, true)
    }

    /// A client's connection behind a completed TLS handshake. `meta.tls` should be set.
    ///
    /// # Errors
    /// As [`MeshStream::plain`].
    pub fn tls(
        tls: tokio_rustls::server::TlsStream<Wire>,
        protocol: AppProtocol,
        meta: ConnMeta,
    ) -> Result<Self, pingora_core::BError> {
        let fd = tls.get_ref().0.fd();
        Self::build(Io::Server(Box::new(tls)), fd, protocol, meta, true)
    }

    pub(crate) fn upstream_plain(
        wire: Wire,
        protocol: AppProtocol,
        meta: ConnMeta,
    ) -> Result<Self, pingora_core::BError> {
        Self::build_plain(wire, protocol, meta, false)
    }

    pub(crate) fn upstream_tls(
        tls: tokio_rustls::client::TlsStream<Wire>,
        protocol: AppProtocol,
        meta: ConnMeta,
    ) -> Result<Self, pingora_core::BError> {
        let fd = tls.get_ref().0.fd();
        Self::build(Io::Client(Box::new(tls)), fd, protocol, meta, false)
    }

    fn build_plain(
        mut wire: Wire,
        protocol: AppProtocol,
        meta: ConnMeta,
        is_downstream: bool,
    ) -> Result<Self, pingora_core::BError> {
        let fd = wire.fd();
        wire.read_directly();
        Self::build(Io::Plain(wire), fd, protocol, meta, is_downstream)
    }

    fn build(
        io: Io,
        fd: RawFd,
        protocol: AppProtocol,
        meta: ConnMeta,
        is_downstream: bool,
    ) -> Result<Self, pingora_core::BError> {
        // All cells are set now: a cell set later would ask a file descriptor that may by then be another socket's.
        let socket = SocketDigest::from_raw_fd(fd);
        let _ = socket.peer_addr.set(Some(meta.peer.into()));
        let _ = socket.local_addr.set(Some(meta.local.into()));
        let _ = socket.original_dst.set(meta.original_dst.map(Into::into));
        let shared = Arc::new(Shared::new(io, protocol, is_downstream));
        let attached = Attached { meta, stream: Arc::downgrade(&shared) };
        let unused = Box::new(ResponseHeader::build_no_case(200, Some(0))?);
        Ok(Self {
            shared,
            protocol,
            fd,
            socket: Arc::new(socket),
            digest: Arc::new(ProxyDigest::new(unused, Some(Box::new(attached)))),
            established: SystemTime::now(),
            home: None,
            is_given_back: false,
        })
    }

    /// The protocol that the connection speaks.
    #[must_use]
    pub fn protocol(&self) -> AppProtocol {
        self.protocol
    }

    /// An upstream connection for Pingora, which idles at `home` after its request.
    pub(super) fn into_connection<S: Session>(mut self, home: Option<Home>) -> Connection<S> {
        self.home = home;
        Connection::Stream(Box::new(self))
    }

    /// Nothing came on an idle connection, and it was not closed.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        let mut buf = ReadBuf::new(&mut byte);
        // Without tokio's budget, which may let a read wait that need not.
        let read = tokio::task::unconstrained(poll_fn(|cx| self.shared.core.lock().poll_read(cx, &mut buf)));
        read.now_or_never().is_none()
    }

    /// Keeps no more than an idle connection needs.
    pub(super) fn rest(&self) {
        self.shared.detach();
        self.shared.core.lock().rest();
    }

    /// Says that the connection has carried a request before.
    pub(super) fn note_reuse(&self) {
        self.shared.is_reused.store(true, Ordering::Release);
    }

    /// Answers the read by which Pingora gives a connection back.
    fn poll_given_back(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut core = self.shared.core.lock();
        core.progress(cx);
        let is_settled = core.is_settled();
        match core.poll_read(cx, buf) {
            Poll::Pending if is_settled => {
                drop(core);
                self.is_given_back = true;
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

/// How long the rest of a tunnel's bytes may take after Pingora has dropped the upstream stream.
const UPSTREAM_LINGER: Duration = Duration::from_secs(5);

impl Drop for MeshStream {
    fn drop(&mut self) {
        if let Some(home) = self.home.take().filter(|_| self.is_given_back) {
            let Self { shared, protocol, fd, socket, digest, established, home: _, is_given_back: _ } = self;
            return home.put(Self {
                shared: Arc::clone(shared),
                protocol: *protocol,
                fd: *fd,
                socket: Arc::clone(socket),
                digest: Arc::clone(digest),
                established: *established,
                home: None,
                is_given_back: false,
            });
        }
        let shared = &self.shared;
        // Pingora ends a tunnel by dropping the streams, with bytes that it has "written" still in our queue.
        if shared.is_owned.load(Ordering::Acquire) || shared.core.lock().is_settled() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = Arc::clone(shared);
            // Owned by its own deadline: nothing else needs the connection any more.
            runtime.spawn(async move { shared.close(UPSTREAM_LINGER).await });
        }
    }
}

/// What waits does so no longer than the stream idle timeout.
fn poll_idle<T>(link: &Link, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    link.poll_idle(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "stream idle timeout")))
}

/// Pingora watches idle streams with reads of one initialised byte; its bodies are read into uninitialised buffers.
fn is_probe(buf: &ReadBuf<'_>) -> bool {
    buf.capacity() == 1 && buf.initialized().len() == 1
}

impl AsyncRead for MeshStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever watches an idle connection that has carried all that it may finds it ended.
        if is_probe(buf) && this.shared.is_used_up() {
            return Poll::Ready(Ok(()));
        }
        if is_probe(buf) && this.home.is_some() {
            return this.poll_given_back(cx, buf);
        }
        let shared = &this.shared;
        let Some((link, side, queues)) = shared.attachment() else {
            let mut core = shared.core.lock();
            core.progress(cx);
            if shared.is_downstream && shared.is_http1 && is_probe(buf) {
                return core.poll_probe(cx);
            }
            return core.poll_read(cx, buf);
        };
        let before = buf.filled().len();
        let read = if is_probe(buf) {
            let mut core = shared.core.lock();
            core.progress(cx);
            if shared.is_downstream { core.poll_probe(cx) } else { core.poll_read(cx, buf) }
        } else {
            shared.core.lock().progress(cx);
            // The other side's lock is taken alone, never inside ours.
            if queues && (shared.poll_held(cx).is_pending() || link.poll_gate(side, cx).is_pending()) {
                Poll::Pending
            } else {
                shared.core.lock().poll_read(cx, buf)
            }
        };
        match read {
            Poll::Ready(Ok(())) => {
                if buf.filled().len() > before {
                    link.touch();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => poll_idle(&link, cx),
        }
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.shared.attachment() {
            Some((link, side, queues)) => {
                if side == Side::Up && link.is_cut() {
                    // The response is complete and nobody wants the rest of the request: it must not look complete.
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "answered early")));
                }
                let wrote = {
                    let mut core = self.shared.core.lock();
                    if queues { Poll::Ready(core.write_queued(cx, buf)) } else { core.poll_write(cx, buf) }
                };
                match wrote {
                    // While it waits here Pingora reads nothing, where this would be looked at too.
                    Poll::Pending => poll_idle(&link, cx),
                    done => {
                        link.touch();
                        done
                    }
                }
            }
            None => self.shared.core.lock().poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attachment = self.shared.attachment();
        let settled = self.shared.core.lock().poll_settle(cx);
        let Some((link, _, queues)) = attachment else { return settled };
        if queues {
            self.shared.flushed();
        }
        match settled {
            Poll::Pending if queues => Poll::Ready(Ok(())),
            Poll::Pending => poll_idle(&link, cx),
            settled => settled,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.is_owned.load(Ordering::Acquire) {
            // The owner has perhaps still something to say, and gives the client the time to read it.
            return Poll::Ready(Ok(()));
        }
        self.shared.core.lock().poll_close(cx)
    }
}

/// Close_notify and FIN are written at once or not at all: a peer that takes no bytes must not hold up a request.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

#[async_trait]
impl Shutdown for MeshStream {
    async fn shutdown(&mut self) {
        if !self.shared.is_owned.load(Ordering::Acquire) {
            self.shared.close(SHUTDOWN_LIMIT).await;
        }
    }
}

impl UniqueID for MeshStream {
    fn id(&self) -> i32 {
        self.fd
    }
}

impl Ssl for MeshStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.protocol {
            AppProtocol::Http1 => None,
            AppProtocol::Http2 => Some(ALPN::H2),
        }
    }
}

impl GetTimingDigest for MeshStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for MeshStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetSocketDigest for MeshStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

// Never peeked: what a connection speaks is decided before it comes here.
impl Peek for MeshStream {}

impl fmt::Debug for MeshStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshStream").field("fd", &self.fd).field("protocol", &self.protocol).finish_non_exhaustive()
    }
}
