//! Where traffic goes: clusters, and how their endpoints are reached.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::listener::{TlsAlgorithms, TlsVersion};

mod traffic;

pub use traffic::{
    Closeness, ConnectionPolicy, Failover, Limits, LocalityPolicy, LocalityShare, OutlierDetection, Ping,
    ProxyProtocol, RetryBudget, TrafficPolicy, Warmup, locality_matches,
};

/// One upstream, named as Istio users know it: `outbound|PORT|SUBSET|HOST`, `inbound|PORT||`, `PassthroughCluster`,
/// `InboundPassthroughCluster`, `BlackHoleCluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Unique name.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// What is spoken to them.
    pub protocol: UpstreamProtocol,
    /// How they are secured.
    pub tls: UpstreamTls,
    /// How one is chosen.
    pub load_balancer: LoadBalancer,
    /// TCP connect, then TLS handshake: each at most this long.
    pub connect_timeout: Duration,
    /// Requests on one connection before it is closed; 0 = unlimited.
    pub max_requests_per_connection: u32,
    /// TCP keepalive on upstream connections; `None` = off.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Idle time after which a pooled connection is closed; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Limits, health and preferences.
    pub traffic: TrafficPolicy,
    /// It lies outside the mesh: egress policies decide who may reach it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_external: bool,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// An [`Endpoints`](crate::endpoint::Endpoints) resource, narrowed to endpoints that carry all these labels.
    Endpoints {
        /// Key of the resource.
        key: Arc<str>,
        /// Subset labels; empty = all endpoints.
        subset: BTreeMap<Arc<str>, Arc<str>>,
    },
    /// The address that the client dialled.
    OriginalDestination,
    /// The address that the client dialled, on this port.
    OriginalAddress {
        /// The port to connect to.
        port: u16,
    },
    /// The pod itself: the address that was dialled, on this port, from `127.0.0.6` or `::6`; `None` = the dialled port.
    Workload {
        /// The pod's port.
        port: Option<u16>,
    },
    /// The host that the request, or the server name of the client's TLS, names: resolved by the proxy, on this port
    /// (`DYNAMIC_DNS`).
    DynamicName {
        /// The port to connect to.
        port: u16,
    },
    /// Nowhere: connections are closed, requests answered 502.
    BlackHole,
}

/// What is spoken upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the client spoke.
    Client,
    /// Opaque bytes.
    Tcp,
}

/// TLS towards a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamTls {
    /// Plaintext.
    Off,
    /// Mesh mutual TLS to endpoints that have a sidecar, plaintext to the others (auto-mTLS).
    Auto(MeshTls),
    /// Mesh mutual TLS to every endpoint (`ISTIO_MUTUAL`).
    Mesh(MeshTls),
    /// TLS origination (`SIMPLE`, `MUTUAL`).
    Originate(Originate),
    /// Every connection is refused: the document asks for TLS that cannot be built, and plaintext would weaken it.
    Refuse {
        /// Why, for logs.
        message: Arc<str>,
    },
}

/// Mesh mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshTls {
    /// `outbound_.PORT_.SUBSET_.HOST`, or what the document says.
    pub sni: Arc<str>,
    /// Subject alternative names of which the server must present one, as written in a document; empty = the SPIFFE ids
    /// of the service's endpoints; with neither known only the chain is checked.
    pub subject_alt_names: Arc<[Arc<str>]>,
}

/// TLS origination towards servers outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Originate {
    /// SNI; `None` = the request's host.
    pub sni: Option<Arc<str>>,
    /// Accepted names; empty: the certificate must match the SNI taken from the host; with `sni` written and no names
    /// only the chain is checked (Istio).
    pub subject_alt_names: Arc<[Arc<str>]>,
    /// Secret or file key of the CA bundle; `None` = the system's roots.
    pub ca: Option<Arc<str>>,
    /// Secret key of the client certificate (`MUTUAL`).
    pub client_certificate: Option<Arc<str>>,
    /// Nothing is checked (`insecureSkipVerify`).
    pub skip_verify: bool,
    /// Lowest protocol version.
    pub min_version: TlsVersion,
    /// What handshakes may use.
    #[serde(default, skip_serializing_if = "TlsAlgorithms::is_default")]
    pub algorithms: TlsAlgorithms,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancer {
    /// The one with fewer requests in flight of this many drawn at random.
    LeastRequest {
        /// Draws, at least 2.
        choices: u32,
    },
    /// Weighted, in turn.
    RoundRobin,
    /// Weighted, at random.
    Random,
    /// The address that was dialled.
    Passthrough,
    /// The same key goes to the same endpoint, at every proxy.
    ConsistentHash {
        /// What is hashed.
        key: HashKey,
        /// How the hash leads to an endpoint.
        table: HashTable,
    },
}

/// What of a request is hashed. Without it in the request: a random endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// Nothing.
    Nothing,
    /// The values of a header.
    Header {
        /// Name, lower-case.
        name: Arc<str>,
    },
    /// The value of a cookie.
    Cookie {
        /// Name.
        name: Arc<str>,
        /// Path of a generated cookie; empty = none.
        path: Arc<str>,
        /// Life of a generated cookie, zero = the session; `None` = none is generated.
        ttl: Option<Duration>,
        /// Further attributes of a generated cookie; an empty value is an attribute without one.
        attributes: Arc<[(Arc<str>, Arc<str>)]>,
    },
    /// The client's address.
    SourceIp,
    /// The value of a query parameter.
    Query {
        /// Name.
        name: Arc<str>,
    },
}

/// How a hash leads to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashTable {
    /// Points on a circle (Ketama).
    Ring {
        /// At least so many points.
        minimum_size: u64,
    },
    /// Maglev.
    Maglev {
        /// Entries: a prime.
        size: u32,
    },
}

/// TCP keepalive settings; `None` = the kernel's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpKeepalive {
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Probes before the connection is given up.
    pub probes: Option<u32>,
}
