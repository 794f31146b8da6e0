//! A look at an HTTP/1 request's body that leaves it where it is: the bytes wait in the stash for their reader.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::ReadBuf;

use super::chunks::Chunks;
use super::core::{Core, Refusal};
use super::shared::Shared;
use super::strict::InvalidHead;

/// What was seen of a body so far.
#[derive(Debug, Default)]
pub(crate) struct StreamAhead {
    /// Its data, without chunk sizes.
    pub(crate) bytes: BytesMut,
    /// There is no more.
    pub(crate) is_complete: bool,
    /// Where in the stash the next bytes to look at are.
    seen: usize,
    /// Of a chunked body.
    chunks: Option<Chunks>,
}

impl Shared {
    /// Reads until `wanted` bytes of the body are there, or all of it. `length`: what the header announces, where the body is
    /// not chunked. To be called after the header was read, and before any of the body is.
    pub(crate) async fn look_ahead(&self, ahead: &mut StreamAhead, length: u64, wanted: usize) -> io::Result<()> {
        poll_fn(|cx| {
            let mut core = self.core.lock();
            core.progress(cx);
            core.poll_ahead(cx, ahead, length, wanted)
        })
        .await
    }
}

impl Core {
    fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        ahead: &mut StreamAhead,
        length: u64,
        wanted: usize,
    ) -> Poll<io::Result<()>> {
        if ahead.chunks.is_none() {
            ahead.chunks = self.chunks;
        }
        loop {
            self.follow_ahead(ahead, length)?;
            if ahead.is_complete || ahead.bytes.len() >= wanted {
                return Poll::Ready(Ok(()));
            }
            let mut more = [0; 4096];
            let mut into = ReadBuf::new(&mut more);
            ready!(self.poll_io(cx, &mut into))?;
            if into.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.stash.extend_from_slice(into.filled());
        }
    }

    fn follow_ahead(&mut self, ahead: &mut StreamAhead, length: u64) -> io::Result<()> {
        let StreamAhead { bytes, is_complete, seen, chunks } = ahead;
        let fresh = self.stash.get(*seen..).unwrap_or_default();
        let Some(chunks) = chunks else {
            let left = length.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(fresh.len());
            bytes.extend_from_slice(fresh.get(..here).unwrap_or_default());
            *seen += here;
            *is_complete = u64::try_from(here).unwrap_or(u64::MAX) == left;
            return Ok(());
        };
        match chunks.follow_data(fresh, |data| bytes.extend_from_slice(data)) {
            Ok(end) => {
                *seen += end;
                *is_complete = *chunks == Chunks::Done;
                Ok(())
            }
            Err(_) => {
                self.refusal = Some(Refusal::Malformed(InvalidHead::Chunks));
                Err(io::Error::new(io::ErrorKind::InvalidData, InvalidHead::Chunks))
            }
        }
    }
}
