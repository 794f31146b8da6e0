//! The template `gateway`: a pod that somebody runs as a gateway, whose container of image `auto` becomes the proxy.

use std::collections::BTreeMap;

use palisade_compile::PROXY_LABEL;
use serde_json::{Map, Value, json};

use super::{
    InjectError, InjectionSettings,
    annotations::Overrides,
    template::{
        ISTIO_PROXY, PROXY_ID, ROOTS, ROOTS_FOLDER, STATE, STATE_FOLDER, STATUS, TOKEN, TOKEN_FOLDER, containers,
        environment, name_of, names_are_free, object_at, own_volumes, take_list, with_pull_policy,
    },
};

/// The image of a container that is to become the proxy.
pub(super) const AUTO: &str = "auto";

/// Whether the pod is a gateway of ours already.
pub(super) fn is_gateway(labels: &BTreeMap<String, String>, pod: &Map<String, Value>) -> bool {
    labels.get(PROXY_LABEL).is_some_and(|proxy| proxy == "gateway") && !has_auto(pod)
}

/// Whether the pod has a container that is to become the proxy.
pub(super) fn has_auto(pod: &Map<String, Value>) -> bool {
    containers(pod, "containers").any(is_auto)
}

fn is_auto(container: &Value) -> bool {
    container.get("image").and_then(Value::as_str) == Some(AUTO)
}

/// The pod with its proxy. What its owner wrote about the container stays.
pub(super) fn with_gateway(
    pod: &Value,
    labels: &BTreeMap<String, String>,
    owner: Option<&str>,
    overrides: &Overrides,
    settings: &InjectionSettings,
    warnings: &mut Vec<String>,
) -> Result<Value, InjectError> {
    let mut pod = pod.clone();
    let malformed = || InjectError::Malformed("spec: a pod must have one, with containers".to_owned());
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut).ok_or_else(malformed)?;
    let mut containers = take_list(spec, "containers")?;
    let mut volumes = take_list(spec, "volumes")?;
    names_are_free("spec.volumes", &volumes, &[TOKEN, ROOTS, STATE])?;
    let index = containers
        .iter()
        .position(|container| is_auto(container) && name_of(container) == ISTIO_PROXY)
        .or_else(|| containers.iter().position(is_auto));
    let Some(container) = index.and_then(|index| containers.get_mut(index)).and_then(Value::as_object_mut) else {
        return Err(malformed());
    };
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    fill(container, overrides, settings);
    if containers.iter().any(is_auto) {
        warnings.push("only one container of image `auto` becomes the proxy".to_owned());
    }
    volumes.extend(own_volumes(settings));
    volumes.extend(overrides.volumes.iter().cloned());
    spec.insert("containers".to_owned(), containers.into());
    spec.insert("volumes".to_owned(), volumes.into());
    // Listeners are bound on the ports that they declare, without any capability.
    let context = object_at(spec, "securityContext").ok_or_else(malformed)?;
    context.entry("sysctls").or_insert_with(|| json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]));
    mark(&mut pod, labels, owner, &name, settings)?;
    Ok(pod)
}

/// What the container has not been given.
fn fill(container: &mut Map<String, Value>, overrides: &Overrides, settings: &InjectionSettings) {
    let image = overrides.image.as_ref().filter(|image| !image.contains("proxyv2"));
    container.insert("image".to_owned(), image.unwrap_or(&settings.gateway_image).as_str().into());
    let mut lists = [
        ("env", environment(overrides, settings, &Map::new())),
        ("ports", vec![json!({"name": "http-palisade", "containerPort": 15020, "protocol": "TCP"})]),
        (
            "volumeMounts",
            [
                json!({"name": TOKEN, "mountPath": TOKEN_FOLDER, "readOnly": true}),
                json!({"name": ROOTS, "mountPath": ROOTS_FOLDER, "readOnly": true}),
                json!({"name": STATE, "mountPath": STATE_FOLDER}),
            ]
            .into_iter()
            .chain(overrides.volume_mounts.iter().cloned())
            .collect(),
        ),
    ];
    for (key, own) in &mut lists {
        let written = container.get(*key).and_then(Value::as_array).cloned().unwrap_or_default();
        // Whatever proves the proxy is never the user's to set.
        let written = written.into_iter().filter(|item| !name_of(item).starts_with("PALISADE_"));
        own.extend(written);
        container.insert((*key).to_owned(), std::mem::take(own).into());
    }
    let further = json!({
        "resources": {
            "requests": {
                "cpu": overrides.cpu.as_ref().unwrap_or(&settings.sidecar_cpu),
                "memory": overrides.memory.as_ref().unwrap_or(&settings.sidecar_memory),
            },
            "limits": {"memory": overrides.memory_limit.as_ref().unwrap_or(&settings.sidecar_memory_limit)},
        },
        "readinessProbe": {
            "httpGet": {"path": "/healthz/ready", "port": 15021},
            "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2,
        },
        "securityContext": {
            "runAsUser": PROXY_ID,
            "runAsGroup": PROXY_ID,
            "runAsNonRoot": true,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    for (key, value) in further.as_object().into_iter().flatten() {
        match (container.get_mut(key), value) {
            // What its owner says about security is completed, not replaced.
            (Some(Value::Object(written)), Value::Object(own)) if key == "securityContext" => {
                for (key, value) in own {
                    written.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            (Some(_), _) => {}
            (None, _) => drop(container.insert(key.clone(), value.clone())),
        }
    }
    if let Value::Object(fields) = with_pull_policy(Value::Object(std::mem::take(container)), settings) {
        *container = fields;
    }
}

/// Labels and annotations by which others know the pod.
fn mark(
    pod: &mut Value,
    labels: &BTreeMap<String, String>,
    owner: Option<&str>,
    container: &str,
    settings: &InjectionSettings,
) -> Result<(), InjectError> {
    let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).filter(|text| !text.is_empty()).cloned();
    let name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let malformed = || InjectError::Malformed("metadata: not an object".to_owned());
    let fields = pod.as_object_mut().ok_or_else(malformed)?;
    let metadata = object_at(fields, "metadata").ok_or_else(malformed)?;
    let written = object_at(metadata, "labels").ok_or_else(malformed)?;
    for (key, value) in [
        ("service.istio.io/canonical-name", name.or_else(|| owner.map(str::to_owned))),
        ("service.istio.io/canonical-revision", Some(revision.unwrap_or_else(|| "latest".to_owned()))),
        ("istio.io/rev", Some(settings.revision.clone())),
    ] {
        if let Some(value) = value {
            written.entry(key).or_insert_with(|| value.into());
        }
    }
    written.insert(PROXY_LABEL.to_owned(), "gateway".into());
    let status = json!({
        "initContainers": null, "containers": [container], "volumes": [TOKEN, ROOTS, STATE],
        "revision": settings.revision,
    });
    let annotations = object_at(metadata, "annotations").ok_or_else(malformed)?;
    annotations.insert(STATUS.to_owned(), status.to_string().into());
    Ok(())
}
