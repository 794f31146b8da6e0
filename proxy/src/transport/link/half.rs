//! One direction of a request: where its bytes go, and whether there is room for more.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use parking_lot::Mutex;

use crate::transport::stream::Shared;

/// Where one direction's bytes go.
#[derive(Default)]
enum Taker {
    /// Nobody, or no longer: bytes are dropped and nobody waits.
    #[default]
    Gone,
    H2(SendStream<Bytes>),
    H1(Arc<Shared>),
}

/// The sending side of one direction. Never locked across an await.
#[derive(Default)]
pub(crate) struct Half(Mutex<Taker>);

impl Half {
    pub(crate) fn open_h2(&self, stream: SendStream<Bytes>) {
        *self.0.lock() = Taker::H2(stream);
    }

    pub(crate) fn open_h1(&self, stream: Arc<Shared>) {
        *self.0.lock() = Taker::H1(stream);
    }

    /// Forgets the taker. An HTTP/2 stream that was not ended is thereby cancelled.
    pub(crate) fn close(&self) {
        *self.0.lock() = Taker::Gone;
    }

    /// Resets an HTTP/2 stream, if it was not ended.
    pub(crate) fn reset(&self, reason: Reason) {
        let taker = std::mem::take(&mut *self.0.lock());
        if let Taker::H2(mut stream) = taker {
            stream.send_reset(reason);
        }
    }

    /// Ready when the taker has room for all that was sent, and a byte more; also when there is no taker.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.0.lock() {
            Taker::Gone => Poll::Ready(()),
            Taker::H1(stream) => stream.poll_room(cx),
            Taker::H2(stream) => {
                if stream.capacity() > 0 {
                    return Poll::Ready(());
                }
                stream.reserve_capacity(1);
                stream.poll_capacity(cx).map(|_| ())
            }
        }
    }

    /// Ready with the code when the taker has reset the stream or lost its connection.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Option<Poll<Result<Reason, h2::Error>>> {
        match &mut *self.0.lock() {
            Taker::H2(stream) => Some(stream.poll_reset(cx)),
            Taker::Gone | Taker::H1(_) => None,
        }
    }

    pub(crate) fn send(&self, data: Bytes, end: bool) -> Result<(), h2::Error> {
        if let Taker::H2(stream) = &mut *self.0.lock() {
            stream.send_data(data, end)?;
            if !end {
                // `send_data` used up the reservation of a reader that waits for room.
                stream.reserve_capacity(1);
            }
        }
        Ok(())
    }

    pub(crate) fn send_trailers(&self, trailers: HeaderMap) -> Result<(), h2::Error> {
        if let Taker::H2(stream) = &mut *self.0.lock() {
            stream.send_trailers(trailers)?;
        }
        Ok(())
    }
}
