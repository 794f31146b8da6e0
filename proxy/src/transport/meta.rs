//! What the accept loop and the connector know about a connection, reachable in every phase of a request.

use std::any::Any;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use palisade_model::identity::SpiffeId;
use pingora_core::protocols::Digest;
use pingora_proxy::Session;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::stream::{Refusal, Shared};

/// Facts about one connection, downstream or upstream, fixed when it was established.
#[derive(Clone)]
pub struct ConnMeta {
    /// The other end. Downstream: the client, as trusted (the socket's peer, or what the PROXY protocol said).
    pub peer: SocketAddr,
    /// This end.
    pub local: SocketAddr,
    /// Where a redirected connection was going before it was redirected to us.
    pub original_dst: Option<SocketAddr>,
    /// TLS facts; `None`: plaintext.
    pub tls: Option<TlsFacts>,
    /// The owner's own data, for example the pinned listener and the connection's id. See [`ConnMeta::owner`].
    pub owner: Option<Arc<dyn Any + Send + Sync>>,
    /// When it was established.
    pub since: Instant,
}

/// What the TLS handshake established.
#[derive(Debug, Clone, Default)]
pub struct TlsFacts {
    /// Server name asked for, lower case. Upstream: the one we sent.
    pub sni: Option<Arc<str>>,
    /// Protocols offered by the client, in its order. Upstream: our offer.
    pub offered_alpn: Arc<[Vec<u8>]>,
    /// Protocol chosen; `None`: none was.
    pub negotiated_alpn: Option<Vec<u8>>,
    /// The peer's certificate, verified by the handshake; `None`: it presented none.
    pub peer: Option<Arc<PeerCertificate>>,
    /// Whether the handshake resumed an earlier one. `peer` is then the earlier handshake's.
    pub resumed: bool,
}

/// The names in a peer's leaf certificate. That the chain is trusted is the TLS handshake's claim, not this type's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The mesh identity: set if the leaf has exactly one `spiffe://` URI and it has the mesh's form.
    pub spiffe: Option<SpiffeId>,
    /// All URI names, as written.
    pub uris: Vec<String>,
    /// All DNS names, as written.
    pub dns: Vec<String>,
    /// The subject, in RFC 4514 order of the certificate.
    pub subject: String,
    /// The leaf, DER.
    pub leaf: Vec<u8>,
}

/// Why a certificate's names cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeerCertificate {
    /// No certificate in the chain.
    #[error("the chain is empty")]
    Empty,
    /// Not an X.509 certificate, or a malformed subject alternative name.
    #[error("the leaf certificate cannot be read: {0}")]
    Malformed(String),
}

/// What a stream carries through Pingora's digest.
pub(crate) struct Attached {
    pub(crate) meta: ConnMeta,
    pub(crate) stream: Weak<Shared>,
}

impl ConnMeta {
    /// A plaintext connection without an original destination.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, original_dst: None, tls: None, owner: None, since: Instant::now() }
    }

    /// The owner's data, if it is a `T`.
    #[must_use]
    pub fn owner<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.owner.as_ref()?.downcast_ref()
    }

    /// The peer's verified certificate, if it presented one.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.tls.as_ref()?.peer.as_deref()
    }

    /// The peer's mesh identity, if it proved one.
    #[must_use]
    pub fn peer_identity(&self) -> Option<&SpiffeId> {
        self.peer_certificate()?.spiffe.as_ref()
    }
}

impl TlsFacts {
    /// Facts of a completed server-side handshake. `offered_alpn` is the client's offer, which rustls shows only before it.
    ///
    /// # Errors
    /// [`InvalidPeerCertificate`] when the client's certificate cannot be read: refuse the connection.
    pub fn of_server(
        connection: &rustls::ServerConnection,
        offered_alpn: Arc<[Vec<u8>]>,
    ) -> Result<Self, InvalidPeerCertificate> {
        Ok(Self {
            sni: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
            offered_alpn,
            negotiated_alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            peer: names_of(connection.peer_certificates())?,
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        })
    }

    pub(crate) fn of_client(
        connection: &rustls::ClientConnection,
        sni: Option<Arc<str>>,
        offered_alpn: Arc<[Vec<u8>]>,
    ) -> Result<Self, InvalidPeerCertificate> {
        Ok(Self {
            sni,
            offered_alpn,
            negotiated_alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            peer: names_of(connection.peer_certificates())?,
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        })
    }
}

fn names_of(chain: Option<&[CertificateDer<'_>]>) -> Result<Option<Arc<PeerCertificate>>, InvalidPeerCertificate> {
    match chain {
        None => Ok(None),
        Some(chain) => Ok(Some(Arc::new(PeerCertificate::from_chain(chain)?))),
    }
}

impl PeerCertificate {
    /// Reads the names of the chain's leaf, its first certificate.
    ///
    /// # Errors
    /// [`InvalidPeerCertificate`] when there is none or it is malformed.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, InvalidPeerCertificate> {
        let leaf = chain.first().ok_or(InvalidPeerCertificate::Empty)?;
        let malformed = |e: String| InvalidPeerCertificate::Malformed(e);
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| malformed(e.to_string()))?;
        let (mut uris, mut dns) = (Vec::new(), Vec::new());
        if let Some(names) = certificate.subject_alternative_name().map_err(|e| malformed(e.to_string()))? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                    _ => {}
                }
            }
        }
        let mut spiffe = uris.iter().filter(|uri| uri.starts_with("spiffe://"));
        // SPIFFE X.509-SVID section 2: exactly one URI SAN; two identities are no identity.
        let spiffe = match (spiffe.next(), spiffe.next()) {
            (Some(only), None) => only.parse().ok(),
            _ => None,
        };
        Ok(Self { spiffe, uris, dns, subject: certificate.subject().to_string(), leaf: leaf.to_vec() })
    }
}

impl std::fmt::Debug for ConnMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnMeta")
            .field("peer", &self.peer)
            .field("local", &self.local)
            .field("original_dst", &self.original_dst)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

pub(crate) fn attached(digest: &Digest) -> Option<&Attached> {
    digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// Facts about the connection that a digest belongs to. `None`: not one of our streams.
///
/// For the upstream, pass the `digest` argument of `connected_to_upstream`.
#[must_use]
pub fn conn_meta(digest: &Digest) -> Option<&ConnMeta> {
    attached(digest).map(|attached| &attached.meta)
}

/// Facts about the client's connection, in any phase. `None`: not one of our streams (a subrequest).
#[must_use]
pub fn downstream_meta(session: &Session) -> Option<&ConnMeta> {
    conn_meta(session.digest()?)
}

/// Counts a request on an HTTP/1 upstream connection, which is closed once it has carried `limit` of them. Whether this is the last.
///
/// For `connected_to_upstream`, with that call's `digest`. HTTP/2 connections count for themselves.
pub fn count_request(digest: &Digest, limit: NonZeroU32) -> bool {
    let stream = attached(digest).and_then(|attached| attached.stream.upgrade());
    stream.is_some_and(|stream| stream.count_request(limit))
}

/// Whether the client's bytes broke the protocol in the middle of an HTTP/1 request: answer 400.
#[must_use]
pub fn is_malformed(session: &Session) -> bool {
    let stream = session.digest().and_then(attached).and_then(|attached| attached.stream.upgrade());
    stream.is_some_and(|stream| matches!(stream.refusal(), Some((Refusal::Malformed(_), _))))
}

/// The target of an HTTP/1 request as it came, where Pingora was shown `/` in its place because it would have changed it.
/// Worth asking only where the request's path is `/`.
#[must_use]
pub fn odd_target(session: &Session) -> Option<Bytes> {
    attached(session.digest()?)?.stream.upgrade()?.odd_target()
}
