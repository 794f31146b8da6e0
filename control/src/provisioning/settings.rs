//! What the gateways of a mesh are given where their owners say nothing else.

use clap::{Args, ValueEnum};

/// What gateways are given.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct GatewaySettings {
    /// Whether Deployments and Services are made for Gateways of our classes: `auto` = by a control plane in a pod.
    #[arg(long, env = "PALISADE_GATEWAY_PROVISIONING", default_value = "auto", value_name = "WHEN")]
    pub gateway_provisioning: Provisioning,
    /// Image of gateways.
    #[arg(long, env = "PALISADE_GATEWAY_IMAGE", default_value = DEFAULT_IMAGE, value_name = "IMAGE")]
    pub gateway_image: String,
    /// When nodes fetch that image: `IfNotPresent`, `Always` or `Never`; unset: by Kubernetes' own rule.
    #[arg(long, env = "PALISADE_GATEWAY_PULL_POLICY", value_name = "POLICY")]
    pub gateway_pull_policy: Option<String>,
    /// Secret in each Gateway's namespace to fetch that image with; repeatable.
    #[arg(long, env = "PALISADE_GATEWAY_PULL_SECRET", value_delimiter = ',', value_name = "NAME")]
    pub gateway_pull_secret: Vec<String>,
    /// CPU that each pod of a gateway asks for.
    #[arg(long, env = "PALISADE_GATEWAY_CPU", default_value = "100m", value_name = "QUANTITY")]
    pub gateway_cpu: String,
    /// Memory that each pod of a gateway asks for.
    #[arg(long, env = "PALISADE_GATEWAY_MEMORY", default_value = "64Mi", value_name = "QUANTITY")]
    pub gateway_memory: String,
    /// Memory that each pod of a gateway may have.
    #[arg(long, env = "PALISADE_GATEWAY_MEMORY_LIMIT", default_value = "1Gi", value_name = "QUANTITY")]
    pub gateway_memory_limit: String,
    /// Pods that a gateway has at least.
    #[arg(long, env = "PALISADE_GATEWAY_MIN_REPLICAS", default_value_t = 2, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub gateway_min_replicas: u16,
    /// Pods that a gateway has at most: between the two it follows its use of CPU. Where it is not above the least, nothing
    /// scales.
    #[arg(long, env = "PALISADE_GATEWAY_MAX_REPLICAS", default_value_t = 10, value_name = "COUNT")]
    pub gateway_max_replicas: u16,
    /// Seconds that a gateway's drain may take.
    #[arg(long, env = "PALISADE_GATEWAY_DRAIN_SECONDS", default_value_t = 30, value_name = "SECONDS")]
    pub gateway_drain_seconds: u32,
}

/// Whether objects are made for Gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provisioning {
    /// By a control plane in a pod.
    Auto,
    /// Yes.
    On,
    /// No: somebody else runs gateways.
    Off,
}

/// Image where nothing else is said.
pub(crate) const DEFAULT_IMAGE: &str = "palisade/palisade-gateway:0.1.0";

impl Provisioning {
    /// Whether a process makes them.
    pub fn is_on(self, is_pod: bool) -> bool {
        match self {
            Self::Auto => is_pod,
            Self::On => true,
            Self::Off => false,
        }
    }
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            gateway_provisioning: Provisioning::Auto,
            gateway_image: DEFAULT_IMAGE.to_owned(),
            gateway_pull_policy: None,
            gateway_pull_secret: Vec::new(),
            gateway_cpu: "100m".to_owned(),
            gateway_memory: "64Mi".to_owned(),
            gateway_memory_limit: "1Gi".to_owned(),
            gateway_min_replicas: 2,
            gateway_max_replicas: 10,
            gateway_drain_seconds: 30,
        }
    }
}
