//! HTTP/2 connections by endpoint and transport: streams are taken from them, nobody owns one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::{Mutex, RwLock};
use pingora_core::protocols::{Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, UniqueID};
use pingora_core::{Error, ErrorType, OrErr, Result};
use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout};

use super::ConnectorSettings;
use super::session::H2Upstream;
use super::transport::Transport;
use crate::transport::h2::ping;
use crate::transport::stream::MeshStream;

/// What requests must agree in to share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SlotKey {
    pub(super) address: SocketAddr,
    pub(super) transport: u32,
}

pub(super) struct Pools {
    settings: ConnectorSettings,
    slots: RwLock<AHashMap<SlotKey, Arc<Slot>>>,
}

/// The connections to one endpoint.
#[derive(Default)]
pub(super) struct Slot {
    connections: Mutex<Vec<Arc<H2Connection>>>,
    /// Held while dialling: a burst of requests opens one connection.
    dialling: tokio::sync::Mutex<()>,
    /// How often dialling has failed, and the last error: whoever waited for a dial that failed fails with it, or a dead
    /// endpoint would cost the last of them as many timeouts as there are requests.
    failure: Mutex<(u64, Option<(ErrorType, String)>)>,
    speaks_http1: AtomicBool,
}

/// The turn to dial.
pub(super) struct Dialling<'a> {
    slot: &'a Slot,
    _turn: MutexGuard<'a, ()>,
}

/// One HTTP/2 connection. Dropping the last reference closes it once its streams have ended.
pub(super) struct H2Connection {
    sender: SendRequest<Bytes>,
    max_streams: usize,
    streams: AtomicUsize,
    /// Requests so far, where they are limited.
    served: AtomicUsize,
    /// When it takes no more streams.
    retires: Option<Instant>,
    idle_timeout: Duration,
    is_leaving: AtomicBool,
    idle_since: Mutex<Instant>,
    pub(super) is_tls: bool,
    pub(super) fd: i32,
    pub(super) digest: Digest,
}

/// One stream's place on a connection.
pub(super) struct Lease(pub(super) Arc<H2Connection>);

impl Pools {
    pub(super) fn new(settings: ConnectorSettings) -> Self {
        Self { settings, slots: RwLock::default() }
    }

    pub(super) fn settings(&self) -> &ConnectorSettings {
        &self.settings
    }

    pub(super) fn find(&self, key: &SlotKey) -> Option<Arc<Slot>> {
        self.slots.read().get(key).cloned()
    }

    pub(super) fn slot(&self, key: SlotKey) -> Arc<Slot> {
        self.find(&key).unwrap_or_else(|| Arc::clone(self.slots.write().entry(key).or_default()))
    }

    /// Makes an HTTP/2 connection of a stream, adds it to the slot, and opens its first stream.
    pub(super) async fn establish(
        &self,
        slot: &Slot,
        stream: MeshStream,
        transport: &Transport,
        limit: Duration,
        max_requests: usize,
    ) -> Result<H2Upstream> {
        let ConnectorSettings { windows, max_header_list_bytes, ping, h2_idle_timeout, max_idle: _ } = &self.settings;
        let options = &transport.options;
        let max_streams = options.max_streams.unwrap_or(windows.streams);
        let digest = Digest {
            ssl_digest: None,
            timing_digest: stream.get_timing_digest(),
            proxy_digest: stream.get_proxy_digest(),
            socket_digest: stream.get_socket_digest(),
        };
        let fd = stream.id();
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(windows.stream_bytes)
            .initial_connection_window_size(windows.connection_bytes())
            .max_send_buffer_size(usize::try_from(windows.stream_bytes).unwrap_or(usize::MAX))
            .max_header_list_size(*max_header_list_bytes)
            .handshake::<_, Bytes>(stream);
        let (sender, mut driver) = match timeout(limit, handshake).await {
            Ok(done) => done.or_err(ErrorType::H2Error, "handshake")?,
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "HTTP/2 handshake"),
        };
        let connection = Arc::new(H2Connection {
            sender,
            max_streams: usize::try_from(max_streams).unwrap_or(usize::MAX),
            streams: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            retires: options.max_duration.map(|life| Instant::now() + life),
            idle_timeout: options.idle.unwrap_or(*h2_idle_timeout),
            is_leaving: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
            is_tls: transport.tls.is_some(),
            fd,
            digest,
        });
        let (pings, settings) = (driver.ping_pong(), options.ping().or(*ping));
        let weak = Arc::downgrade(&connection);
        // Ends by itself: when the connection does, or when nobody has a reference to it and its streams are done.
        tokio::spawn(async move {
            tokio::select! {
                _ = &mut driver => {}
                () = ping::keepalive(pings, settings) => {}
            }
            if let Some(connection) = weak.upgrade() {
                connection.leave();
            }
        });
        slot.speaks_http1.store(false, Ordering::Release);
        slot.connections.lock().push(Arc::clone(&connection));
        match connection.lease(max_requests) {
            Some(lease) => Ok(H2Upstream::new(lease)),
            None => Error::e_explain(ErrorType::H2Error, "a new connection takes no stream"),
        }
    }

    pub(super) fn reap(&self) {
        self.slots.write().retain(|_, slot| {
            let mut connections = slot.connections.lock();
            connections.retain(|connection| !connection.is_gone() && !connection.has_idled());
            // A slot that is being dialled for is held by the one who dials.
            !connections.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    pub(super) fn clear(&self) {
        self.slots.write().clear();
    }

    pub(super) fn connections(&self) -> usize {
        self.slots.read().values().map(|slot| slot.connections.lock().len()).sum()
    }
}

impl Slot {
    /// Waits for the turn to dial, for `limit` at most.
    pub(super) async fn lock_dialling(&self, limit: Duration) -> Result<Dialling<'_>> {
        if let Ok(turn) = self.dialling.try_lock() {
            return Ok(Dialling { slot: self, _turn: turn });
        }
        let failures = self.failure.lock().0;
        let Ok(turn) = timeout(limit, self.dialling.lock()).await else {
            return Error::e_explain(ErrorType::ConnectTimedout, "waiting for another request's dial");
        };
        let failure = self.failure.lock();
        match &failure.1 {
            Some((kind, message)) if failure.0 != failures => Error::e_explain(kind.clone(), message.clone()),
            _ => Ok(Dialling { slot: self, _turn: turn }),
        }
    }

    /// The endpoint has last negotiated HTTP/1.
    pub(super) fn speaks_http1(&self) -> bool {
        self.speaks_http1.load(Ordering::Acquire)
    }

    pub(super) fn remember_http1(&self) {
        self.speaks_http1.store(true, Ordering::Release);
    }

    /// A stream on the newest connection that has room and has carried fewer than `max_requests` (0: no limit). `None`: dial.
    pub(super) fn open_stream(&self, max_requests: usize) -> Option<H2Upstream> {
        let mut connections = self.connections.lock();
        connections.retain(|connection| !connection.is_gone());
        connections.iter().rev().find_map(|connection| connection.lease(max_requests)).map(H2Upstream::new)
    }
}

impl Dialling<'_> {
    /// Gives the turn back, with what came of it.
    pub(super) fn end(self, error: Option<&Error>) {
        let mut failure = self.slot.failure.lock();
        if let Some(error) = error {
            *failure = (failure.0 + 1, Some((error.etype().clone(), error.to_string())));
        }
    }
}

impl H2Connection {
    /// Takes a place, if there is one. The last that `max_requests` (0: no limit) grants makes the connection leave.
    fn lease(self: &Arc<Self>, max_requests: usize) -> Option<Lease> {
        // The peer's SETTINGS may allow fewer streams than we do, or change that at any time.
        let max = self.max_streams.min(self.sender.current_max_send_streams());
        let taken = self.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1));
        let lease = taken.ok().map(|_| Lease(Arc::clone(self)))?;
        if max_requests == 0 {
            return Some(lease);
        }
        let served = self.served.fetch_add(1, Ordering::AcqRel) + 1;
        if served >= max_requests {
            self.leave();
        }
        (served <= max_requests).then_some(lease)
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// No further streams: the peer said GOAWAY, or the connection failed.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    fn is_retired(&self) -> bool {
        self.retires.is_some_and(|end| Instant::now() >= end)
    }

    fn is_gone(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire) || self.is_retired() || {
            // h2 knows of a GOAWAY or a failure as soon as it has read it; asking costs a lock.
            let waker = futures::task::noop_waker();
            let mut cx = std::task::Context::from_waker(&waker);
            matches!(self.sender.clone().poll_ready(&mut cx), std::task::Poll::Ready(Err(_)))
        }
    }

    fn has_idled(&self) -> bool {
        let is_idle = self.streams.load(Ordering::Acquire) == 0;
        is_idle && (self.is_retired() || self.idle_since.lock().elapsed() >= self.idle_timeout)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.idle_since.lock() = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}
