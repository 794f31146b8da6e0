//! Process settings of admission.

use std::net::SocketAddr;

use clap::Args;
use palisade_compile::Revisions;

/// How the API server reaches the webhooks, and what it asks them about.
#[derive(Debug, Clone, Args)]
pub struct AdmissionOptions {
    /// Where the webhooks answer the API server, over TLS. They are served by a control plane in a pod, and by one with
    /// `--webhook-url`.
    #[arg(long, env = "PALISADE_WEBHOOK", default_value = "0.0.0.0:15017", value_name = "ADDRESS:PORT")]
    pub webhook: SocketAddr,
    /// Service that leads to `--webhook`, in the control plane's namespace.
    #[arg(long, env = "PALISADE_WEBHOOK_SERVICE", default_value = "palisade-control", value_name = "NAME")]
    pub webhook_service: String,
    /// URL that leads to `--webhook`, for a control plane outside its cluster, such as `https://10.0.0.1:15017`; unset: the
    /// Service.
    #[arg(long, env = "PALISADE_WEBHOOK_URL", value_name = "URL")]
    pub webhook_url: Option<String>,
    /// ClusterRole that webhook configurations and admission policies belong to: they are removed with it.
    #[arg(long, env = "PALISADE_WEBHOOK_OWNER", default_value = "palisade-control", value_name = "NAME")]
    pub webhook_owner: String,
    /// Write no webhook configurations and admission policies into the cluster: somebody else does.
    #[arg(long, env = "PALISADE_WEBHOOK_UNREGISTERED")]
    pub webhook_unregistered: bool,
    /// Revision of this control plane: it owns objects with this value of label `istio.io/rev`; `default`: those without the
    /// label, too.
    #[arg(long, env = "PALISADE_REVISION", default_value = DEFAULT_REVISION, value_name = "NAME")]
    pub revision: String,
    /// Another name that this revision answers to in `istio.io/rev`, as Istio's revision tags; repeatable. `default`: what carries
    /// no label is its own, too.
    #[arg(long, env = "PALISADE_REVISION_TAG", value_delimiter = ',', value_name = "NAME")]
    pub revision_tag: Vec<String>,
}

impl AdmissionOptions {
    /// The revision with its tags.
    pub fn revisions(&self) -> Revisions {
        Revisions::new(&self.revision, &self.revision_tag)
    }
}

impl Default for AdmissionOptions {
    fn default() -> Self {
        Self {
            webhook: SocketAddr::from(([0, 0, 0, 0], 15017)),
            webhook_service: "palisade-control".to_owned(),
            webhook_url: None,
            webhook_owner: "palisade-control".to_owned(),
            webhook_unregistered: false,
            revision: DEFAULT_REVISION.to_owned(),
            revision_tag: Vec::new(),
        }
    }
}

/// The revision that serves objects and namespaces which name none.
pub const DEFAULT_REVISION: &str = "default";
