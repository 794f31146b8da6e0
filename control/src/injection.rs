//! Injection: which pods get a sidecar or become a gateway, why, and what such a pod looks like. Pure; the webhook and `palisade inject` call the same.

mod annotations;
mod decision;
pub mod documents;
mod gateway;
mod patch;
mod probes;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use annotations::InvalidAnnotation;
pub use decision::{Asked, Decision, Reason, Template, decide};
pub use patch::json_patch;
pub use settings::InjectionSettings;

use annotations::Overrides;

/// Where a pod will run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceOf {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// Whether it gets a sidecar, and why.
    pub decision: Decision,
    /// The pod with its sidecar; `None` = it stays as it is.
    pub pod: Option<Value>,
    /// What the pod asks for and does not get.
    pub warnings: Vec<String>,
}

/// Why a pod that should get a sidecar cannot have one: it must not start without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// It is no pod.
    #[error("{0}")]
    Malformed(String),
    /// An annotation that decides about the pod's traffic cannot be read.
    #[error(transparent)]
    Annotation(#[from] InvalidAnnotation),
    /// It has a container or volume by a name that the sidecar needs.
    #[error("{place}: the name `{name}` is the sidecar's; rename it")]
    NameTaken {
        /// `spec.containers`, `spec.initContainers` or `spec.volumes`.
        place: &'static str,
        /// The name.
        name: String,
    },
    /// A container runs as the user by whom the sidecar's traffic is known, and so would go past the sidecar.
    #[error("spec.containers[{index}].securityContext.runAsUser: {uid} is the sidecar's own user; choose another")]
    User {
        /// Which container.
        index: usize,
        /// The user.
        uid: u64,
    },
}

/// Decides about a pod, and gives it its sidecar. Injecting twice is injecting once.
///
/// `asked` says who asks: a webhook for what the namespace wants, or a person for this very document. `owner` is the name of the workload
/// that the pod is made from.
///
/// # Errors
/// When the pod should get a sidecar and cannot be given one.
pub fn inject(
    pod: &Value,
    namespace: &NamespaceOf,
    owner: Option<&str>,
    asked: Asked,
    settings: &InjectionSettings,
) -> Result<Injection, InjectError> {
    let Some(fields) = pod.as_object() else {
        return Err(InjectError::Malformed("a pod must be an object".to_owned()));
    };
    let labels = texts(fields, "labels")?;
    let annotations = texts(fields, "annotations")?;
    let decision = decide(fields, &labels, &annotations, namespace, asked, settings);
    if !decision.injects {
        return Ok(Injection { decision, pod: None, warnings: Vec::new() });
    }
    let mut warnings = Vec::new();
    let overrides = Overrides::read(&annotations, &mut warnings)?;
    let make = match decision.template {
        Template::Sidecar => template::with_sidecar,
        Template::Gateway => gateway::with_gateway,
    };
    let pod = make(pod, &labels, owner, &overrides, settings, &mut warnings)?;
    Ok(Injection { decision, pod: Some(pod), warnings })
}

/// A map of texts in `metadata`.
fn texts(pod: &Map<String, Value>, key: &str) -> Result<BTreeMap<String, String>, InjectError> {
    let Some(metadata) = pod.get("metadata").filter(|value| !value.is_null()) else { return Ok(BTreeMap::new()) };
    let Some(entries) = metadata.get(key).filter(|value| !value.is_null()) else { return Ok(BTreeMap::new()) };
    let malformed = || InjectError::Malformed(format!("metadata.{key}: not a map of texts"));
    let entries = entries.as_object().ok_or_else(malformed)?;
    entries.iter().map(|(key, value)| Ok((key.clone(), value.as_str().ok_or_else(malformed)?.to_owned()))).collect()
}
