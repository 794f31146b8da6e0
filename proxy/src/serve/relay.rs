//! The two-way byte copy behind [`super::l4`]: one future, two bounded buffers, half-close.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One direction: what was read and is not written yet, and how far its end has travelled.
pub(super) struct Direction<'a> {
    /// Empty until the first byte, so that an idle connection costs no buffer.
    buffer: Box<[u8]>,
    capacity: usize,
    start: usize,
    end: usize,
    state: State,
    moved: &'a AtomicU64,
}

/// Which end of a direction failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Where bytes come from.
    Source(io::Error),
    /// Where they go.
    Sink(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes may still come.
    Copying,
    /// The source has ended; the sink is to be told.
    Ending,
    /// The sink has been told.
    Done,
}

impl<'a> Direction<'a> {
    pub(super) fn new(capacity: usize, moved: &'a AtomicU64) -> Self {
        Self { buffer: Box::default(), capacity: capacity.max(1), start: 0, end: 0, state: State::Copying, moved }
    }

    /// Moves bytes until the source ends and the sink is told, or one of them cannot go on.
    pub(super) fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Fault::Sink)?;
                    self.state = State::Done;
                }
                State::Copying if self.start < self.end => ready!(self.poll_write(cx, sink)).map_err(Fault::Sink)?,
                State::Copying => match self.poll_fill(cx, source) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Source(error))),
                    Poll::Pending => {
                        // TLS keeps written bytes until flushed.
                        ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Fault::Sink)?;
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, source: &mut R) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.capacity].into_boxed_slice();
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(source).poll_read(cx, &mut buffer))?;
        self.start = 0;
        self.end = buffer.filled().len();
        if self.end == 0 {
            self.state = State::Ending;
            self.buffer = Box::default();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, sink: &mut W) -> Poll<io::Result<()>> {
        let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
        let written = ready!(Pin::new(sink).poll_write(cx, pending))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.start += written;
        self.moved.fetch_add(u64::try_from(written).unwrap_or(u64::MAX), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_buffer_of_one_byte_copies_everything_and_tells_the_end() {
        let moved = AtomicU64::new(0);
        let (mut client, mut source) = tokio::io::duplex(7);
        let (mut sink, mut server) = tokio::io::duplex(3);
        let copy = async {
            let mut direction = Direction::new(1, &moved);
            std::future::poll_fn(|cx| direction.poll_copy(cx, &mut source, &mut sink)).await.unwrap();
        };
        let send = async {
            client.write_all(b"hello, world").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, _, read) = tokio::join!(copy, send, server.read_to_end(&mut received));
        read.unwrap();
        assert_eq!(received, b"hello, world");
        assert_eq!(moved.into_inner(), 12);
    }
}
