//! How endpoints are reached, interned: equal ways have one number, and connections are shared by that number.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use ahash::AHashMap;
use parking_lot::RwLock;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::ConnectionOptions;

/// How to reach an endpoint, address aside: requests share connections only where all of it is equal.
#[derive(Clone)]
pub struct Transport {
    /// TLS; `None`: plaintext.
    pub tls: Option<TlsTransport>,
    /// Source address of the connection, for example 127.0.0.6 in front of a sidecar's own application.
    pub source: Option<IpAddr>,
    /// Firewall mark (`SO_MARK`), which needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// Settings of its connections.
    pub options: Arc<ConnectionOptions>,
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

/// A transport's registration. Peers made from it connect only while a clone of it lives.
#[derive(Clone)]
pub struct TransportRef(Arc<Interned>);

struct Interned {
    id: u32,
    transport: Transport,
    registry: Weak<Registry>,
}

#[derive(Default)]
pub(super) struct Registry {
    next_id: AtomicU32,
    by_id: RwLock<AHashMap<u32, Weak<Interned>>>,
}

impl Transport {
    /// Plaintext from any source address.
    #[must_use]
    pub fn plaintext() -> Self {
        Self { tls: None, source: None, mark: None, options: Arc::default() }
    }

    /// Whether two transports may share connections: equal values, and the very same TLS configurations.
    fn is_same(&self, other: &Self) -> bool {
        let Self { tls, source, mark, options } = self;
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
        same_tls && *source == other.source && *mark == other.mark && *options == other.options
    }
}

impl TransportRef {
    /// What was interned.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id
    }
}

impl Registry {
    pub(super) fn intern(this: &Arc<Self>, transport: Transport) -> TransportRef {
        // Outlives the lock: dropping the last reference to one of them takes the lock again.
        let registered: Vec<Arc<Interned>>;
        let mut by_id = this.by_id.write();
        registered = by_id.values().filter_map(Weak::upgrade).collect();
        if let Some(known) = registered.iter().find(|known| known.transport.is_same(&transport)) {
            return TransportRef(Arc::clone(known));
        }
        let id = loop {
            // Ids come round again after 2^32 registrations; one that is still in use is passed over.
            let id = this.next_id.fetch_add(1, Ordering::Relaxed);
            if !by_id.contains_key(&id) {
                break id;
            }
        };
        let interned = Arc::new(Interned { id, transport, registry: Arc::downgrade(this) });
        by_id.insert(id, Arc::downgrade(&interned));
        TransportRef(interned)
    }

    pub(super) fn find(&self, id: u32) -> Option<TransportRef> {
        self.by_id.read().get(&id).and_then(Weak::upgrade).map(TransportRef)
    }
}

impl Drop for Interned {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.by_id.write().remove(&self.id);
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("server_name", &self.tls.as_ref().map(|tls| &tls.server_name))
            .field("source", &self.source)
            .field("mark", &self.mark)
            .field("options", &self.options)
            .finish()
    }
}

impl fmt::Debug for TransportRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransportRef").field(&self.0.id).field(&self.0.transport).finish()
    }
}
