//! HTTP/1 upstream connections between two requests: the last one in is the first one out.
//!
//! Pingora's own pool watches each idle connection with a task of its own, made and ended with every request. Here a
//! connection that is idle is a row in a table, and one task looks after all of them.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::UpstreamProtocol;
use crate::transport::stream::MeshStream;

/// How long a connection that its server has closed may go unnoticed where nobody asks for it.
const SWEEP: Duration = Duration::from_secs(1);

/// What a connection must agree in with whoever takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct IdleKey {
    pub(super) address: SocketAddr,
    pub(super) transport: u32,
    pub(super) protocol: UpstreamProtocol,
    /// Requests that it may carry; 0: any number.
    pub(super) max_requests: usize,
}

/// Where an HTTP/1 upstream connection idles once its request is done.
///
/// Pingora gives a connection back by reading one byte and, if none comes, putting it into its own pool. The stream answers that
/// read as an ended one would, so that Pingora lets go of it; dropped then, it goes where it came from.
#[derive(Clone)]
pub(crate) struct Home {
    streams: Arc<IdleStreams>,
    key: IdleKey,
    limit: Duration,
}

/// The idle connections of a worker.
pub(super) struct IdleStreams {
    held: Mutex<Held>,
    /// More are closed, the oldest first.
    max: usize,
}

#[derive(Default)]
struct Held {
    /// INVARIANT: oldest first.
    by_key: AHashMap<IdleKey, Vec<Idle>>,
    count: usize,
    is_swept: bool,
}

struct Idle {
    stream: MeshStream,
    since: Instant,
    until: Instant,
}

impl Home {
    pub(super) fn new(streams: &Arc<IdleStreams>, key: IdleKey, limit: Duration) -> Self {
        Self { streams: Arc::clone(streams), key, limit }
    }

    /// Keeps a connection until it is taken. Needs a tokio runtime; without one the connection is closed.
    pub(crate) fn put(self, stream: MeshStream) {
        self.streams.put(self.key, stream, self.limit);
    }

    /// A connection that may carry another request.
    pub(super) fn take(&self) -> Option<MeshStream> {
        self.streams.take(&self.key)
    }
}

impl IdleStreams {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), max })
    }

    fn put(self: &Arc<Self>, key: IdleKey, stream: MeshStream, limit: Duration) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let since = Instant::now();
        // Far enough for ever, and never beyond what a clock can hold.
        let until = since + limit.min(Duration::from_secs(u64::from(u32::MAX)));
        let mut held = self.held.lock();
        let surplus = if held.count >= self.max { held.take_oldest() } else { None };
        held.by_key.entry(key).or_default().push(Idle { stream, since, until });
        held.count += 1;
        if !std::mem::replace(&mut held.is_swept, true) {
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
        drop(held);
        drop(surplus);
    }

    fn take(&self, key: &IdleKey) -> Option<MeshStream> {
        loop {
            let mut held = self.held.lock();
            let Idle { stream, since: _, until } = held.by_key.get_mut(key)?.pop()?;
            held.count -= 1;
            drop(held);
            if until > Instant::now() && stream.is_quiet() {
                stream.note_reuse();
                return Some(stream);
            }
        }
    }

    /// Closes what has idled for too long or was closed by its server. When to look again; `None`: there is nothing left.
    fn sweep(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut ended = Vec::new();
        let mut held = self.held.lock();
        for idle in held.by_key.values_mut() {
            ended.extend(idle.extract_if(.., |idle| idle.until <= now || !idle.stream.is_quiet()));
        }
        held.by_key.retain(|_, idle| !idle.is_empty());
        held.count = held.by_key.values().map(Vec::len).sum();
        for idle in held.by_key.values().flatten() {
            idle.stream.rest();
        }
        let next = held.by_key.values().flatten().map(|idle| idle.until).min();
        held.is_swept = next.is_some();
        drop(held);
        next.map(|next| next.min(now + SWEEP))
    }
}

impl Held {
    fn take_oldest(&mut self) -> Option<Idle> {
        let oldest = self.by_key.values_mut().filter(|idle| !idle.is_empty());
        let oldest = oldest.min_by_key(|idle| idle.first().map(|idle| idle.since))?;
        self.count -= 1;
        Some(oldest.remove(0))
    }
}

/// Runs while there are idle connections; ends with their owner.
async fn sweep(idle: Weak<IdleStreams>) {
    loop {
        let Some(next) = idle.upgrade().and_then(|idle| idle.sweep()) else { return };
        tokio::time::sleep_until(next).await;
    }
}
