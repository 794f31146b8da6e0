//! Whether a pod gets a sidecar: Istio's selectors, then Istio's `injectRequired`.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use super::{InjectionSettings, NamespaceOf, gateway, template};
use crate::admission::{options::DEFAULT_REVISION, register::NEVER_INJECTED};

/// Who asks for injection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Labels of namespace and pod decide.
    ByLabels,
    /// A webhook, whose selectors are those labels, or somebody who names this document: only what refuses a sidecar counts.
    Already,
}

/// Whether a pod gets a sidecar, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// It gets one.
    pub injects: bool,
    /// What it gets.
    pub template: Template,
    /// Why.
    pub reason: Reason,
}

/// What a pod gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// A sidecar beside its containers.
    Sidecar,
    /// A proxy in the place of a container: the pod is a gateway.
    Gateway,
}

/// Why a pod gets a sidecar, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its own label.
    PodLabel,
    /// Its own annotation.
    PodAnnotation,
    /// Its own label names this revision.
    PodRevision,
    /// The namespace's label.
    NamespaceLabel,
    /// The namespace's label names this revision.
    NamespaceRevision,
    /// Somebody asked for this document.
    Asked,
    /// The namespace belongs to the cluster.
    SystemNamespace,
    /// The namespace refuses.
    NamespaceRefuses,
    /// The namespace or the pod names another revision.
    OtherRevision,
    /// The pod uses its node's network.
    HostNetwork,
    /// The pod refuses by label.
    PodLabelRefuses,
    /// The pod refuses by annotation.
    PodAnnotationRefuses,
    /// Nobody asked.
    NotAsked,
    /// It has one already.
    AlreadyInjected,
    /// Istio's sidecar is there.
    IstioInjected,
    /// It asks for another template than those of a sidecar and a gateway.
    OtherTemplate,
    /// It asks to become a gateway and has no container for that.
    NothingToFill,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodLabel => "the pod's label `sidecar.istio.io/inject` asks for it",
            Self::PodAnnotation => "the pod's annotation `sidecar.istio.io/inject` asks for it",
            Self::PodRevision => "the pod's label `istio.io/rev` names this revision",
            Self::NamespaceLabel => "the namespace is labelled for injection",
            Self::NamespaceRevision => "the namespace's label `istio.io/rev` names this revision",
            Self::Asked => "it was asked for",
            Self::SystemNamespace => "pods of this namespace are never injected",
            Self::NamespaceRefuses => "the namespace's label refuses it",
            Self::OtherRevision => "label `istio.io/rev` names another revision",
            Self::HostNetwork => "the pod uses its node's network",
            Self::PodLabelRefuses => "the pod's label `sidecar.istio.io/inject` refuses it",
            Self::PodAnnotationRefuses => "the pod's annotation `sidecar.istio.io/inject` refuses it",
            Self::NotAsked => "neither the namespace nor the pod asks for it",
            Self::AlreadyInjected => "it has its sidecar already",
            Self::IstioInjected => "Istio's sidecar is there already",
            Self::OtherTemplate => "`inject.istio.io/templates` asks for something else than a sidecar or a gateway",
            Self::NothingToFill => {
                "`inject.istio.io/templates: gateway` fills a container of image `auto`, and there is none"
            }
        })
    }
}

const INJECT: &str = "sidecar.istio.io/inject";
const REVISION: &str = "istio.io/rev";
const TEMPLATES: &str = "inject.istio.io/templates";

const fn no(reason: Reason) -> Decision {
    Decision { injects: false, template: Template::Sidecar, reason }
}

/// Decides. A value of `sidecar.istio.io/inject` other than `true` and `false` counts as none.
pub fn decide(
    pod: &Map<String, Value>,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    namespace: &NamespaceOf,
    asked: Asked,
    settings: &InjectionSettings,
) -> Decision {
    if template::is_injected(pod) || gateway::is_gateway(labels, pod) {
        return no(Reason::AlreadyInjected);
    }
    let wish = labels.get(INJECT).map(String::as_str);
    let selected = match asked {
        Asked::Already => Ok(Reason::Asked),
        Asked::ByLabels => selectors(labels, wish, namespace, &settings.revision),
    };
    let selected = match selected {
        Ok(reason) => reason,
        Err(reason) => return no(reason),
    };
    if NEVER_INJECTED.contains(&namespace.name.as_str()) {
        return no(Reason::SystemNamespace);
    }
    if pod.get("spec").and_then(|spec| spec.get("hostNetwork")).and_then(Value::as_bool) == Some(true) {
        return no(Reason::HostNetwork);
    }
    // A label beats the annotation, whatever it says, if it says one of the two words.
    match (wish, annotations.get(INJECT).map(String::as_str)) {
        (Some("false"), _) => return no(Reason::PodLabelRefuses),
        (Some("true"), _) | (_, None | Some("true")) => {}
        (_, Some("false")) => return no(Reason::PodAnnotationRefuses),
        (_, Some(_)) => {}
    }
    let template = match annotations.get(TEMPLATES).map(|templates| templates.trim()) {
        None | Some("sidecar") => Template::Sidecar,
        Some("gateway") if gateway::has_auto(pod) => Template::Gateway,
        Some("gateway") => return no(Reason::NothingToFill),
        Some(_) => return no(Reason::OtherTemplate),
    };
    if template::is_istio_injected(pod, annotations) {
        return no(Reason::IstioInjected);
    }
    let reason = match (wish, annotations.get(INJECT).map(String::as_str), selected) {
        (Some("true"), _, Reason::Asked) => Reason::PodLabel,
        (None, Some("true"), Reason::Asked) => Reason::PodAnnotation,
        (_, _, selected) => selected,
    };
    Decision { injects: true, template, reason }
}

/// What the selectors of the webhooks say, in Istio's order.
fn selectors(
    labels: &BTreeMap<String, String>,
    wish: Option<&str>,
    namespace: &NamespaceOf,
    revision: &str,
) -> Result<Reason, Reason> {
    let is_default = revision == DEFAULT_REVISION;
    let of_namespace = |key: &str| namespace.labels.get(key).map(String::as_str);
    if NEVER_INJECTED.contains(&namespace.name.as_str()) {
        return Err(Reason::SystemNamespace);
    }
    if wish == Some("false") {
        return Err(Reason::PodLabelRefuses);
    }
    // `istio-injection`, where it is there, beats everything that is said by revision.
    for key in ["istio-injection", "palisade.dev/injection"] {
        match of_namespace(key) {
            Some("enabled") if is_default => return Ok(Reason::NamespaceLabel),
            Some("enabled") => return Err(Reason::OtherRevision),
            Some(_) => return Err(Reason::NamespaceRefuses),
            None => {}
        }
    }
    match (of_namespace(REVISION), labels.get(REVISION).map(String::as_str)) {
        (Some(named), _) if named == revision => Ok(Reason::NamespaceRevision),
        (Some(_), _) => Err(Reason::OtherRevision),
        (None, Some(named)) if named == revision => Ok(Reason::PodRevision),
        (None, Some(_)) => Err(Reason::OtherRevision),
        (None, None) if wish == Some("true") && is_default => Ok(Reason::PodLabel),
        (None, None) => Err(Reason::NotAsked),
    }
}
