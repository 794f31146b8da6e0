//! The state of one stream, shared by its owner in Pingora and by the request's other side.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::chunks::Chunks;
use super::head::Head;
use super::strict::{self, InvalidHead};
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
    Malformed(InvalidHead),
}

/// Bounds of a request header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

pub(super) struct Core {
    pub(super) io: Io,
    /// Plaintext that was read but not asked for yet.
    pub(super) stash: BytesMut,
    /// Written, not yet accepted by the connection.
    out: BytesMut,
    /// The connection below holds bytes that only a flush sends.
    unflushed: bool,
    /// The connection takes no more writes; what is queued was dropped.
    broken: Option<io::ErrorKind>,
    pub(super) head: Head,
    /// What has arrived of a request header that is not complete yet: the parser is shown whole, checked headers only.
    partial: BytesMut,
    /// The target of the current request, where the parser was shown `/` in its place.
    odd_target: Option<Bytes>,
    limits: HeadLimits,
    /// The chunked body of the current request; `None`: it has another body, or none.
    pub(super) chunks: Option<Chunks>,
    /// Bytes of the request's header at the front of the stash.
    head_left: usize,
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
            partial: BytesMut::new(),
            odd_target: None,
            limits: HeadLimits { bytes: usize::MAX, fields: usize::MAX },
            chunks: None,
            head_left: 0,
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

    pub(super) fn poll_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
        if self.head.pending_bytes().is_some() {
            ready!(self.poll_head(cx, buf))?;
            if self.head.pending_bytes().is_some() || !buf.filled().is_empty() {
                // The end of the connection, or a header that came in one piece.
                return Poll::Ready(Ok(()));
            }
        }
        let before = buf.filled().len();
        if self.stash.is_empty() {
            ready!(self.poll_io(cx, buf))?;
            return Poll::Ready(self.follow_chunks(buf, before));
        }
        // A header that was put back goes alone: what follows it waits for its own read, so that a pipelined request survives
        // its predecessor.
        let upto = if self.head_left > 0 { self.head_left } else { usize::MAX };
        let n = self.stash.len().min(buf.remaining()).min(upto);
        buf.put_slice(self.stash.get(..n).unwrap_or_default());
        self.stash.advance(n);
        if self.stash.is_empty() {
            self.stash = BytesMut::new();
        }
        if self.head_left > 0 {
            self.head_left -= n;
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.follow_chunks(buf, before))
    }

    /// Follows what was just read of a chunked body. What is behind its end waits for its own read.
    fn follow_chunks(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let Some(chunks) = self.chunks.as_mut().filter(|chunks| **chunks != Chunks::Done) else { return Ok(()) };
        let body = buf.filled().get(before..).unwrap_or_default();
        let Ok(end) = chunks.follow(body) else {
            self.refusal = Some(Refusal::Malformed(InvalidHead::Chunks));
            return Err(io::Error::new(io::ErrorKind::InvalidData, InvalidHead::Chunks));
        };
        if end < body.len() {
            let rest = body.get(end..).unwrap_or_default().to_vec();
            buf.set_filled(before + end);
            self.put_in_front(&rest);
        }
        Ok(())
    }

    /// Reads until a request header is complete and checked. It is then in `buf`, or in front of the stash.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stash.is_empty() && self.partial.is_empty() && buf.filled().is_empty() {
            if self.poll_io(cx, buf)?.is_pending() {
                return self.poll_head_deadline(cx);
            }
            let read = buf.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let end = self.head.scan(read);
            let (head, rest) = read.split_at_checked(end).unwrap_or((read, &[]));
            if self.head.pending_bytes().is_none() {
                let odd = self.check(head)?;
                // What follows the header waits for its own read: a pipelined request then survives its predecessor.
                self.stash = BytesMut::from(rest);
                if let Some(shown) = odd {
                    buf.set_filled(0);
                    self.put_back(&shown);
                } else {
                    buf.set_filled(end);
                }
                return Poll::Ready(Ok(()));
            }
            self.partial.extend_from_slice(read);
            buf.set_filled(0);
            self.check_size()?;
        }
        loop {
            if self.stash.is_empty() {
                let mut more = [0; 4096];
                let mut into = ReadBuf::new(&mut more);
                if self.poll_io(cx, &mut into)?.is_pending() {
                    return self.poll_head_deadline(cx);
                }
                if into.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.stash.extend_from_slice(into.filled());
            }
            let end = self.head.scan(&self.stash);
            self.partial.extend_from_slice(self.stash.get(..end).unwrap_or_default());
            self.stash.advance(end);
            self.check_size()?;
            if self.head.pending_bytes().is_none() {
                let head = std::mem::take(&mut self.partial);
                let odd = self.check(&head)?;
                self.put_back(odd.as_deref().unwrap_or(&head));
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn put_back(&mut self, head: &[u8]) {
        self.head_left = head.len();
        self.put_in_front(head);
    }

    fn put_in_front(&mut self, head: &[u8]) {
        let mut stash = BytesMut::with_capacity(head.len() + self.stash.len());
        stash.extend_from_slice(head);
        stash.extend_from_slice(&self.stash);
        self.stash = stash;
    }

    fn check_size(&mut self) -> io::Result<()> {
        if self.partial.len() <= self.limits.bytes {
            return Ok(());
        }
        self.partial = BytesMut::new();
        self.refusal = Some(Refusal::HeaderTooLarge);
        Err(io::Error::new(io::ErrorKind::InvalidData, "request header too large"))
    }

    /// Checks a complete header. Gives the one to show in its place, if its target is one that the parser would change.
    fn check(&mut self, head: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.head_timer = None;
        if head.len() > self.limits.bytes {
            self.refusal = Some(Refusal::HeaderTooLarge);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request header too large"));
        }
        let checked = strict::check(head, self.limits.fields).map_err(|invalid| {
            self.refusal = Some(match invalid {
                InvalidHead::TooLarge => Refusal::HeaderTooLarge,
                _ => Refusal::Malformed(invalid),
            });
            io::Error::new(io::ErrorKind::InvalidData, invalid)
        })?;
        self.chunks = checked.is_chunked.then_some(Chunks::BEGIN);
        let Some(target) = checked.odd_target else { return Ok(None) };
        let (before, after) =
            (head.get(..target.start).unwrap_or_default(), head.get(target.end..).unwrap_or_default());
        self.odd_target = head.get(target).map(Bytes::copy_from_slice);
        Ok(Some([before, b"/", after].concat()))
    }

    /// The current request's target, where the parser was shown `/` in its place.
    pub(super) fn odd_target(&self) -> Option<Bytes> {
        self.odd_target.clone()
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
            let readable = wire.poll_readable(cx);
            if readable.is_pending() {
                self.rest();
            }
            return readable;
        }
        // TLS has to decrypt to know.
        let mut early = [0; 512];
        let mut buf = ReadBuf::new(&mut early);
        if self.poll_io(cx, &mut buf)?.is_pending() {
            self.rest();
            return Poll::Pending;
        }
        if buf.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.stash.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    /// Keeps no room for a request that may never come.
    pub(super) fn rest(&mut self) {
        if self.out.is_empty() {
            self.out = BytesMut::new();
        }
    }

    pub(super) fn begin_request(&mut self, limits: HeadLimits, timeout: Duration) {
        self.head = Head::receiving();
        self.limits = limits;
        self.partial = BytesMut::new();
        self.odd_target = None;
        self.chunks = None;
        self.head_left = 0;
        self.head_deadline = Some(Instant::now() + timeout);
        self.head_timer = None;
        self.refusal = None;
    }

    /// Whether any byte of the header that is being received has arrived.
    pub(super) fn has_begun(&self) -> bool {
        self.head.pending_bytes().is_none_or(|bytes| bytes > 0)
    }
}
