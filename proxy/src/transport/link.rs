//! Couples the two streams of one request, so that no write ever waits and each read waits for the other side.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use h2::Reason;
use http::{HeaderMap, Version};
use parking_lot::Mutex;
use pingora_core::protocols::Digest;
use pingora_proxy::Session;

use super::meta::attached;

mod half;
mod idle;

pub(crate) use half::Half;
use idle::Idle;

/// Which end of a request a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Down,
    Up,
}

/// The coupling of one request. Lives in the extensions of its header, which Pingora's copies keep.
pub(crate) struct Link {
    /// Takes the request's body.
    pub(crate) up: Half,
    /// Takes the response's body.
    pub(crate) down: Half,
    /// Both sides take part: writes towards the client need not wait.
    coupled: AtomicBool,
    /// The chunk just read was the request's last.
    last: AtomicBool,
    /// The response ended first: the rest of the request is not wanted.
    cut: AtomicBool,
    trailers: Mutex<Option<HeaderMap>>,
    /// Chunks of the request's body that were looked at and are to be read once more, and whether they are the last.
    front: Mutex<Front>,
    has_front: AtomicBool,
    client_reset: ResetCode,
    upstream_reset: ResetCode,
    idle: Idle,
    revoked: Revoked,
    sent: AtomicU64,
    received: AtomicU64,
    counts: AtomicBool,
    /// The try uses a connection that has idled before.
    is_reused: AtomicBool,
}

/// The request must end, although nothing moves on it.
#[derive(Default)]
struct Revoked {
    is_revoked: AtomicBool,
    /// Both sides of a request are polled by one task.
    waker: AtomicWaker,
}

/// The beginning of a request's body that was looked at.
#[derive(Default)]
struct Front {
    chunks: VecDeque<Bytes>,
    is_whole: bool,
}

/// What comes next of a request's body.
pub(crate) enum NextOfBody {
    /// Whatever arrives.
    Stream,
    /// A chunk that was looked at.
    Chunk(Bytes),
    /// Nothing more.
    End,
}

/// Ends one coupled request from outside of it.
#[derive(Clone)]
pub struct Revoker(Weak<Link>);

impl Revoker {
    /// Ends the request: whatever it waits for next fails. `false`: it has ended already.
    pub fn revoke(&self) -> bool {
        let Some(link) = self.0.upgrade() else { return false };
        link.revoked.is_revoked.store(true, SeqCst);
        link.revoked.waker.wake();
        true
    }
}

impl std::fmt::Debug for Revoker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Revoker").field(&self.0.strong_count()).finish()
    }
}

/// How to end this request from outside. `None` before [`couple`].
#[must_use]
pub fn revoker(session: &Session) -> Option<Revoker> {
    link_of(session).map(|link| Revoker(Arc::downgrade(link)))
}

/// An HTTP/2 error code, if one was received.
struct ResetCode(AtomicU32);

impl Default for ResetCode {
    fn default() -> Self {
        Self(AtomicU32::new(Self::NONE))
    }
}

impl ResetCode {
    const NONE: u32 = u32::MAX;

    fn set(&self, reason: Reason) {
        self.0.store(reason.into(), SeqCst);
    }

    fn get(&self) -> Option<Reason> {
        match self.0.load(SeqCst) {
            Self::NONE => None,
            code => Some(code.into()),
        }
    }
}

impl Link {
    pub(crate) fn new(stream_idle_timeout: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            up: Half::default(),
            down: Half::default(),
            coupled: AtomicBool::new(false),
            last: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            trailers: Mutex::new(None),
            front: Mutex::default(),
            has_front: AtomicBool::new(false),
            client_reset: ResetCode::default(),
            upstream_reset: ResetCode::default(),
            idle: Idle::new(stream_idle_timeout),
            revoked: Revoked::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            counts: AtomicBool::new(false),
            is_reused: AtomicBool::new(false),
        })
    }

    pub(crate) fn is_coupled(&self) -> bool {
        self.coupled.load(SeqCst)
    }

    pub(crate) fn set_coupled(&self) {
        self.coupled.store(true, SeqCst);
    }

    pub(crate) fn is_last(&self) -> bool {
        self.last.load(SeqCst)
    }

    pub(crate) fn set_last(&self, last: bool) {
        self.last.store(last, SeqCst);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(SeqCst)
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, SeqCst);
    }

    pub(crate) fn set_trailers(&self, trailers: Option<HeaderMap>) {
        *self.trailers.lock() = trailers;
    }

    pub(crate) fn has_trailers(&self) -> bool {
        self.trailers.lock().is_some()
    }

    /// A copy: a retry sends them again.
    pub(crate) fn trailers(&self) -> Option<HeaderMap> {
        self.trailers.lock().clone()
    }

    /// Lets chunks that were taken from the body be read once more. `is_whole`: nothing comes after them.
    pub(crate) fn give_back(&self, chunks: Vec<Bytes>, is_whole: bool) {
        *self.front.lock() = Front { chunks: chunks.into(), is_whole };
        self.has_front.store(true, SeqCst);
    }

    /// Takes what comes next of the body.
    pub(crate) fn next_of_body(&self) -> NextOfBody {
        if !self.has_front.load(SeqCst) {
            return NextOfBody::Stream;
        }
        let mut front = self.front.lock();
        match front.chunks.pop_front() {
            Some(chunk) => NextOfBody::Chunk(chunk),
            None if front.is_whole => NextOfBody::End,
            None => {
                self.has_front.store(false, SeqCst);
                NextOfBody::Stream
            }
        }
    }

    /// Whether there are chunks to be read once more.
    pub(crate) fn has_front(&self) -> bool {
        self.has_front.load(SeqCst) && !self.front.lock().chunks.is_empty()
    }

    pub(crate) fn client_has_reset(&self, reason: Reason) {
        self.client_reset.set(reason);
    }

    pub(crate) fn is_reset_by_client(&self) -> bool {
        self.client_reset.get().is_some()
    }

    pub(crate) fn upstream_has_reset(&self, reason: Reason) {
        self.upstream_reset.set(reason);
    }

    /// The code that tells the server that its client is gone: the client's own where that says something.
    pub(crate) fn code_for_upstream(&self) -> Reason {
        match self.client_reset.get() {
            Some(reason @ (Reason::INTERNAL_ERROR | Reason::ENHANCE_YOUR_CALM)) => reason,
            _ => Reason::CANCEL,
        }
    }

    /// The code that tells the client that its response stays incomplete: the server's own where that says something.
    pub(crate) fn code_for_client(&self) -> Reason {
        match self.upstream_reset.get() {
            Some(
                reason @ (Reason::NO_ERROR
                | Reason::CANCEL
                | Reason::REFUSED_STREAM
                | Reason::ENHANCE_YOUR_CALM
                | Reason::HTTP_1_1_REQUIRED),
            ) => reason,
            _ => Reason::INTERNAL_ERROR,
        }
    }

    /// A side's read may go on: the other side has room.
    pub(crate) fn poll_gate(&self, reader: Side, cx: &mut Context<'_>) -> Poll<()> {
        match reader {
            Side::Down if self.is_cut() => Poll::Ready(()),
            Side::Down => self.up.poll_room(cx),
            Side::Up => self.down.poll_room(cx),
        }
    }

    /// Something moved.
    pub(crate) fn touch(&self) {
        self.idle.touch();
    }

    /// Ready when nothing has moved for the stream idle timeout (at most twice that: it looks once per period).
    ///
    /// Ready at once when the request was revoked.
    pub(crate) fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.revoked.waker.register(cx.waker());
        if self.revoked.is_revoked.load(SeqCst) {
            return Poll::Ready(());
        }
        self.idle.poll(cx)
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.counts.store(true, SeqCst);
        self.sent.fetch_add(bytes as u64, SeqCst);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.counts.store(true, SeqCst);
        self.received.fetch_add(bytes as u64, SeqCst);
    }
}

pub(super) fn link_of(session: &Session) -> Option<&Arc<Link>> {
    session.req_header().extensions.get::<Arc<Link>>()
}

/// Couples a request's two streams. Call it first in `connected_to_upstream`, on every try, with that call's `digest`.
///
/// Without it an HTTP/1 side of a request waits in its writes, as stock Pingora does, and full-duplex traffic can stall.
pub fn couple(session: &mut Session, upstream: Option<&Digest>) {
    let Some(link) = link_of(session).cloned().or_else(|| couple_h1_client(session)) else { return };
    let up = upstream.and_then(attached).and_then(|attached| attached.stream.upgrade());
    link.up.close();
    link.is_reused.store(up.as_ref().is_some_and(|up| up.is_reused()), SeqCst);
    if let Some(up) = up.filter(|stream| stream.is_http1()) {
        let body = session.req_header().version == Version::HTTP_2 || has_body_or_upgrades(session);
        link.up.open_h1(Arc::clone(&up));
        up.attach(&link, Side::Up, body);
        if session.is_upgrade_req() && session.as_mut().is_body_empty() {
            up.hold_response();
        }
        link.set_coupled();
    }
    // An HTTP/2 upstream finds the link in the request's header.
}

/// The link of a request that came over HTTP/1: there is none before it has an upstream.
fn couple_h1_client(session: &mut Session) -> Option<Arc<Link>> {
    let down = attached(session.digest()?)?.stream.upgrade().filter(|stream| stream.is_http1())?;
    let queues = has_body_or_upgrades(session);
    let link = Link::new(down.stream_idle_timeout());
    link.down.open_h1(Arc::clone(&down));
    down.attach(&link, Side::Down, queues);
    session.req_header_mut().extensions_mut().insert(Arc::clone(&link));
    Some(link)
}

/// Whether both directions of a request can be busy at once.
fn has_body_or_upgrades(session: &mut Session) -> bool {
    session.is_upgrade_req() || !session.as_mut().is_body_empty()
}

/// Whether the current try uses an HTTP/1 connection that has idled before.
pub(super) fn is_reused(session: &Session) -> bool {
    link_of(session).is_some_and(|link| link.is_reused.load(SeqCst))
}

/// Changes the stream idle timeout of this request, from now on. `None`: never. Call it after [`couple`].
pub fn set_stream_idle_timeout(session: &Session, limit: Option<Duration>) {
    if let Some(link) = link_of(session) {
        link.idle.set_limit(limit);
    }
}

/// Whether the request was ended by its stream idle timeout.
#[must_use]
pub fn is_stream_idle(session: &Session) -> bool {
    link_of(session).is_some_and(|link| link.idle.has_expired())
}

/// Body bytes sent to the upstream and received from it, over all tries. Complete in `logging`.
#[must_use]
pub fn upstream_bytes(session: &Session) -> (u64, u64) {
    match link_of(session).filter(|link| link.counts.load(SeqCst)) {
        Some(link) => (link.sent.load(SeqCst), link.received.load(SeqCst)),
        None => (session.upstream_body_bytes_sent().unwrap_or(0) as u64, session.upstream_body_bytes_received() as u64),
    }
}
