//! Pods that the API server asks about: the patch that gives them their sidecars.

use serde_json::Value;

use super::review::{Request, Response};
use crate::injection::{Asked, InjectionSettings, NamespaceOf, inject, json_patch};

/// The patch for a pod; none where it gets no sidecar. One that should get a sidecar and cannot have it is refused: without, its traffic
/// would go past every policy.
pub fn inject_pod(request: &Request, settings: &InjectionSettings) -> Response {
    let is_new_pod = request.kind.kind == "Pod" && request.kind.group.is_empty() && request.operation == "CREATE";
    let Some(pod) = request.object.as_ref().filter(|_| is_new_pod && request.sub_resource.is_empty()) else {
        return Response::default();
    };
    let namespace = NamespaceOf { name: request.namespace.clone(), ..NamespaceOf::default() };
    match inject(pod, &namespace, owner(pod).as_deref(), Asked::Already, settings) {
        Ok(injection) => {
            let patch = injection.pod.map(|injected| json_patch(pod, &injected));
            Response { refusal: None, warnings: injection.warnings, patch }
        }
        Err(error) => {
            Response { refusal: Some(format!("the pod cannot have its sidecar: {error}")), ..Response::default() }
        }
    }
}

/// The workload that a pod is made from, as people name it: a ReplicaSet's Deployment, a Job's CronJob.
fn owner(pod: &Value) -> Option<String> {
    let metadata = pod.get("metadata")?;
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    let controller =
        owners.into_iter().flatten().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let Some(controller) = controller else {
        return text(metadata.get("name")).or_else(|| text(metadata.get("generateName")));
    };
    let name = text(controller.get("name"))?;
    let hash = text(metadata.pointer("/labels/pod-template-hash"));
    let of_deployment = hash.and_then(|hash| name.strip_suffix(&hash)?.strip_suffix('-').map(str::to_owned));
    let of_schedule = || {
        let (before, number) = name.rsplit_once('-')?;
        let is_time = number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit());
        is_time.then(|| before.to_owned())
    };
    match controller.get("kind").and_then(Value::as_str) {
        Some("ReplicaSet") => of_deployment.or(Some(name)),
        Some("Job") => of_schedule().or(Some(name)),
        _ => Some(name),
    }
}
