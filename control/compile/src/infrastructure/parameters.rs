//! What users say about the objects that run their Gateways: a ConfigMap with one overlay for each kind of object, as Istio has it.

use palisade_crds::{
    document,
    gateway_api::{Gateway, GatewayClass},
};
use serde_json::Value;

use crate::{
    inputs::{Inputs, core::KeyedBytes},
    object::{Object, ObjectKey},
};

/// Overlays of the objects that run a Gateway; each is an object, or `null` for none of the kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overlays {
    /// Of the Deployment.
    pub deployment: Option<Value>,
    /// Of the Service.
    pub service: Option<Value>,
    /// Of the ServiceAccount.
    pub service_account: Option<Value>,
    /// Of the HorizontalPodAutoscaler.
    pub horizontal_pod_autoscaler: Option<Value>,
    /// Of the PodDisruptionBudget.
    pub pod_disruption_budget: Option<Value>,
}

/// Kinds that a Gateway may do without.
const OPTIONAL: [&str; 2] = ["horizontalPodAutoscaler", "podDisruptionBudget"];

/// Fields by which an object is known, which no overlay may touch.
const FIXED: [&str; 9] = [
    "/apiVersion",
    "/kind",
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/ownerReferences",
    "/metadata/uid",
    "/spec/selector",
    "/spec/scaleTargetRef",
    "/status",
];

/// The overlays of a class, then those of a Gateway of it.
///
/// # Errors
/// In one line, when what one of them refers to is not there or cannot be read.
pub(crate) fn of_gateway(inputs: &Inputs, gateway: &Object<Gateway>) -> Result<Vec<Overlays>, String> {
    let class = inputs.gateway_classes.get(&ObjectKey::new("", gateway.spec.gateway_class_name.as_str()));
    let mut all = Vec::new();
    if let Some(class) = class {
        all.extend(of_class(inputs, &class.spec).map_err(|message| format!("of its class: {message}"))?);
    }
    if let Some(key) = reference_of_gateway(gateway)? {
        all.push(read(inputs, &key)?);
    }
    Ok(all)
}

/// The overlays of a class.
///
/// # Errors
/// As [`of_gateway`].
pub(crate) fn of_class(inputs: &Inputs, class: &GatewayClass) -> Result<Option<Overlays>, String> {
    reference_of_class(class)?.map(|key| read(inputs, &key)).transpose()
}

/// The ConfigMap that a Gateway names.
pub(crate) fn reference_of_gateway(gateway: &Object<Gateway>) -> Result<Option<ObjectKey>, String> {
    let reference = gateway.spec.infrastructure.as_ref().and_then(|own| own.parameters_ref.as_ref());
    let Some(reference) = reference else { return Ok(None) };
    config_map(&reference.group, &reference.kind)?;
    Ok(Some(ObjectKey::new(&*gateway.head.key.namespace, reference.name.as_str())))
}

/// The ConfigMap that a class names.
pub(crate) fn reference_of_class(class: &GatewayClass) -> Result<Option<ObjectKey>, String> {
    let Some(reference) = &class.parameters_ref else { return Ok(None) };
    config_map(&reference.group, &reference.kind)?;
    match reference.namespace.as_deref() {
        Some(namespace) => Ok(Some(ObjectKey::new(namespace, reference.name.as_str()))),
        None => Err("`parametersRef` names no namespace".to_owned()),
    }
}

fn config_map(group: &str, kind: &str) -> Result<(), String> {
    match (group, kind) {
        ("" | "core", "ConfigMap") => Ok(()),
        _ => Err(format!("parameters of kind `{group}/{kind}` are not read: only ConfigMaps are")),
    }
}

fn read(inputs: &Inputs, key: &ObjectKey) -> Result<Overlays, String> {
    let map = inputs.config_maps.get(key).ok_or_else(|| format!("ConfigMap `{key}` does not exist"))?;
    parse(&map.spec).map_err(|message| format!("ConfigMap `{key}`: {message}"))
}

fn parse(map: &KeyedBytes) -> Result<Overlays, String> {
    let mut overlays = Overlays::default();
    for (kind, text) in &map.entries {
        let place = match kind.as_str() {
            "deployment" => &mut overlays.deployment,
            "service" => &mut overlays.service,
            "serviceAccount" => &mut overlays.service_account,
            "horizontalPodAutoscaler" => &mut overlays.horizontal_pod_autoscaler,
            "podDisruptionBudget" => &mut overlays.pod_disruption_budget,
            other => {
                return Err(format!(
                    "`{other}` is none of deployment, service, serviceAccount, horizontalPodAutoscaler, \
                     podDisruptionBudget"
                ));
            }
        };
        *place = Some(overlay(kind, text)?);
    }
    Ok(overlays)
}

fn overlay(kind: &str, text: &[u8]) -> Result<Value, String> {
    if text.trim_ascii() == b"null" {
        return match OPTIONAL.contains(&kind) {
            true => Ok(Value::Null),
            false => Err(format!("`{kind}`: a gateway cannot be without it")),
        };
    }
    let read = document::read("", text);
    if let Some(unreadable) = read.unreadable.first() {
        return Err(format!("`{kind}`, line {}: {}", unreadable.line, unreadable.message));
    }
    let mut documents = read.documents.into_iter();
    let value = match (documents.next(), documents.next()) {
        (Some(one), None) if one.value.is_object() => one.value,
        (None, _) => Value::Object(serde_json::Map::new()),
        _ => return Err(format!("`{kind}`: not one YAML object")),
    };
    match FIXED.iter().find(|field| value.pointer(field).is_some()) {
        Some(field) => {
            let field = field.trim_start_matches('/').replace('/', ".");
            Err(format!("`{kind}`: `{field}` is not for users to set"))
        }
        None => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;

    fn parse_one(key: &str, text: &str) -> Result<Overlays, String> {
        parse(&KeyedBytes { entries: BTreeMap::from([(key.to_owned(), Arc::from(text.as_bytes()))]) })
    }

    #[test]
    fn each_key_is_an_overlay_of_its_kind() {
        let overlays = parse_one("deployment", "spec:\n  replicas: 4\n").unwrap();
        assert_eq!(overlays.deployment, Some(serde_json::json!({"spec": {"replicas": 4}})));
        assert_eq!(parse_one("podDisruptionBudget", "null\n").unwrap().pod_disruption_budget, Some(Value::Null));
        assert_eq!(parse_one("service", "# nothing\n").unwrap().service, Some(serde_json::json!({})));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (key, text, expected) in [
            ("deploymnt", "{}", "`deploymnt`"),
            ("deployment", "[]", "`deployment`"),
            ("deployment", "spec: {", "`deployment`, line"),
            ("deployment", "a: 1\n---\nb: 2", "`deployment`: not one"),
            ("deployment", "null", "`deployment`: a gateway cannot"),
            ("service", "metadata: {name: other}", "metadata.name"),
            ("deployment", "spec: {selector: {matchLabels: {a: b}}}", "spec.selector"),
            ("horizontalPodAutoscaler", "spec: {scaleTargetRef: {name: other}}", "spec.scaleTargetRef"),
        ] {
            let error = parse_one(key, text).unwrap_err();
            assert!(error.contains(expected), "{key}: {error}");
        }
    }
}
