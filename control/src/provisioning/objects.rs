//! The objects that run a Gateway, as they should be. Pure.

use std::collections::BTreeMap;

use kube::core::{ApiResource, GroupVersionKind};
use palisade_compile::{Infrastructure, Overlays};
use palisade_model::hash::ContentHash;
use serde_json::{Map, Value, json};

use super::{overlay, pod, settings::GatewaySettings};
use crate::injection::InjectionSettings;

/// Label that names the Gateway; selectors go by it.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";

/// Label of everything that is made for Gateways.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "palisade";

/// Annotation that says what an object was made from.
pub(super) const MADE_FROM: &str = "palisade.dev/made-from";

/// CPU of pods, in percent of what they ask for, above which there are to be more.
const BUSY: u32 = 80;

/// A kind of object that is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    ServiceAccount,
    Service,
    Deployment,
    HorizontalPodAutoscaler,
    PodDisruptionBudget,
}

impl Kind {
    /// All, in the order in which they are made.
    pub(super) const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::Service,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
    ];

    /// Where the API serves it.
    pub(super) fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount"),
            Self::Service => ("", "v1", "Service"),
            Self::Deployment => ("apps", "v1", "Deployment"),
            Self::HorizontalPodAutoscaler => ("autoscaling", "v2", "HorizontalPodAutoscaler"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }

    fn overlay(self, overlays: &Overlays) -> Option<&Value> {
        match self {
            Self::ServiceAccount => overlays.service_account.as_ref(),
            Self::Service => overlays.service.as_ref(),
            Self::Deployment => overlays.deployment.as_ref(),
            Self::HorizontalPodAutoscaler => overlays.horizontal_pod_autoscaler.as_ref(),
            Self::PodDisruptionBudget => overlays.pod_disruption_budget.as_ref(),
        }
    }
}

/// The objects, by kind.
///
/// # Errors
/// In one line, when what the Gateway's owner says about one does not fit it.
pub(super) fn objects(
    wanted: &Infrastructure,
    settings: &GatewaySettings,
    mesh: &InjectionSettings,
) -> Result<BTreeMap<Kind, Value>, String> {
    let mut made = BTreeMap::new();
    for kind in Kind::ALL {
        let spec = match kind {
            Kind::ServiceAccount => Some(json!({"automountServiceAccountToken": false})),
            Kind::Service => Some(json!({"spec": service(wanted)})),
            Kind::Deployment => Some(json!({"spec": deployment(wanted, settings, mesh)})),
            Kind::HorizontalPodAutoscaler => scaling(wanted, settings).map(|spec| json!({"spec": spec})),
            Kind::PodDisruptionBudget => Some(json!({"spec": disruption(wanted)})),
        };
        let Some(Value::Object(fields)) = spec else { continue };
        let mut object = json!({
            "apiVersion": kind.resource().api_version,
            "kind": kind.resource().kind,
            "metadata": metadata(wanted),
        });
        if let Some(object) = object.as_object_mut() {
            object.extend(fields);
        }
        let overlays = || wanted.overlays.iter().filter_map(|overlays| kind.overlay(overlays));
        if overlays().next_back().is_some_and(Value::is_null) {
            continue;
        }
        for over in overlays().filter(|over| !over.is_null()) {
            overlay::lay(&mut object, over)
                .map_err(|message| format!("overlay of the {}: {message}", kind.resource().kind))?;
        }
        made.insert(kind, marked(object)?);
    }
    Ok(made)
}

/// With a mark of what it is made from.
fn marked(mut object: Value) -> Result<Value, String> {
    let made_from: String = ContentHash::of_bytes(object.to_string().as_bytes()).to_string().chars().take(16).collect();
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or("`metadata` is no object")?;
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    let annotations = annotations.as_object_mut().ok_or("`metadata.annotations` is no object")?;
    annotations.insert(MADE_FROM.to_owned(), made_from.into());
    Ok(object)
}

/// Labels by which a Gateway's pods are selected.
pub(super) fn selector(wanted: &Infrastructure) -> Value {
    json!({GATEWAY_NAME: wanted.label})
}

/// Labels of all objects, pods too. What its owner writes never takes the place of what others know it by.
fn labels(wanted: &Infrastructure) -> Map<String, Value> {
    let mut labels: Map<String, Value> =
        wanted.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    labels.insert(GATEWAY_NAME.to_owned(), wanted.label.as_str().into());
    labels.insert(GATEWAY_CLASS.to_owned(), wanted.class_label.as_str().into());
    labels
}

fn annotations(wanted: &Infrastructure) -> Map<String, Value> {
    wanted.annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect()
}

fn metadata(wanted: &Infrastructure) -> Value {
    let mut labels = labels(wanted);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.into());
    json!({
        "name": wanted.name,
        "namespace": &*wanted.gateway.namespace,
        "labels": labels,
        "annotations": annotations(wanted),
        // Not `blockOwnerDeletion`: that would take a right to change finalizers of Gateways.
        "ownerReferences": [{
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "name": &*wanted.gateway.name,
            "uid": &*wanted.uid,
            "controller": true,
        }],
    })
}

fn service(wanted: &Infrastructure) -> Value {
    let ports: Vec<Value> = wanted
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name, "port": port.port, "targetPort": port.port, "protocol": port.transport,
                "appProtocol": port.app_protocol,
            })
        })
        .collect();
    let mut spec = json!({
        "type": if wanted.is_external { "LoadBalancer" } else { "ClusterIP" },
        "selector": selector(wanted),
        "ports": ports,
    });
    if let (Some(address), Some(fields)) = (wanted.address, spec.as_object_mut()) {
        let field = if wanted.is_external { "loadBalancerIP" } else { "clusterIP" };
        fields.insert(field.to_owned(), address.to_string().into());
    }
    spec
}

fn deployment(wanted: &Infrastructure, settings: &GatewaySettings, mesh: &InjectionSettings) -> Value {
    let mut labels = labels(wanted);
    labels.entry("service.istio.io/canonical-name").or_insert_with(|| wanted.label.as_str().into());
    labels.entry("service.istio.io/canonical-revision").or_insert_with(|| "latest".into());
    // No webhook puts a sidecar beside it.
    labels.insert("sidecar.istio.io/inject".to_owned(), "false".into());
    labels.insert(palisade_compile::PROXY_LABEL.to_owned(), "gateway".into());
    let mut annotations = annotations(wanted);
    for (key, value) in
        [("prometheus.io/scrape", "true"), ("prometheus.io/port", "15020"), ("prometheus.io/path", "/metrics")]
    {
        annotations.entry(key).or_insert_with(|| value.into());
    }
    let mut spec = json!({
        "selector": {"matchLabels": selector(wanted)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
        "template": {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": pod::spec(wanted, settings, mesh),
        },
    });
    // Where something scales it, nobody else says how many there are.
    if let Some(fields) = spec.as_object_mut().filter(|_| scaling(wanted, settings).is_none()) {
        fields.insert("replicas".to_owned(), settings.gateway_min_replicas.into());
    }
    spec
}

/// How a gateway scales; `None` = it does not: by the settings, or because its owner says how many pods there are.
fn scaling(wanted: &Infrastructure, settings: &GatewaySettings) -> Option<Value> {
    let own = wanted.overlays.iter().filter_map(|overlays| overlays.horizontal_pod_autoscaler.as_ref()).next_back();
    let has_replicas =
        |overlays: &Overlays| overlays.deployment.as_ref().is_some_and(|own| own.pointer("/spec/replicas").is_some());
    let is_scaled = match own {
        Some(own) => !own.is_null(),
        None => {
            let has_room = settings.gateway_max_replicas > settings.gateway_min_replicas;
            has_room && !wanted.overlays.iter().any(has_replicas)
        }
    };
    if !is_scaled {
        return None;
    }
    Some(json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": wanted.name},
        "minReplicas": settings.gateway_min_replicas,
        "maxReplicas": settings.gateway_max_replicas.max(settings.gateway_min_replicas),
        "metrics": [{
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": BUSY}},
        }],
    }))
}

fn disruption(wanted: &Infrastructure) -> Value {
    json!({
        // One at a time; a gateway of one pod does not keep a node from being drained.
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector(wanted)},
    })
}

#[cfg(test)]
mod tests;
