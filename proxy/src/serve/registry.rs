//! The one registry of live connections and streams: drain, revocation and metrics read it.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use ahash::AHashMap;
use palisade_model::reason::Reason;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::listener::ListenerKey;

/// Shards, so that workers rarely wait for each other.
const SHARDS: usize = 16;

/// What is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LiveKind {
    /// A transport connection from a client.
    Connection,
    /// A request, upgraded tunnel or opaque relay on one.
    Stream,
}

/// What is known about a live connection or stream: enough to judge it again and to show it.
#[derive(Clone)]
pub struct LiveFacts {
    /// Connection or stream.
    pub kind: LiveKind,
    /// Where it came in.
    pub listener: ListenerKey,
    /// The client, as policy sees it.
    pub peer: SocketAddr,
    /// Where it was going: the original destination, else our end.
    pub destination: SocketAddr,
    /// The identity that the client proved, a URI. `None`: none.
    pub principal: Option<Arc<str>>,
    /// The server name that the client sent.
    pub sni: Option<Arc<str>>,
    /// What its owner needs to judge it again (a request context, say). Nobody else looks inside.
    pub subject: Option<Arc<dyn Any + Send + Sync>>,
}

/// What a judge says about something that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may live on.
    Keep,
    /// It is closed, for this reason.
    Close(Reason),
}

/// How many live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveCounts {
    /// Connections.
    pub connections: usize,
    /// Streams.
    pub streams: usize,
}

/// The registry. Cheap to clone: all clones are one registry.
#[derive(Clone)]
pub struct LiveRegistry(Arc<Inner>);

/// Keeps something in the registry until dropped, and tells when it must close.
///
/// Not `Clone`: one owner. Tasks that serve it watch [`Registration::closed`].
pub struct Registration {
    registry: Arc<Inner>,
    entry: Arc<Entry>,
}

struct Inner {
    shards: [Mutex<AHashMap<u64, Arc<Entry>>>; SHARDS],
    next: AtomicU64,
    connections: AtomicUsize,
    streams: AtomicUsize,
    /// Told whenever the last of a kind leaves.
    emptied: Notify,
}

struct Entry {
    id: u64,
    since: Instant,
    facts: LiveFacts,
    /// Why it was closed, itself and not with its parent.
    reason: OnceLock<Reason>,
    /// Wakes who waits for its end. Most requests have nobody who does.
    close: Mutex<Option<CancellationToken>>,
    /// The entry under which a stream runs, and with which it is closed.
    parent: Option<Arc<Entry>>,
}

impl LiveRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            shards: Default::default(),
            next: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            emptied: Notify::new(),
        }))
    }

    /// Registers a connection or a stream of its own.
    pub fn register(&self, facts: LiveFacts) -> Registration {
        register(&self.0, facts, None)
    }

    /// How many live now.
    pub fn counts(&self) -> LiveCounts {
        LiveCounts {
            connections: self.0.connections.load(Ordering::Acquire),
            streams: self.0.streams.load(Ordering::Acquire),
        }
    }

    /// All that live now with their age, oldest first. O(n): for admin pages.
    pub fn snapshot(&self) -> Vec<(u64, std::time::Duration, LiveFacts)> {
        let now = Instant::now();
        let mut entries: Vec<_> = self
            .entries()
            .into_iter()
            .map(|entry| (entry.id, now.saturating_duration_since(entry.since), entry.facts.clone()))
            .collect();
        entries.sort_by_key(|(id, ..)| *id);
        entries
    }

    /// Judges everything that lives and closes what no longer may. Gives the number closed now, by reason.
    ///
    /// For use after a new configuration is in force: what registers meanwhile was judged by the new one. The judge
    /// runs without any lock held; what is closed already is not judged again. O(n) judgements: call it off the
    /// request path.
    pub fn reevaluate(&self, mut judge: impl FnMut(&LiveFacts) -> Verdict) -> BTreeMap<Reason, usize> {
        let mut closed = BTreeMap::new();
        for entry in self.entries() {
            if entry.is_closed() {
                continue;
            }
            if let Verdict::Close(reason) = judge(&entry.facts)
                && entry.close(reason)
            {
                *closed.entry(reason).or_insert(0) += 1;
            }
        }
        closed
    }

    /// Closes everything.
    pub fn close_all(&self, reason: Reason) -> usize {
        self.reevaluate(|_| Verdict::Close(reason)).values().sum()
    }

    /// Waits until nothing lives. Returns at once when that is so.
    pub async fn empty(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            tokio::pin!(emptied);
            // Registers the wait before the look, so that no change between the two is missed.
            emptied.as_mut().enable();
            let LiveCounts { connections, streams } = self.counts();
            if connections == 0 && streams == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        let mut all = Vec::new();
        for shard in &self.0.shards {
            all.extend(shard.lock().values().map(Arc::clone));
        }
        all
    }
}

impl Default for LiveRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LiveRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveRegistry").field(&self.counts()).finish()
    }
}

impl Registration {
    /// The number of the entry, never used twice in a process.
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// What was registered.
    pub fn facts(&self) -> &LiveFacts {
        &self.entry.facts
    }

    /// Registers a stream of this connection: closing the connection closes it too.
    pub fn stream(&self, subject: Option<Arc<dyn Any + Send + Sync>>) -> Registration {
        let facts = LiveFacts { kind: LiveKind::Stream, subject, ..self.entry.facts.clone() };
        register(&self.registry, facts, Some(Arc::clone(&self.entry)))
    }

    /// Registers a stream of this connection whose client proved another identity than the connection's (a token).
    pub fn stream_as(&self, principal: Arc<str>, subject: Option<Arc<dyn Any + Send + Sync>>) -> Registration {
        let facts =
            LiveFacts { kind: LiveKind::Stream, subject, principal: Some(principal), ..self.entry.facts.clone() };
        register(&self.registry, facts, Some(Arc::clone(&self.entry)))
    }

    /// Completes when the entry must close. Cancel safe; owns what it needs, so it may be moved to another task.
    pub fn closed(&self) -> WaitForCancellationFutureOwned {
        self.entry.token().cancelled_owned()
    }

    /// Why it must close, `None` while it need not.
    pub fn close_reason(&self) -> Option<Reason> {
        self.entry.close_reason()
    }

    /// Closes this entry and the streams under it. `false`: it was closed already.
    pub fn close(&self, reason: Reason) -> bool {
        self.entry.close(reason)
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("id", &self.entry.id).field("facts", &self.entry.facts).finish()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(shard) = self.registry.shard(self.entry.id) {
            shard.lock().remove(&self.entry.id);
        }
        if self.registry.counter(self.entry.facts.kind).fetch_sub(1, Ordering::AcqRel) == 1 {
            self.registry.emptied.notify_waiters();
        }
    }
}

impl fmt::Debug for LiveFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, listener, peer, destination, principal, sni, subject: _ } = self;
        f.debug_struct("LiveFacts")
            .field("kind", kind)
            .field("listener", listener)
            .field("peer", peer)
            .field("destination", destination)
            .field("principal", principal)
            .field("sni", sni)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn shard(&self, id: u64) -> Option<&Mutex<AHashMap<u64, Arc<Entry>>>> {
        let index = usize::try_from(id % SHARDS as u64).unwrap_or_default();
        self.shards.get(index)
    }

    fn counter(&self, kind: LiveKind) -> &AtomicUsize {
        match kind {
            LiveKind::Connection => &self.connections,
            LiveKind::Stream => &self.streams,
        }
    }
}

impl Entry {
    fn close(&self, reason: Reason) -> bool {
        let is_first = !self.is_closed() && self.reason.set(reason).is_ok();
        if let Some(token) = &*self.close.lock() {
            token.cancel();
        }
        is_first
    }

    fn is_closed(&self) -> bool {
        self.close_reason().is_some()
    }

    fn close_reason(&self) -> Option<Reason> {
        let inherited = || self.parent.as_ref().and_then(|parent| parent.close_reason());
        self.reason.get().copied().or_else(inherited)
    }

    /// Is cancelled when this entry or its parent is closed.
    fn token(&self) -> CancellationToken {
        let token = self
            .close
            .lock()
            .get_or_insert_with(|| match &self.parent {
                Some(parent) => parent.token().child_token(),
                None => CancellationToken::new(),
            })
            .clone();
        // Closed before there was a token: whoever closes it now finds one.
        if self.reason.get().is_some() {
            token.cancel();
        }
        token
    }
}

fn register(registry: &Arc<Inner>, facts: LiveFacts, parent: Option<Arc<Entry>>) -> Registration {
    let id = registry.next.fetch_add(1, Ordering::Relaxed);
    registry.counter(facts.kind).fetch_add(1, Ordering::AcqRel);
    let entry =
        Arc::new(Entry { id, since: Instant::now(), facts, reason: OnceLock::new(), close: Mutex::default(), parent });
    if let Some(shard) = registry.shard(id) {
        shard.lock().insert(id, Arc::clone(&entry));
    }
    Registration { registry: Arc::clone(registry), entry }
}

#[cfg(test)]
mod tests;
