//! The upstream connector: interned transports, pooled HTTP/1, multiplexed HTTP/2 dialled once however many ask.

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use async_trait::async_trait;
use parking_lot::RwLock;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CustomALPN;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, Result};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

mod dial;
mod pool;
mod request;
mod retry;
mod session;

use pool::{Pools, SlotKey};
pub use retry::retry_is_safe;
pub(crate) use session::H2Upstream;

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
}

/// How to reach an endpoint, address aside: requests share connections only where all of it is equal.
#[derive(Clone)]
pub struct Transport {
    /// TLS; `None`: plaintext.
    pub tls: Option<TlsTransport>,
    /// Source address of the connection, for example 127.0.0.6 in front of a sidecar's own application.
    pub source: Option<IpAddr>,
    /// Firewall mark (`SO_MARK`), which needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// The TLS half of a [`Transport`].
///
/// One configuration per own certificate generation, accepted peer identities and trust bundle: sessions resume across
/// requests that share it, so two sets of identities must never do so. `h1` and `h2` are clones of one configuration that
/// differ in their ALPN offer.
#[derive(Clone)]
pub struct TlsTransport {
    /// For [`UpstreamProtocol::Http1`].
    pub h1: Arc<ClientConfig>,
    /// For the other protocols.
    pub h2: Arc<ClientConfig>,
    /// Sent as SNI if it is a DNS name. Whether the certificate must match it is the configuration's verifier's business.
    pub server_name: ServerName<'static>,
    /// ALPN identifiers that stand for HTTP/2 beside `h2`, for example `istio-h2`. Any other means HTTP/1.
    pub h2_alpn: Arc<[Vec<u8>]>,
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
    /// Use no pooled connection: for a retry after one of them proved stale, since its neighbours may be so too.
    pub fresh: bool,
}

/// A transport's registration. Peers made from it connect only while a clone of it lives.
#[derive(Clone)]
pub struct TransportRef(Arc<Interned>);

struct Interned {
    id: u32,
    transport: Transport,
    registry: Weak<Registry>,
}

#[derive(Default)]
struct Registry {
    by_id: RwLock<AHashMap<u32, Weak<Interned>>>,
}

/// The connector. Clones share everything.
#[derive(Clone)]
pub struct MeshConnector {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    next_id: AtomicU64,
    next_fresh: AtomicU64,
    pools: Pools,
}

impl Default for ConnectorSettings {
    fn default() -> Self {
        Self {
            windows: H2Windows::default(),
            max_header_list_bytes: 96 * 1024,
            ping: None,
            h2_idle_timeout: Duration::from_secs(60),
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
        }
    }
}

impl Transport {
    /// Plaintext from any source address.
    #[must_use]
    pub fn plaintext() -> Self {
        Self { tls: None, source: None, mark: None }
    }

    /// Whether two transports may share connections: equal values, and the very same TLS configurations.
    fn is_same(&self, other: &Self) -> bool {
        let Self { tls, source, mark } = self;
        let same_tls = match (tls, &other.tls) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let TlsTransport { h1, h2, server_name, h2_alpn } = a;
                Arc::ptr_eq(h1, &b.h1)
                    && Arc::ptr_eq(h2, &b.h2)
                    && *server_name == b.server_name
                    && *h2_alpn == b.h2_alpn
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        same_tls && *source == other.source && *mark == other.mark
    }
}

impl TransportRef {
    /// What was interned.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }
}

impl Drop for Interned {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.by_id.write().remove(&self.id);
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
                next_id: AtomicU64::new(1),
                next_fresh: AtomicU64::new(1),
                pools: Pools::new(settings),
            }),
        }
    }

    /// Registers a transport, or finds the registration of an equal one. O(registrations): for building an index, not per
    /// request.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn intern(&self, transport: Transport) -> TransportRef {
        let mut by_id = self.inner.registry.by_id.write();
        let known = by_id.values().filter_map(Weak::upgrade).find(|known| known.transport.is_same(&transport));
        if let Some(known) = known {
            return TransportRef(known);
        }
        let id = loop {
            // Ids come round again after 2^32 registrations; one that is still in use is passed over.
            let id = u32::try_from(self.inner.next_id.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX));
            match id {
                Ok(id) if !by_id.contains_key(&id) => break id,
                _ => {}
            }
        };
        let registry = Arc::downgrade(&self.inner.registry);
        let interned = Arc::new(Interned { id, transport, registry });
        by_id.insert(id, Arc::downgrade(&interned));
        TransportRef(interned)
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
        peer.group_key = GroupKey { transport: transport.0.id, protocol, fresh }.pack();
        peer.options.alpn = ALPN::Custom(CustomALPN::new(b"palisade".to_vec()));
        peer.options.total_connection_timeout = Some(options.connect_timeout);
        peer.options.read_timeout = options.read_timeout;
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

    fn resolve(&self, peer: &HttpPeer) -> Result<(GroupKey, Arc<Interned>, SocketAddr)> {
        let internal = |what: &'static str| Error::explain(ErrorType::InternalError, what);
        let key = GroupKey::unpack(peer.group_key).ok_or_else(|| internal("peer with a foreign group key"))?;
        let by_id = self.inner.registry.by_id.read();
        let interned =
            by_id.get(&key.transport).and_then(Weak::upgrade).ok_or_else(|| internal("unknown transport"))?;
        let address = *peer.address().as_inet().ok_or_else(|| internal("peer without an IP address"))?;
        Ok((key, interned, address))
    }
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
        let limit = peer.options.total_connection_timeout.unwrap_or(PeerOptions::default().connect_timeout);
        let transport = &interned.transport;
        if key.protocol == UpstreamProtocol::Http1 {
            let stream = dial::connect(address, transport, AppProtocol::Http1, limit).await?;
            return Ok((Connection::Stream(Box::new(stream)), false));
        }
        let slot = self.inner.pools.slot(SlotKey { address, transport: key.transport });
        // Whoever comes second waits here, and finds the first one's connection.
        let _dialling = slot.lock_dialling().await;
        if key.fresh == 0
            && let Some(session) = slot.open_stream()
        {
            return Ok((Connection::Session(session), true));
        }
        let stream = dial::connect(address, transport, AppProtocol::Http2, limit).await?;
        if stream.protocol() == AppProtocol::Http2 {
            let session = self.inner.pools.establish(&slot, stream, transport.tls.is_some(), limit).await?;
            return Ok((Connection::Session(session), false));
        }
        if key.protocol == UpstreamProtocol::Http2 {
            return Error::e_explain(ErrorType::TLSHandshakeFailure, format!("{address} did not negotiate HTTP/2"));
        }
        Ok((Connection::Stream(Box::new(stream)), false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Option<H2Upstream> {
        let peer = http_peer(peer).ok()?;
        let key = GroupKey::unpack(peer.group_key)?;
        if key.protocol == UpstreamProtocol::Http1 || key.fresh != 0 {
            return None; // Pingora looks into its own HTTP/1 pool next.
        }
        let address = *peer.address().as_inet()?;
        self.inner.pools.find(&SlotKey { address, transport: key.transport })?.open_stream()
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

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("server_name", &self.tls.as_ref().map(|tls| &tls.server_name))
            .field("source", &self.source)
            .field("mark", &self.mark)
            .finish()
    }
}

impl fmt::Debug for TransportRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransportRef").field(&self.0.id).field(&self.0.transport).finish()
    }
}

#[cfg(test)]
mod tests;
