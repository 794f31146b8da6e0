//! Own accept loops: listeners added, kept and drained live.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use tokio::{net::TcpListener, net::TcpStream, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::socket;

/// The pause after the first failed accept; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(5);
/// The longest pause between failed accepts.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A listener's name, stable across configurations. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerKey(Arc<str>);

/// One socket that should be listening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The listener's name.
    pub key: ListenerKey,
    /// Where; port 0 takes any free one.
    pub address: SocketAddr,
    /// How.
    pub options: ListenerOptions,
}

/// Options of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerOptions {
    /// SO_REUSEPORT: several sockets share the address (one accept loop per core, or an overlapping restart).
    pub reuse_port: bool,
    /// An IPv6 address refuses IPv4.
    pub v6_only: bool,
    /// Connections that the kernel queues for us.
    pub backlog: u32,
    /// Connections open at once; more are reset when they arrive. `None`: no limit.
    pub max_connections: Option<NonZeroUsize>,
    /// Idle time before TCP keep-alive probes. `None`: off.
    pub keepalive: Option<Duration>,
}

/// A connection as it was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The socket: no delay and keep-alive are set.
    pub stream: TcpStream,
    /// The other end, IPv4-mapped addresses as IPv4.
    pub peer: SocketAddr,
    /// Our end, IPv4-mapped addresses as IPv4.
    pub local: SocketAddr,
    /// Where it came in.
    pub listener: ListenerKey,
    /// Counts against the listener's limit until dropped: keep it as long as the connection.
    pub slot: ConnectionSlot,
}

/// Serves connections. One value serves all listeners of a set; each connection runs in its own task.
pub trait ServeConnection: Send + Sync + 'static {
    /// Serves one connection to its end. Dropping the future ends the connection.
    fn serve(&self, connection: Accepted) -> BoxFuture<'static, ()>;
}

/// The listeners of one process, reconciled with what is desired.
///
/// Owns every accept loop and every connection task. Dropping it stops accepting and ends all connections.
pub struct ListenerSet {
    service: Arc<dyn ServeConnection>,
    running: BTreeMap<ListenerKey, Running>,
    connections: TaskTracker,
    /// Ends all connection tasks.
    force: CancellationToken,
}

/// Why a listener does not listen.
#[derive(Debug, thiserror::Error)]
#[error("listener `{key}` cannot listen on {address}: {source}")]
pub struct ListenerError {
    /// Which.
    pub key: ListenerKey,
    /// Where.
    pub address: SocketAddr,
    /// The operating system's error.
    pub source: io::Error,
}

/// A listener's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerCounts {
    /// Connections open now.
    pub open: usize,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections reset because of the limit.
    pub refused: u64,
    /// Failed accepts.
    pub errors: u64,
}

/// Counts one open connection.
pub struct ConnectionSlot(Arc<Shared>);

struct Running {
    bind: Bind,
    local: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

/// What the accept loop reads anew for each connection.
struct Shared {
    key: ArcSwap<ListenerKey>,
    /// 0: no limit.
    limit: AtomicUsize,
    keepalive: ArcSwap<Option<Duration>>,
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
}

impl ListenerKey {
    /// A key from a name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            reuse_port: false,
            v6_only: false,
            backlog: 4096,
            max_connections: None,
            keepalive: Some(Duration::from_secs(120)),
        }
    }
}

impl ListenerOptions {
    /// Whether a socket bound with `self` also serves `other`: the rest changes live.
    fn same_socket(&self, other: &Self) -> bool {
        let Self { reuse_port, v6_only, backlog, max_connections: _, keepalive: _ } = self;
        (*reuse_port, *v6_only, *backlog) == (other.reuse_port, other.v6_only, other.backlog)
    }
}

impl ListenerSet {
    /// A set that listens nowhere yet.
    pub fn new(service: Arc<dyn ServeConnection>) -> Self {
        Self { service, running: BTreeMap::new(), connections: TaskTracker::new(), force: CancellationToken::new() }
    }

    /// Makes the listening sockets those that are desired.
    ///
    /// - Same key and address: the socket stays, limits change at once.
    /// - Another key at the address of one that goes: the socket is handed over; no connection is refused meanwhile.
    /// - A key that moves: the new socket listens before the old one stops; when it cannot, the old one stays.
    /// - What goes stops accepting; its open connections live on under the registry.
    ///
    /// Gives one error per bind that does not listen now; the others are in force. A later call tries again. Must run
    /// inside a tokio runtime.
    pub async fn reconcile(&mut self, desired: Vec<Bind>) -> Vec<ListenerError> {
        let desired: BTreeMap<ListenerKey, Bind> = desired.into_iter().map(|bind| (bind.key.clone(), bind)).collect();
        let mut errors = Vec::new();
        let gone: Vec<ListenerKey> = self.running.keys().filter(|key| !desired.contains_key(*key)).cloned().collect();
        let mut leaving: Vec<Running> = gone.iter().filter_map(|key| self.running.remove(key)).collect();

        let mut added = Vec::new();
        for (key, bind) in desired {
            if self
                .running
                .get_mut(&key)
                .is_some_and(|running| running.bind.address == bind.address && running.adopt(&bind))
            {
                continue;
            }
            let heir = leaving.iter_mut().position(|running| running.local == bind.address && running.adopt(&bind));
            match heir {
                Some(position) => {
                    let running = leaving.swap_remove(position);
                    info!(listener = %key, address = %running.local, "listener renamed");
                    if let Some(moved) = self.running.insert(key, running) {
                        moved.stop().await;
                    }
                }
                None => added.push(bind),
            }
        }
        for running in leaving {
            info!(listener = %running.bind.key, address = %running.local, "listener stops accepting");
            running.stop().await;
        }
        for bind in added {
            if let Err(error) = self.add(bind).await {
                warn!(listener = %error.key, address = %error.address, error = %error.source, "cannot listen");
                errors.push(error);
            }
        }
        errors
    }

    async fn add(&mut self, bind: Bind) -> Result<(), ListenerError> {
        let failed = |bind: &Bind, source| ListenerError { key: bind.key.clone(), address: bind.address, source };
        // Where the same address only changes its socket options, the old socket is in the way of the new one.
        if self.running.get(&bind.key).is_some_and(|old| old.bind.address == bind.address)
            && let Some(old) = self.running.remove(&bind.key)
        {
            old.stop().await;
        }
        let listener = socket::bind(bind.address, &bind.options).map_err(|source| failed(&bind, source))?;
        let local = listener.local_addr().map_err(|source| failed(&bind, source))?;
        let shared = Arc::new(Shared::new(&bind));
        let stop = CancellationToken::new();
        let door = Door {
            shared: Arc::clone(&shared),
            service: Arc::clone(&self.service),
            connections: self.connections.clone(),
            force: self.force.clone(),
        };
        let task = tokio::spawn(AcceptLoop { listener, door }.run(stop.clone()));
        info!(listener = %bind.key, address = %local, "listening");
        let key = bind.key.clone();
        let running = Running { bind, local, stop, task, shared };
        if let Some(old) = self.running.insert(key, running) {
            old.stop().await;
        }
        Ok(())
    }

    /// Where a listener really listens.
    pub fn local_address(&self, key: &ListenerKey) -> Option<SocketAddr> {
        self.running.get(key).map(|running| running.local)
    }

    /// All listeners with their figures, in key order.
    pub fn counts(&self) -> impl Iterator<Item = (&ListenerKey, ListenerCounts)> {
        self.running.iter().map(|(key, running)| (key, running.shared.counts()))
    }

    /// Connection tasks that have not ended.
    pub fn open_connections(&self) -> usize {
        self.connections.len()
    }

    /// Stops accepting everywhere. What the kernel had queued already is accepted first.
    pub async fn stop_accepting(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.stop().await;
        }
    }

    /// Waits for all connection tasks to end. Call [`ListenerSet::stop_accepting`] first.
    pub async fn finished(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// Ends all connection tasks now.
    pub fn abort(&self) {
        self.force.cancel();
    }
}

impl fmt::Debug for ListenerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSet").field("listeners", &self.running.keys()).finish_non_exhaustive()
    }
}

impl Drop for ListenerSet {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        self.force.cancel();
    }
}

impl Running {
    /// Takes over a bind of this socket's address, if the socket can serve it.
    fn adopt(&mut self, bind: &Bind) -> bool {
        if self.task.is_finished() || !self.bind.options.same_socket(&bind.options) {
            return false;
        }
        self.shared.apply(bind);
        self.bind = bind.clone();
        true
    }

    /// Ends the accept loop and waits until the socket is closed.
    async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            warn!(listener = %self.bind.key, %error, "accept loop ended badly");
        }
    }
}

impl Shared {
    fn new(bind: &Bind) -> Self {
        Self {
            key: ArcSwap::from_pointee(bind.key.clone()),
            limit: AtomicUsize::new(bind.options.max_connections.map_or(0, NonZeroUsize::get)),
            keepalive: ArcSwap::from_pointee(bind.options.keepalive),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    fn apply(&self, bind: &Bind) {
        self.key.store(Arc::new(bind.key.clone()));
        self.limit.store(bind.options.max_connections.map_or(0, NonZeroUsize::get), Ordering::Relaxed);
        self.keepalive.store(Arc::new(bind.options.keepalive));
    }

    fn counts(&self) -> ListenerCounts {
        ListenerCounts {
            open: self.open.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}

impl ConnectionSlot {
    /// A slot, unless the limit is reached.
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let limit = match shared.limit.load(Ordering::Relaxed) {
            0 => usize::MAX,
            limit => limit,
        };
        if shared.open.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(Self(Arc::clone(shared)));
        }
        shared.open.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for ConnectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionSlot").field(&self.0.key.load().as_str()).finish()
    }
}

struct AcceptLoop {
    listener: TcpListener,
    door: Door,
}

/// What happens to each accepted connection.
struct Door {
    shared: Arc<Shared>,
    service: Arc<dyn ServeConnection>,
    connections: TaskTracker,
    force: CancellationToken,
}

impl AcceptLoop {
    async fn run(self, stop: CancellationToken) {
        let Door { shared, .. } = &self.door;
        let mut backoff = MIN_BACKOFF;
        loop {
            // `accept` is cancel safe: a connection is either returned or still queued.
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = MIN_BACKOFF;
                    self.door.hand_on(stream, peer);
                }
                Err(error) if is_about_one_connection(&error) => {
                    shared.errors.fetch_add(1, Ordering::Relaxed);
                    debug!(listener = %shared.key.load(), %error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    shared.errors.fetch_add(1, Ordering::Relaxed);
                    warn!(listener = %shared.key.load(), %error, ?backoff, "cannot accept");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
        self.take_queue();
    }

    /// Serves what is queued already: the kernel has completed those handshakes, and closing now would reset them.
    fn take_queue(self) {
        let Self { listener, door } = self;
        // Not through the runtime, which knows only of connections that it has been told about.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, peer)) = listener.accept() {
            match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                Ok(stream) => door.hand_on(stream, peer),
                Err(error) => debug!(%error, "the client has gone already"),
            }
        }
    }
}

impl Door {
    fn hand_on(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(slot) = ConnectionSlot::take(&self.shared) else {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return socket::reset(stream);
        };
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        let prepared = socket::prepare(&stream, **self.shared.keepalive.load()).and_then(|()| stream.local_addr());
        let local = match prepared {
            Ok(local) => local,
            Err(error) => {
                debug!(listener = %self.shared.key.load(), %error, "the client has gone already");
                return;
            }
        };
        let connection = Accepted {
            stream,
            peer: socket::canonical(peer),
            local: socket::canonical(local),
            listener: ListenerKey::clone(&self.shared.key.load()),
            slot,
        };
        let serving = self.service.serve(connection);
        let force = self.force.clone();
        self.connections.spawn(async move {
            tokio::select! {
                biased;
                () = force.cancelled() => {}
                () = serving => {}
            }
        });
    }
}

/// Errors that say nothing about the next accept. The others (EMFILE, ENFILE, ENOBUFS, ENOMEM, ...) need a pause.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests;
