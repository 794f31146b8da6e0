//! What a stream's owner in Pingora and the other side of the current request share.

use std::future::poll_fn;
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::AppProtocol;
use super::core::{Core, HeadLimits, Io, QUEUE, Refusal};
use crate::transport::link::{Link, Side};

/// What the stream's owner and the other side of the current request share.
pub(crate) struct Shared {
    pub(super) core: Mutex<Core>,
    /// A link is set: looked at before the lock.
    is_linked: AtomicBool,
    link: Mutex<Option<Attachment>>,
    /// The owner hands over the rest itself when the stream is dropped.
    pub(super) is_owned: AtomicBool,
    /// An upgrade's response is not read before so many flushes: see [`Shared::hold_response`].
    held: Mutex<Held>,
    pub(super) is_downstream: bool,
    pub(super) is_http1: bool,
    stream_idle_timeout: Mutex<Option<Duration>>,
    /// Requests carried by an upstream connection, where they are limited.
    requests: AtomicU32,
    /// It has carried all that it may: whoever looks for an idle connection finds it ended.
    is_used_up: AtomicBool,
    /// It has idled between two requests.
    pub(super) is_reused: AtomicBool,
}

#[derive(Default)]
struct Held {
    flushes: u8,
    reader: Option<Waker>,
}

struct Attachment {
    link: Weak<Link>,
    side: Side,
    queues: bool,
}

impl Shared {
    pub(super) fn new(io: Io, protocol: AppProtocol, is_downstream: bool) -> Self {
        Self {
            core: Mutex::new(Core::new(io)),
            is_linked: AtomicBool::new(false),
            link: Mutex::new(None),
            is_owned: AtomicBool::new(false),
            held: Mutex::default(),
            is_downstream,
            is_http1: protocol == AppProtocol::Http1,
            stream_idle_timeout: Mutex::new(None),
            requests: AtomicU32::new(0),
            is_used_up: AtomicBool::new(false),
            is_reused: AtomicBool::new(false),
        }
    }

    /// Makes the stream one side of a request. `queues`: its writes never wait and its reads are gated.
    pub(crate) fn attach(&self, link: &Arc<Link>, side: Side, queues: bool) {
        *self.link.lock() = Some(Attachment { link: Arc::downgrade(link), side, queues });
        self.is_linked.store(true, Ordering::Release);
    }

    /// The request is over: what is left of its link goes.
    pub(crate) fn detach(&self) {
        *self.link.lock() = None;
        self.is_linked.store(false, Ordering::Release);
    }

    /// Holds an upgrade's response back until the request has been written to its end.
    ///
    /// Pingora tells its upstream half that a request has no body by a message, and takes that message for the end of the
    /// tunnel if a fast upstream's 101 is read before it. It flushes once after the header and once on that message.
    pub(crate) fn hold_response(&self) {
        *self.held.lock() = Held { flushes: 2, reader: None };
    }

    pub(super) fn poll_held(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut held = self.held.lock();
        if held.flushes == 0 {
            return Poll::Ready(());
        }
        held.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn flushed(&self) {
        let mut held = self.held.lock();
        held.flushes = held.flushes.saturating_sub(1);
        if held.flushes == 0
            && let Some(reader) = held.reader.take()
        {
            reader.wake();
        }
    }

    /// The current request's link. A request that has ended leaves none.
    pub(super) fn attachment(&self) -> Option<(Arc<Link>, Side, bool)> {
        if !self.is_linked.load(Ordering::Acquire) {
            return None;
        }
        let mut attachment = self.link.lock();
        let found = attachment.as_ref().and_then(|a| Some((a.link.upgrade()?, a.side, a.queues)));
        if found.is_none() {
            *attachment = None;
            self.is_linked.store(false, Ordering::Release);
        }
        found
    }

    /// Counts a request on an HTTP/1 upstream connection; the last that `limit` grants uses it up. Whether it is that one.
    pub(crate) fn count_request(&self, limit: NonZeroU32) -> bool {
        let carried = self.requests.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let is_last = carried >= limit.get();
        if is_last {
            self.is_used_up.store(true, Ordering::Release);
        }
        is_last
    }

    /// Whether it has carried a request before and may prove stale.
    pub(crate) fn is_reused(&self) -> bool {
        self.is_reused.load(Ordering::Acquire)
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.is_used_up.load(Ordering::Acquire)
    }

    /// Ready when little enough waits to be written that the other side may read on.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.core.lock();
        core.progress(cx);
        if core.is_broken() || core.queued() <= QUEUE { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(crate) fn is_http1(&self) -> bool {
        self.is_http1
    }

    /// The stream idle timeout of the requests on this connection.
    pub(crate) fn stream_idle_timeout(&self) -> Option<Duration> {
        *self.stream_idle_timeout.lock()
    }

    /// The caller serves requests on this connection, and closes it itself.
    pub(crate) fn own(&self, stream_idle_timeout: Option<Duration>) {
        self.is_owned.store(true, Ordering::Release);
        *self.stream_idle_timeout.lock() = stream_idle_timeout;
    }

    /// The next request on this connection may begin: bounds its header.
    pub(crate) fn begin_request(&self, limits: HeadLimits, timeout: Duration) {
        self.core.lock().begin_request(limits, timeout);
    }

    /// The current request's target as it came, where the parser was shown `/` in its place.
    pub(crate) fn odd_target(&self) -> Option<Bytes> {
        self.core.lock().odd_target()
    }

    /// Why the last request header was refused, and whether any of it had arrived.
    pub(crate) fn refusal(&self) -> Option<(Refusal, bool)> {
        let core = self.core.lock();
        core.refusal.map(|refusal| (refusal, core.has_begun()))
    }

    /// Application bytes written to the connection, ever.
    pub(crate) fn written(&self) -> u64 {
        self.core.lock().written()
    }

    /// Waits until there is something to read; an end of the connection is an error.
    pub(crate) async fn park(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut core = self.core.lock();
            core.progress(cx);
            core.poll_park(cx)
        })
        .await
    }

    /// Writes and flushes.
    pub(crate) async fn write_now(&self, bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            let mut core = self.core.lock();
            if !core.is_settled() || bytes.is_empty() {
                return core.poll_settle(cx);
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        poll_fn(|cx| Poll::Ready(self.core.lock().write_queued(cx, bytes).map(|_| ()))).await?;
        poll_fn(|cx| self.core.lock().poll_settle(cx)).await
    }

    /// Waits until everything written has left, or the connection takes no more.
    pub(crate) async fn settle(&self) {
        let _ = poll_fn(|cx| self.core.lock().poll_settle(cx)).await;
    }

    /// Reads and drops what the client still sends, until it closes or `limit` is over.
    pub(crate) async fn discard_input(&self, limit: Duration) {
        let mut buf = vec![0; 16 * 1024];
        let ended = async {
            while poll_fn(|cx| {
                let mut into = ReadBuf::new(&mut buf);
                self.core.lock().poll_discard(cx, &mut into).map(|read| read.is_ok() && !into.filled().is_empty())
            })
            .await
            {}
        };
        let _ = tokio::time::timeout(limit, ended).await;
    }

    /// Hands over what was written and closes the sending side, within `limit`.
    pub(crate) async fn close(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, poll_fn(|cx| self.core.lock().poll_close(cx))).await;
    }
}
