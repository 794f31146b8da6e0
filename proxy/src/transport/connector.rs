//! The upstream connector: interned transports, pooled HTTP/1, multiplexed HTTP/2 dialled once however many ask.

use std::any::Any;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CustomALPN;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, Result};

mod dial;
mod idle;
mod options;
mod pool;
mod request;
mod retry;
mod session;
mod transport;

pub(crate) use idle::Home;
pub use options::ConnectionOptions;
pub use retry::{is_answered, retry_is_safe};
pub use transport::{TlsTransport, Transport, TransportRef};

use idle::{IdleKey, IdleStreams};
use pool::{Pools, SlotKey};
pub(crate) use session::H2Upstream;
use transport::Registry;

use super::limits::{H2Windows, PingKeepalive};
use super::stream::AppProtocol;

/// What the connector needs to know once.
#[derive(Debug, Clone)]
pub struct ConnectorSettings {
    /// Streams and windows of each HTTP/2 connection.
    pub windows: H2Windows,
    /// Size of a response's header list on HTTP/2, in bytes as HPACK counts them.
    pub max_header_list_bytes: u32,
    /// Keepalive pings on HTTP/2 connections; `None`: none are sent.
    pub ping: Option<PingKeepalive>,
    /// HTTP/2 connections without a stream for this long are closed by [`MeshConnector::reap`].
    pub h2_idle_timeout: Duration,
    /// Idle HTTP/1 connections kept, over all endpoints.
    pub max_idle: usize,
}

/// What to speak to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1. Upgrades need it.
    Http1,
    /// HTTP/2 only; over TLS a peer that negotiates anything else is an error. gRPC needs it.
    Http2,
    /// HTTP/2, or HTTP/1.1 where the peer's ALPN answer says so.
    Http2OrHttp1,
}

/// Per-request choices about a peer.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// Longest pause in a response, its begin included. `None`: the stream idle timeout alone bounds it.
    pub read_timeout: Option<Duration>,
    /// Idle time after which a pooled HTTP/1 connection is closed.
    pub idle_timeout: Duration,
    /// Requests that one connection carries before it is given up. `None`: no limit.
    pub max_requests: Option<NonZeroU32>,
    /// Use no pooled connection: for a retry after one of them proved stale, since its neighbours may be so too.
    pub fresh: bool,
}

/// The connector. Clones share everything.
#[derive(Clone)]
pub struct MeshConnector {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    next_fresh: AtomicU64,
    pools: Pools,
    idle: Arc<IdleStreams>,
}

impl Default for ConnectorSettings {
    fn default() -> Self {
        Self {
            windows: H2Windows::default(),
            max_header_list_bytes: 96 * 1024,
            ping: None,
            h2_idle_timeout: Duration::from_secs(60),
            max_idle: 1024,
        }
    }
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: None,
            idle_timeout: Duration::from_secs(60),
            fresh: false,
            max_requests: None,
        }
    }
}

/// `HttpPeer::group_key`, which Pingora's pools and ours both key by: transport, protocol, and a number that is not 0 for a
/// peer that must not meet pooled connections. Pingora's own key has no ALPN in it, so the protocol must be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GroupKey {
    transport: u32,
    protocol: UpstreamProtocol,
    fresh: u32,
}

/// Numbers of fresh peers wrap here: far more than are ever in flight at once.
const FRESH_MASK: u64 = (1 << 28) - 1;

impl GroupKey {
    fn pack(self) -> u64 {
        let protocol = match self.protocol {
            UpstreamProtocol::Http1 => 0,
            UpstreamProtocol::Http2 => 1,
            UpstreamProtocol::Http2OrHttp1 => 2,
        };
        u64::from(self.transport) << 32 | protocol << 28 | u64::from(self.fresh) & FRESH_MASK
    }

    fn unpack(key: u64) -> Option<Self> {
        let protocol = match key >> 28 & 0xf {
            0 => UpstreamProtocol::Http1,
            1 => UpstreamProtocol::Http2,
            2 => UpstreamProtocol::Http2OrHttp1,
            _ => return None,
        };
        let transport = u32::try_from(key >> 32).ok()?;
        Some(Self { transport, protocol, fresh: u32::try_from(key & FRESH_MASK).ok()? })
    }
}

impl MeshConnector {
    /// A connector without connections.
    #[must_use]
    pub fn new(settings: ConnectorSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                registry: Arc::default(),
                next_fresh: AtomicU64::new(1),
                idle: IdleStreams::new(settings.max_idle),
                pools: Pools::new(settings),
            }),
        }
    }

    /// A connector with connections of its own, over the same registered transports: for one of `workers` workers, which share
    /// the limit on idle connections.
    #[must_use]
    pub fn sibling(&self, workers: NonZeroUsize) -> Self {
        let settings = self.inner.pools.settings();
        let settings = ConnectorSettings { max_idle: settings.max_idle.div_ceil(workers.get()), ..settings.clone() };
        Self {
            inner: Arc::new(Inner {
                registry: Arc::clone(&self.inner.registry),
                next_fresh: AtomicU64::new(1),
                idle: IdleStreams::new(settings.max_idle),
                pools: Pools::new(settings),
            }),
        }
    }

    /// Registers a transport, or finds the registration of an equal one. O(registrations): for building an index, not per
    /// request.
    #[must_use]
    pub fn intern(&self, transport: Transport) -> TransportRef {
        Registry::intern(&self.inner.registry, transport)
    }

    /// A peer for `upstream_peer`. `transport` must outlive the request.
    #[must_use]
    pub fn peer(
        &self,
        address: SocketAddr,
        transport: &TransportRef,
        protocol: UpstreamProtocol,
        options: &PeerOptions,
    ) -> HttpPeer {
        let fresh = if options.fresh {
            // 0 says "not fresh".
            u32::try_from((self.inner.next_fresh.fetch_add(1, Ordering::Relaxed) & FRESH_MASK).max(1)).unwrap_or(1)
        } else {
            0
        };
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.group_key = GroupKey { transport: transport.id(), protocol, fresh }.pack();
        peer.options.alpn = ALPN::Custom(CustomALPN::new(b"palisade".to_vec()));
        peer.options.total_connection_timeout = Some(options.connect_timeout);
        peer.options.read_timeout = options.read_timeout;
        // Pingora's field for its own HTTP/2 connector, which is not used; it is part of the pools' key as well.
        peer.options.max_h2_streams = options.max_requests.map_or(0, limit_of);
        // A connection under a key of its own is found by nobody: it need not wait for anybody.
        peer.options.idle_timeout = Some(if fresh == 0 { options.idle_timeout } else { Duration::ZERO });
        peer
    }

    /// Closes HTTP/2 connections that have idled for too long and forgets empty pools. Call it every few seconds.
    pub fn reap(&self) {
        self.inner.pools.reap();
    }

    /// Lets go of every HTTP/2 connection: open streams complete, later requests dial anew.
    pub fn disconnect(&self) {
        self.inner.pools.clear();
    }

    /// Open HTTP/2 connections, for metrics.
    #[must_use]
    pub fn h2_connections(&self) -> usize {
        self.inner.pools.connections()
    }

    /// Where HTTP/1 connections to the peer idle between two requests. `None`: they do not.
    fn home(&self, peer: &HttpPeer, key: GroupKey, address: SocketAddr) -> Option<Home> {
        let GroupKey { transport, protocol, fresh } = key;
        let limit = peer.options.idle_timeout.unwrap_or(PeerOptions::default().idle_timeout);
        let is_kept = protocol != UpstreamProtocol::Http2 && fresh == 0 && !limit.is_zero();
        let max_requests = peer.options.max_h2_streams;
        let key = IdleKey { address, transport, protocol, max_requests };
        is_kept.then(|| Home::new(&self.inner.idle, key, limit))
    }

    fn resolve(&self, peer: &HttpPeer) -> Result<(GroupKey, TransportRef, SocketAddr)> {
        let internal = |what: &'static str| Error::explain(ErrorType::InternalError, what);
        let key = GroupKey::unpack(peer.group_key).ok_or_else(|| internal("peer with a foreign group key"))?;
        let interned = self.inner.registry.find(key.transport).ok_or_else(|| internal("unknown transport"))?;
        let address = *peer.address().as_inet().ok_or_else(|| internal("peer without an IP address"))?;
        Ok((key, interned, address))
    }
}

fn limit_of(max: NonZeroU32) -> usize {
    usize::try_from(max.get()).unwrap_or(usize::MAX)
}

fn http_peer<P: Peer + 'static>(peer: &P) -> Result<&HttpPeer> {
    (peer as &dyn Any)
        .downcast_ref::<HttpPeer>()
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "not an HttpPeer"))
}

#[async_trait]
impl Connector for MeshConnector {
    type Session = H2Upstream;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<H2Upstream>, bool)> {
        let peer = http_peer(peer)?;
        let (key, interned, address) = self.resolve(peer)?;
        let home = self.home(peer, key, address);
        if let Some(stream) = home.as_ref().and_then(Home::take) {
            return Ok((stream.into_connection(home), false));
        }
        let limit = peer.options.total_connection_timeout.unwrap_or(PeerOptions::default().connect_timeout);
        let transport = interned.transport();
        if key.protocol == UpstreamProtocol::Http1 {
            let stream = dial::connect(address, transport, AppProtocol::Http1, limit).await?;
            return Ok((stream.into_connection(home), false));
        }
        let slot = self.inner.pools.slot(SlotKey { address, transport: key.transport });
        if slot.speaks_http1() && key.protocol == UpstreamProtocol::Http2OrHttp1 {
            // Nothing to share: every request needs a connection of its own. The answer may have changed, though.
            let stream = dial::connect(address, transport, AppProtocol::Http2, limit).await?;
            if stream.protocol() == AppProtocol::Http1 {
                return Ok((stream.into_connection(home), false));
            }
            let session =
                self.inner.pools.establish(&slot, stream, transport, limit, peer.options.max_h2_streams).await?;
            return Ok((Connection::Session(session), false));
        }
        // Whoever comes second waits here, and finds the first one's connection, or its failure.
        let dialling = slot.lock_dialling(limit).await?;
        if key.fresh == 0
            && let Some(session) = slot.open_stream(peer.options.max_h2_streams)
        {
            return Ok((Connection::Session(session), true));
        }
        let dialled = async {
            let stream = dial::connect(address, transport, AppProtocol::Http2, limit).await?;
            match (stream.protocol(), key.protocol) {
                (AppProtocol::Http2, _) => {
                    let max_requests = peer.options.max_h2_streams;
                    let session = self.inner.pools.establish(&slot, stream, transport, limit, max_requests).await?;
                    Ok(Connection::Session(session))
                }
                (AppProtocol::Http1, UpstreamProtocol::Http2) => {
                    Error::e_explain(ErrorType::TLSHandshakeFailure, format!("{address} did not negotiate HTTP/2"))
                }
                (AppProtocol::Http1, _) => {
                    slot.remember_http1();
                    Ok(stream.into_connection(home))
                }
            }
        }
        .await;
        dialling.end(dialled.as_ref().err().map(AsRef::as_ref));
        dialled.map(|connection| (connection, false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Option<H2Upstream> {
        let peer = http_peer(peer).ok()?;
        let key = GroupKey::unpack(peer.group_key)?;
        if key.protocol == UpstreamProtocol::Http1 || key.fresh != 0 {
            return None; // Pingora looks into its own HTTP/1 pool next, which is empty: see `Home`.
        }
        let address = *peer.address().as_inet()?;
        let slot = self.inner.pools.find(&SlotKey { address, transport: key.transport })?;
        slot.open_stream(peer.options.max_h2_streams)
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: H2Upstream,
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
        drop(session); // gives the stream back to its connection
    }
}
