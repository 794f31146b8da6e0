//! The bytes on the socket: replays what a sniffer has consumed, and reads ahead for TLS.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One TLS record with its overhead: rustls alone asks the socket for 4 KiB at a time.
const READ_AHEAD: usize = 17 * 1024;

thread_local! {
    /// Where this thread reads ahead into: most records are smaller than what is asked for, and nothing is kept of them.
    static AHEAD: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_AHEAD]);
}

/// A TCP connection whose first bytes may have been read already.
///
/// Below TLS it reads ahead by up to one record. The buffer exists only while it holds bytes, so that an idle
/// connection costs none.
#[derive(Debug)]
pub struct Wire {
    tcp: TcpStream,
    unread: BytesMut,
    reads_ahead: bool,
}

impl Wire {
    /// A connection of which nothing has been read. Sets TCP_NODELAY: writes are already batched above.
    #[must_use]
    pub fn new(tcp: TcpStream) -> Self {
        Self::with_prefix(tcp, &[])
    }

    /// A connection of which `prefix` has been read (by a sniffer, or behind a PROXY protocol header): it is read again.
    #[must_use]
    pub fn with_prefix(tcp: TcpStream, prefix: &[u8]) -> Self {
        // Fails only on a socket that is already dead, which the next read or write reports.
        let _ = tcp.set_nodelay(true);
        Self { tcp, unread: BytesMut::from(prefix), reads_ahead: true }
    }

    /// The socket.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The socket, and what was read from it but not consumed, for a relay that copies bytes by itself.
    #[must_use]
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.tcp, self.unread.freeze())
    }

    pub(super) fn read_directly(&mut self) {
        self.reads_ahead = false;
    }

    pub(super) fn fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }

    /// Ready when a read would not wait.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() { self.tcp.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
    }

    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(self.unread.get(..n).unwrap_or_default());
        self.unread.advance(n);
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            this.hand_over(buf);
            return Poll::Ready(Ok(()));
        }
        if !this.reads_ahead || buf.remaining() >= READ_AHEAD {
            return Pin::new(&mut this.tcp).poll_read(cx, buf);
        }
        // Only when there is something to read does a buffer come to be.
        ready!(this.tcp.poll_read_ready(cx))?;
        AHEAD.with_borrow_mut(|ahead| {
            let mut into = ReadBuf::new(ahead);
            ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut into))?;
            let read = into.filled();
            let (now, later) = read.split_at(read.len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                this.unread.extend_from_slice(later);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
