//! Kubernetes core objects as compiling reads them: addresses, ports, labels and readiness, nothing else.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    inputs::GatewayKind,
    object::{Object, ObjectKey},
};

/// A namespace; one that no document declares has no labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A Kubernetes Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Virtual addresses; empty for headless services and aliases.
    pub addresses: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub is_headless: bool,
    /// Target of an ExternalName service.
    pub external_name: Option<String>,
    /// Pods behind it; empty = endpoints are written by someone else.
    pub selector: BTreeMap<String, String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Not ready pods count as ready.
    pub publish_not_ready: bool,
    /// `trafficDistribution`, or the annotation `networking.istio.io/traffic-distribution`; empty = none.
    pub traffic_distribution: String,
    /// `internalTrafficPolicy: Local`.
    pub is_local_only: bool,
    /// External addresses (`status.loadBalancer`, `externalIPs`), by which a gateway's Service is reached.
    pub external_addresses: Vec<IpAddr>,
    /// External names (`status.loadBalancer`).
    pub external_hostnames: Vec<String>,
    /// `type: LoadBalancer`: it is reached from outside once somebody has given it an address.
    pub is_load_balancer: bool,
    /// Address families that it has or is to get.
    pub families: Vec<Family>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Port name; empty where there is only one.
    pub name: String,
    /// The port that clients dial.
    pub port: u16,
    /// The pod's port.
    pub target: TargetPort,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: String,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

impl ServicePort {
    /// Whether it takes datagrams.
    pub fn is_udp(&self) -> bool {
        self.transport.eq_ignore_ascii_case("UDP")
    }
}

/// A pod's port, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// This port.
    Number(u16),
    /// The container port of this name.
    Name(String),
}

/// A pod: written, or made from a Deployment or StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Addresses, the first one is the primary.
    pub ips: Vec<IpAddr>,
    /// The pod shares its node's network.
    pub is_host_network: bool,
    /// Service account, `default` where none is written.
    pub service_account: String,
    /// Node; empty when not scheduled or unknown.
    pub node: String,
    /// `REGION/ZONE/SUBZONE` by the pod's own label, else its node's; empty = unknown.
    pub locality: String,
    /// `spec.hostname`, or the name of a StatefulSet's pod.
    pub hostname: Option<String>,
    /// `spec.subdomain`: the headless service that names the pod.
    pub subdomain: Option<String>,
    /// Containers, init containers that stay (`restartPolicy: Always`) excluded.
    pub containers: Vec<Container>,
    /// `Ready`; true where there is no status.
    pub is_ready: bool,
    /// Finished (`Succeeded`, `Failed`) or being deleted.
    pub is_gone: bool,
    /// A sidecar runs beside it.
    pub is_injected: bool,
    /// Mesh TLS is accepted there (`security.istio.io/tlsMode=istio`, written or by injection).
    pub accepts_mesh_tls: bool,
    /// The sidecar is known to be ours.
    pub is_palisade: bool,
    /// The pod is a gateway that no document runs: what it serves, and the name by which people know it.
    pub gateway: Option<(GatewayKind, ObjectKey)>,
}

/// A container, as far as `palisade dev` runs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Container name.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// Entry point; empty = the image's.
    pub command: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment variables, in order; later ones may use earlier ones.
    pub env: Vec<EnvVar>,
    /// ConfigMaps and Secrets whose keys are environment variables; they come before `env`.
    pub env_from: Vec<EnvFrom>,
    /// Declared ports.
    pub ports: Vec<ContainerPort>,
}

/// One environment variable of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Name of the variable.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where the value of an environment variable comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// Written; `$(NAME)` stands for a variable that comes before, `$$` for a dollar sign.
    Literal(String),
    /// A field of the pod, by its path (`fieldRef`).
    Field(String),
    /// A key of a ConfigMap or Secret of the pod's namespace.
    Key {
        /// The object.
        object: EnvObject,
        /// The key in it.
        key: String,
    },
    /// What only a kubelet knows (`resourceFieldRef`, `fileKeyRef`), by the field's name.
    KubeletOnly(&'static str),
}

/// A ConfigMap or Secret that gives environment variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvObject {
    /// A Secret, else a ConfigMap.
    pub is_secret: bool,
    /// Name in the pod's namespace.
    pub name: String,
    /// A missing object or key is no error.
    pub is_optional: bool,
}

/// All keys of an object as environment variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFrom {
    /// Comes before each key.
    pub prefix: String,
    /// The object.
    pub object: EnvObject,
}

/// A declared container port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Port name; empty when unnamed.
    pub name: String,
    /// Port number.
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSlice {
    /// Name of the Service that it belongs to.
    pub service: String,
    /// Ports by name.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the Service's port; empty where there is only one.
    pub name: String,
    /// Port number at the endpoint.
    pub port: u16,
}

/// One endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SliceEndpoint {
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; `None` counts as true.
    pub ready: Option<bool>,
    /// `conditions.serving`.
    pub serving: Option<bool>,
    /// `conditions.terminating`.
    pub terminating: Option<bool>,
    /// Name of the pod in `targetRef`.
    pub pod: Option<String>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `nodeName`.
    pub node: Option<String>,
    /// `zone`.
    pub zone: Option<String>,
}

/// A Secret or ConfigMap: bytes by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyedBytes {
    /// Content by key.
    pub entries: BTreeMap<String, Arc<[u8]>>,
}

impl Pod {
    /// The number of a container port by name.
    pub fn named_port(&self, name: &str) -> Option<u16> {
        self.containers.iter().flat_map(|c| &c.ports).find(|port| port.name == name).map(|port| port.port)
    }
}

/// A pod with its metadata.
pub type PodObject = Object<Pod>;
