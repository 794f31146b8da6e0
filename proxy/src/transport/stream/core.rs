//! The state of one stream, shared by its owner in Pingora and by the request's other side.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::head::Head;
use super::wire::Wire;

/// Writes below this are collected until a flush: a header and a small body leave in one record and one system call.
pub(super) const COALESCE: usize = 8 * 1024;
/// A linked stream with more than this waiting to be written lets the other side read no further.
pub(super) const QUEUE: usize = 64 * 1024;

/// The kinds of connection a stream can be.
#[derive(Debug)]
pub(super) enum Io {
    Plain(Wire),
    Server(Box<tokio_rustls::server::TlsStream<Wire>>),
    Client(Box<tokio_rustls::client::TlsStream<Wire>>),
}

/// Why a stream refused a request header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    HeaderTimeout,
    HeaderTooLarge,
}

pub(super) struct Core {
    pub(super) io: Io,
    /// Plaintext that was read but not asked for yet.
    stash: BytesMut,
    /// Written, not yet accepted by the connection.
    out: BytesMut,
    /// The connection below holds bytes that only a flush sends.
    unflushed: bool,
    /// The connection takes no more writes; what is queued was dropped.
    broken: Option<io::ErrorKind>,
    pub(super) head: Head,
    pub(super) max_head: usize,
    pub(super) head_deadline: Option<Instant>,
    head_timer: Option<Pin<Box<Sleep>>>,
    pub(super) refusal: Option<Refusal>,
    written: u64,
}

macro_rules! with_io {
    ($io:expr, $inner:ident => $call:expr) => {
        match $io {
            Io::Plain($inner) => $call,
            Io::Server($inner) => $call,
            Io::Client($inner) => $call,
        }
    };
}

impl Core {
    pub(super) fn new(io: Io) -> Self {
        Self {
            io,
            stash: BytesMut::new(),
            out: BytesMut::new(),
            unflushed: false,
            broken: None,
            head: Head::Off,
            max_head: usize::MAX,
            head_deadline: None,
            head_timer: None,
            refusal: None,
            written: 0,
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.out.len()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.broken.is_some() || (self.out.is_empty() && !self.unflushed)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Application bytes accepted from the writer so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    fn write_error(&mut self, e: io::Error) -> io::Error {
        self.broken = Some(e.kind());
        self.out = BytesMut::new();
        self.unflushed = false;
        e
    }

    fn refuse_writes(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Hands the queue to the connection, without flushing it.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.refuse_writes()?;
        while !self.out.is_empty() {
            let wrote = with_io!(&mut self.io, io => Pin::new(io).poll_write(cx, &self.out));
            match ready!(wrote) {
                Ok(0) => return Poll::Ready(Err(self.write_error(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    self.unflushed = true;
                    self.out.advance(n);
                }
                Err(e) => return Poll::Ready(Err(self.write_error(e))),
            }
        }
        if self.out.capacity() > COALESCE {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Hands everything written to the connection and flushes it.
    pub(super) fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.unflushed {
            let flushed = with_io!(&mut self.io, io => Pin::new(io).poll_flush(cx));
            ready!(flushed).map_err(|e| self.write_error(e))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets the queue make progress; whether the connection still takes writes is the writer's business.
    pub(super) fn progress(&mut self, cx: &mut Context<'_>) {
        if !self.is_settled() {
            let _ = self.poll_settle(cx);
        }
    }

    /// A write that waits when the connection does.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.refuse_writes()?;
        if self.out.len() + buf.len() > COALESCE {
            ready!(self.poll_drain(cx))?;
        }
        if buf.len() < COALESCE {
            self.out.extend_from_slice(buf);
            self.written += buf.len() as u64;
            return Poll::Ready(Ok(buf.len()));
        }
        let wrote = with_io!(&mut self.io, io => Pin::new(io).poll_write(cx, buf));
        match ready!(wrote) {
            Ok(n) => {
                self.unflushed = true;
                self.written += n as u64;
                Poll::Ready(Ok(n))
            }
            Err(e) => Poll::Ready(Err(self.write_error(e))),
        }
    }

    /// A write that never waits: what the connection does not take now is queued.
    pub(super) fn write_queued(&mut self, cx: &mut Context<'_>, mut buf: &[u8]) -> io::Result<usize> {
        self.refuse_writes()?;
        let whole = buf.len();
        if self.out.len() + buf.len() > COALESCE
            && let Poll::Ready(drained) = self.poll_drain(cx)
        {
            drained?;
            while buf.len() >= COALESCE {
                let wrote = with_io!(&mut self.io, io => Pin::new(io).poll_write(cx, buf));
                match wrote {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.unflushed = true;
                        buf = buf.get(n..).unwrap_or_default();
                    }
                    Poll::Ready(Ok(_)) => return Err(self.write_error(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Err(e)) => return Err(self.write_error(e)),
                    Poll::Pending => break,
                }
            }
        }
        self.out.extend_from_slice(buf);
        self.written += whole as u64;
        Ok(whole)
    }

    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_none() {
            ready!(self.poll_drain(cx))?;
        }
        with_io!(&mut self.io, io => Pin::new(io).poll_shutdown(cx))
    }

    fn poll_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match with_io!(&mut self.io, io => Pin::new(io).poll_read(cx, buf)) {
            // TLS truncation (no close_notify) must never look like a clean end, and only ECONNRESET tells Pingora
            // that a pooled connection was stale and the request may be sent again.
            Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, e)))
            }
            other => other,
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.stash.is_empty() {
            match self.poll_io(cx, buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => return self.poll_head_deadline(cx),
            }
        } else {
            let n = self.stash.len().min(buf.remaining());
            buf.put_slice(self.stash.get(..n).unwrap_or_default());
            self.stash.advance(n);
            if self.stash.is_empty() {
                self.stash = BytesMut::new();
            }
        }
        if self.head.pending_bytes().is_none() {
            return Poll::Ready(Ok(()));
        }
        let header = self.head.scan(buf.filled().get(before..).unwrap_or_default());
        // What follows the header waits for its own read: a pipelined request then survives its predecessor.
        let rest = buf.filled().get(before + header..).unwrap_or_default();
        if !rest.is_empty() {
            let mut stash = BytesMut::with_capacity(rest.len() + self.stash.len());
            stash.extend_from_slice(rest);
            stash.extend_from_slice(&self.stash);
            self.stash = stash;
            buf.set_filled(before + header);
        }
        match self.head.pending_bytes() {
            Some(bytes) if bytes > self.max_head => {
                self.refusal = Some(Refusal::HeaderTooLarge);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "request header too large")))
            }
            Some(_) => Poll::Ready(Ok(())),
            None => {
                self.head_timer = None;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Reads what no one will look at.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stash = BytesMut::new();
        self.poll_io(cx, buf)
    }

    fn poll_head_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (Some(_), Some(deadline)) = (self.head.pending_bytes(), self.head_deadline) else { return Poll::Pending };
        let timer = self.head_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        self.refusal = Some(Refusal::HeaderTimeout);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "request header timeout")))
    }

    /// Pingora's watch for a client that leaves while its request is answered. A pipelined request is not an event.
    pub(super) fn poll_probe(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stash.is_empty() {
            return Poll::Pending;
        }
        let mut early = [0; 512];
        let mut buf = ReadBuf::new(&mut early);
        ready!(self.poll_io(cx, &mut buf))?;
        if buf.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.stash.extend_from_slice(buf.filled());
        Poll::Pending
    }

    /// Ready when there is something to read, without keeping a buffer for it. Errors include the end.
    pub(super) fn poll_park(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stash.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if let Io::Plain(wire) = &self.io {
            return wire.poll_readable(cx);
        }
        // TLS has to decrypt to know.
        let mut early = [0; 512];
        let mut buf = ReadBuf::new(&mut early);
        ready!(self.poll_io(cx, &mut buf))?;
        if buf.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.stash.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    pub(super) fn begin_request(&mut self, max_head: usize, timeout: Duration) {
        self.head = Head::receiving();
        self.max_head = max_head;
        self.head_deadline = Some(Instant::now() + timeout);
        self.head_timer = None;
        self.refusal = None;
    }
}
