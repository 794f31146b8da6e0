//! What to run, as the documents say: pods, gateways, addresses and names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

mod build;
mod environment;

pub(super) use build::read;
pub(super) use environment::expand;

/// Everything that runs. Equal documents give equal plans.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    pub(super) pods: Vec<PodPlan>,
    pub(super) gateways: Vec<GatewayPlan>,
    pub(super) services: Vec<ServicePlan>,
    /// By fully qualified name, without the last dot.
    pub(super) names: BTreeMap<String, NamePlan>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodId {
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodPlan {
    pub(super) id: PodId,
    /// Empty: none is written.
    pub(super) uid: String,
    /// The first is the primary one.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) service_account: String,
    /// `None`: the pod's name.
    pub(super) hostname: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// A sidecar runs beside it.
    pub(super) is_injected: bool,
    pub(super) containers: Vec<ContainerPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerPlan {
    pub(super) name: String,
    pub(super) image: String,
    /// Empty: the image's own.
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Why it cannot start: a variable's source that is not there.
    pub(super) lacks: Option<String>,
    /// Ports that it says it listens on.
    pub(super) ports: Vec<u16>,
}

/// One gateway process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GatewayPlan {
    /// `NS/NAME` of the Gateway, or of the pod that an Istio Gateway's selector stands for.
    pub(super) name: String,
    /// The pod that the process is.
    pub(super) pod: PodId,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) service_account: String,
    /// Serves one Gateway API Gateway; else the Istio Gateways that select the pod.
    pub(super) is_gateway_api: bool,
    /// Declared ports, each with the one that the process binds for it.
    pub(super) ports: BTreeMap<u16, u16>,
}

/// One port of one virtual address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePlan {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) transport: Transport,
    /// Empty: connections are refused.
    pub(super) endpoints: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamePlan {
    Addresses(Vec<IpAddr>),
    /// Another name, fully qualified; it may be the mesh's or not.
    Alias(String),
}

impl std::fmt::Display for PodId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}
