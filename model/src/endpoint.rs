//! Endpoints: the addresses behind a service port. They change most, so they are resources of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{identity::SpiffeId, settings::WorkloadRef};

/// The endpoints of one port of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// `HOST|PORT` with the service port.
    pub key: Arc<str>,
    /// In canonical order (by address).
    pub endpoints: Arc<[Endpoint]>,
    /// SPIFFE ids of the workloads behind the service; what a mesh server may present.
    pub identities: BTreeSet<SpiffeId>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Relative weight, at least 1.
    pub weight: u32,
    /// 0 is used first; higher numbers when the lower ones are not healthy.
    pub priority: u32,
    /// Health as the registry sees it.
    pub health: EndpointHealth,
    /// The workload's labels, as far as subsets select by them.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `REGION/ZONE/SUBZONE`; `None` = unknown.
    pub locality: Option<Arc<str>>,
    /// What terminates mesh TLS there.
    pub peer: PeerProxy,
    /// The pod behind it, if there is one.
    pub workload: Option<WorkloadRef>,
}

/// An endpoint's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// IP and port.
    Socket(SocketAddr),
    /// Unix socket path.
    Unix(Arc<str>),
    /// Host name and port, resolved by the proxy: each of its addresses is an endpoint (ServiceEntry `DNS`).
    Name(Arc<str>, u16),
    /// Host name and port, resolved by the proxy: a new connection goes to the first address of the latest answer
    /// (ServiceEntry `DNS_ROUND_ROBIN`).
    LogicalName(Arc<str>, u16),
}

/// Health as the registry sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointHealth {
    /// Takes traffic.
    Healthy,
    /// Known and not ready: takes none, and counts as present.
    Unhealthy,
    /// Going away: keeps sessions, takes no new ones.
    Draining,
}

/// What answers at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerProxy {
    /// No sidecar: plaintext unless the cluster says otherwise.
    None,
    /// A sidecar that speaks mesh TLS exactly as Istio's does.
    Istio,
    /// A Palisade sidecar: HTTP/1.1 requests may ride HTTP/2 and come out as HTTP/1.1.
    Palisade,
}
