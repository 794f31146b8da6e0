//! What every sidecar of a mesh is given.

use clap::Args;

use crate::admission::options::DEFAULT_REVISION;

/// What every sidecar of a mesh is given.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct InjectionSettings {
    /// Image of the sidecar.
    #[arg(long, env = "PALISADE_SIDECAR_IMAGE", default_value = DEFAULT_IMAGE, value_name = "IMAGE")]
    pub sidecar_image: String,
    /// When nodes fetch that image: `IfNotPresent`, `Always` or `Never`; unset: by Kubernetes' own rule.
    #[arg(long, env = "PALISADE_SIDECAR_PULL_POLICY", value_name = "POLICY")]
    pub sidecar_pull_policy: Option<String>,
    /// Where sidecars find the control plane.
    #[arg(long, env = "PALISADE_SIDECAR_CONTROL", default_value = DEFAULT_CONTROL, value_name = "HOST:PORT")]
    pub sidecar_control: String,
    /// Audience of the tokens that sidecars prove themselves with.
    #[arg(long, env = "PALISADE_SIDECAR_AUDIENCE", default_value = DEFAULT_AUDIENCE, value_name = "AUDIENCE")]
    pub sidecar_audience: String,
    /// ConfigMap in each namespace that holds the mesh's roots, key `root-cert.pem`.
    #[arg(long, env = "PALISADE_SIDECAR_ROOTS", default_value = DEFAULT_ROOTS, value_name = "NAME")]
    pub sidecar_roots: String,
    /// CPU that a sidecar asks for.
    #[arg(long, env = "PALISADE_SIDECAR_CPU", default_value = "10m", value_name = "QUANTITY")]
    pub sidecar_cpu: String,
    /// Memory that a sidecar asks for.
    #[arg(long, env = "PALISADE_SIDECAR_MEMORY", default_value = "32Mi", value_name = "QUANTITY")]
    pub sidecar_memory: String,
    /// Memory that a sidecar may have.
    #[arg(long, env = "PALISADE_SIDECAR_MEMORY_LIMIT", default_value = "512Mi", value_name = "QUANTITY")]
    pub sidecar_memory_limit: String,
    /// Image of pods that are injected as gateways.
    #[arg(skip = crate::provisioning::DEFAULT_IMAGE.to_owned())]
    pub gateway_image: String,
    /// Revision of the control plane that injects.
    #[arg(skip = DEFAULT_REVISION.to_owned())]
    pub revision: String,
}

const DEFAULT_IMAGE: &str = "palisade/palisade-sidecar:0.1.0";
const DEFAULT_CONTROL: &str = "palisade-control.palisade-system.svc:15012";
const DEFAULT_AUDIENCE: &str = "palisade";
const DEFAULT_ROOTS: &str = "palisade-ca-root-cert";

impl Default for InjectionSettings {
    fn default() -> Self {
        Self {
            sidecar_image: DEFAULT_IMAGE.to_owned(),
            sidecar_pull_policy: None,
            sidecar_control: DEFAULT_CONTROL.to_owned(),
            sidecar_audience: DEFAULT_AUDIENCE.to_owned(),
            sidecar_roots: DEFAULT_ROOTS.to_owned(),
            sidecar_cpu: "10m".to_owned(),
            sidecar_memory: "32Mi".to_owned(),
            sidecar_memory_limit: "512Mi".to_owned(),
            gateway_image: crate::provisioning::DEFAULT_IMAGE.to_owned(),
            revision: DEFAULT_REVISION.to_owned(),
        }
    }
}
