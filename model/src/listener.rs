//! Where traffic enters: a gateway's listeners and a pod's inbound ports.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::host::HostPattern;

/// A gateway's listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `ADDRESS:PORT` of the socket; unique in a snapshot.
    pub key: Arc<str>,
    /// Address to bind; `None` = all.
    pub address: Option<IpAddr>,
    /// The port that the socket is bound to (the pod's port).
    pub port: u16,
    /// The port that the Gateway document declares, which routes are matched against.
    pub declared_port: u16,
    /// Chains, the first whose SNI takes the connection serves it: most specific first.
    pub chains: Arc<[Chain]>,
    /// Key of the policy set that judges everything that enters here.
    pub policies: Arc<str>,
    /// A request inside TLS whose authority another chain of this socket takes, and more closely than its own, answers 421
    /// (Gateway API, GEP-3567).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detects_misdirected: bool,
    /// It takes datagrams (UDP), not connections: its one chain is of opaque bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_udp: bool,
}

/// How one kind of connection on a listener is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The user's name for it (`servers[].name`, listener name), for logs.
    pub name: Arc<str>,
    /// SNI names that the chain takes; empty = every connection, TLS or not.
    pub sni: Arc<[HostPattern]>,
    /// TLS termination; `None` = plaintext (or untouched TLS bytes for [`ChainHandler::Tcp`]).
    pub tls: Option<ServerTls>,
    /// What happens to the bytes.
    pub handler: ChainHandler,
}

/// What a chain does with a connection once it is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainHandler {
    /// HTTP: the first host pattern (most specific first) that takes the authority names the route table.
    Http {
        /// Host patterns of the listeners that share this chain, with each one's route table.
        tables: Arc<[(HostPattern, Arc<str>)]>,
    },
    /// Opaque bytes to the first L4 route that takes the connection.
    Tcp {
        /// Keys of L4 routes in order.
        routes: Arc<[Arc<str>]>,
    },
    /// SNI of the form `outbound_.PORT_.SUBSET_.HOST` names the cluster; only with Istio's ALPN offers; no authorization.
    AutoPassthrough,
    /// Every connection is closed: the document asks for something that cannot be served safely.
    Refuse {
        /// Why, for logs.
        message: Arc<str>,
    },
}

/// TLS termination at a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTls {
    /// Whose certificate is shown and what is asked of the client.
    pub mode: ServerTlsMode,
    /// Lowest protocol version.
    pub min_version: TlsVersion,
    /// Highest protocol version.
    pub max_version: TlsVersion,
    /// ALPN protocols in order of preference.
    pub alpn: Arc<[Arc<str>]>,
    /// What the handshake may use.
    #[serde(default, skip_serializing_if = "TlsAlgorithms::is_default")]
    pub algorithms: TlsAlgorithms,
}

/// Certificates of a terminating chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerTlsMode {
    /// The user's certificates by secret key. A key without a secret in the snapshot fails the handshake.
    Secrets {
        /// Secret keys, for example one RSA and one ECDSA pair.
        certificates: Arc<[Arc<str>]>,
        /// Client certificates, if asked for.
        client: Option<ClientValidation>,
    },
    /// The mesh certificate; client certificates of the mesh are required (`ISTIO_MUTUAL`).
    Mesh,
}

/// What a gateway asks of client certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientValidation {
    /// Key of the secret that holds the CA bundle. Without that secret in the snapshot every handshake fails.
    pub ca: Arc<str>,
    /// `false`: a client without a certificate is accepted, a wrong one is not.
    pub is_required: bool,
    /// Accepted subject alternative names; empty = any that the CA vouches for.
    pub subject_alt_names: Arc<[Arc<str>]>,
    /// A client whose certificate is wrong is accepted as one that has none (Gateway API, `AllowInsecureFallback`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tolerates_invalid: bool,
}

/// TLS protocol versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// What TLS handshakes may use, of all that is spoken. By default everything: all of it is safe.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TlsAlgorithms {
    /// Cipher suites of TLS 1.2 by OpenSSL's names; those that are not spoken count as well. Empty = all. Suites of TLS 1.3 are no
    /// matter of this.
    pub cipher_suites: Arc<[Arc<str>]>,
    /// Curves of the key exchange: `X25519`, `P-256`, `P-384`; those that are not spoken count as well. Empty = all.
    pub curves: Arc<[Arc<str>]>,
}

/// The cipher suites of TLS 1.2 that are spoken, by OpenSSL's names.
pub const SPOKEN_CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// The curves that are spoken.
pub const SPOKEN_CURVES: [&str; 3] = ["X25519", "P-256", "P-384"];

/// Bounds of TLS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TlsLimits {
    /// Lowest protocol version.
    pub min_version: TlsVersion,
    /// What handshakes may use.
    pub algorithms: TlsAlgorithms,
}

impl TlsAlgorithms {
    /// Whether nothing is left out.
    pub fn is_default(&self) -> bool {
        let Self { cipher_suites, curves } = self;
        cipher_suites.is_empty() && curves.is_empty()
    }
}

impl Default for TlsLimits {
    /// TLS 1.2 and everything.
    fn default() -> Self {
        Self { min_version: TlsVersion::V1_2, algorithms: TlsAlgorithms::default() }
    }
}

impl TlsLimits {
    /// Whether these are the bounds of those who set none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a port carries (Kubernetes port name or `appProtocol`; istio-semantics 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 (HTTP/2 is understood as well).
    Http,
    /// HTTP/2, gRPC included.
    Http2,
    /// Opaque bytes (TLS and HTTPS included).
    Tcp,
    /// TLS bytes, routed by SNI.
    Tls,
    /// Not declared: the first bytes decide.
    Auto,
}

/// One inbound port of a pod, or all the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundPort {
    /// The pod's port; `None` = every port that has no entry of its own (`InboundPassthroughCluster`).
    pub port: Option<u16>,
    /// What it carries.
    pub protocol: Protocol,
    /// Which connections are accepted.
    pub mtls: MtlsMode,
    /// Cluster that the connection is handed to.
    pub cluster: Arc<str>,
    /// Host name of the Service that declares the port, if one does.
    pub service: Option<Arc<str>>,
    /// Key of the policy set.
    pub policies: Arc<str>,
}

/// PeerAuthentication modes after inheritance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MtlsMode {
    /// Plaintext only; TLS bytes are the application's own.
    Disable,
    /// Both, told apart by the client's ALPN offer.
    Permissive,
    /// Mesh mutual TLS only.
    Strict,
}
