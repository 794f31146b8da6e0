//! Services as a sidecar's outbound side knows them, and answers to "do you know this name or address?".

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::listener::Protocol;

/// A destination that the application may name or dial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Fully qualified host name; unique in a snapshot.
    pub host: Arc<str>,
    /// Namespace of the Service or ServiceEntry.
    pub namespace: Arc<str>,
    /// Virtual addresses; empty for headless services.
    pub addresses: Arc<[IpAddr]>,
    /// Headless: names resolve to the endpoints' own addresses.
    pub is_headless: bool,
    /// Names that DNS answers with this service, fully qualified, lower-case, without trailing dot. With the pod host
    /// names of headless services: name and addresses.
    pub names: Arc<[DnsName]>,
    /// Its ports.
    pub ports: Arc<[ServicePort]>,
    /// It lies outside the mesh: egress policies decide who may reach it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_external: bool,
}

/// A DNS name and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DnsName {
    /// Fully qualified, lower-case, without trailing dot.
    pub name: Arc<str>,
    /// A and AAAA records.
    pub addresses: Arc<[IpAddr]>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The service port.
    pub port: u16,
    /// What it carries.
    pub protocol: Protocol,
    /// Route table for HTTP: `outbound:PORT` where HTTP is declared (the authority decides among all services of that
    /// port), `outbound:HOST:PORT` for auto-detected ports; `None` for TCP and TLS.
    pub table: Option<Arc<str>>,
    /// Keys of L4 routes in order, for bytes that are not HTTP; the last takes everything.
    pub l4_routes: Arc<[Arc<str>]>,
    /// Connections to this port at an address that no service has are the service's: TLS where its server name names the
    /// service, other bytes always. At most one service of a snapshot has it for each port that does not carry TLS.
    pub takes_any_address: bool,
}

/// What a proxy may ask its control plane about (architecture rule 6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// A host name: lower-case, no port, no trailing dot.
    Host(Arc<str>),
    /// An address that the application dialled.
    Address(IpAddr),
}

/// The answer to a query: present in a snapshot = known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// What was asked.
    pub query: Query,
    /// Hosts of the services that it names, all of them in the same snapshot; empty = known not to exist.
    pub services: Arc<[Arc<str>]>,
}

/// A route for opaque bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L4Route {
    /// Unique key, for example `VirtualService/NS/NAME/tcp/0`.
    pub key: Arc<str>,
    /// `KIND NS/NAME` of the user's object.
    pub source: Arc<str>,
    /// Index in the source document's own list.
    pub rule: u32,
    /// Index of the alternative in the source document.
    pub alternative: u32,
    /// SNI patterns; empty = any connection (also without TLS).
    pub sni: Arc<[crate::host::HostPattern]>,
    /// Destination networks; empty = any.
    pub destinations: Arc<[ipnet::IpNet]>,
    /// Weighted clusters.
    pub backends: Arc<[L4Backend]>,
}

/// One weighted backend of an L4 route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L4Backend {
    /// Cluster name, given even when no such cluster exists.
    pub cluster: Arc<str>,
    /// The cluster does not exist: the connection is reset.
    pub is_missing: bool,
    /// Weight, at least 1.
    pub weight: u32,
}
