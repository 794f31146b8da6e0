//! A pod with its sidecar: a step that redirects its traffic, the sidecar as a native one, and the volumes of both.

use std::collections::BTreeMap;

use palisade_compile::PROXY_LABEL;
use serde_json::{Map, Value, json};

use super::{InjectError, InjectionSettings, annotations::HEALTH_PORT, annotations::Overrides, gateway, probes};

/// The sidecar.
pub(super) const PROXY: &str = "palisade-proxy";
/// The step that redirects.
const REDIRECT: &str = "palisade-redirect";
/// User and group of the sidecar, by which the redirection knows its traffic.
pub(super) const PROXY_ID: u64 = 1337;
/// Ports of the sidecar, which no application in its pod can have.
const PORTS: [u64; 6] = [15000, 15001, 15006, 15020, 15021, 15053];

pub(super) const STATUS: &str = "sidecar.istio.io/status";
pub(super) const TOKEN: &str = "palisade-token";
pub(super) const ROOTS: &str = "palisade-roots";
pub(super) const STATE: &str = "palisade-state";
pub(super) const TOKEN_FOLDER: &str = "/var/run/secrets/palisade.dev/token";
pub(super) const ROOTS_FOLDER: &str = "/var/run/secrets/palisade.dev/roots";
pub(super) const STATE_FOLDER: &str = "/var/lib/palisade";

/// Whether the pod has our sidecar: the mark of having been here, and the container.
pub(super) fn is_injected(pod: &Map<String, Value>) -> bool {
    let status = pod.get("metadata").and_then(|metadata| metadata.get("annotations")).and_then(|all| all.get(STATUS));
    let is_marked = status.and_then(Value::as_str).is_some_and(|status| status.contains(PROXY));
    is_marked && containers(pod, "initContainers").any(|container| name_of(container) == PROXY)
}

/// Whether Istio's sidecar is there. A container `istio-proxy` of image `auto` is none yet: it stands for settings of the one to come.
pub(super) fn is_istio_injected(pod: &Map<String, Value>, annotations: &BTreeMap<String, String>) -> bool {
    let is_sidecar = |container: &Value| {
        name_of(container) == ISTIO_PROXY
            && container.get("image").and_then(Value::as_str).is_some_and(|image| image != gateway::AUTO)
    };
    containers(pod, "containers").chain(containers(pod, "initContainers")).any(is_sidecar)
        || annotations.get(STATUS).is_some_and(|status| status.contains(ISTIO_PROXY))
}

/// The name by which users write settings of the sidecar among their containers.
pub(super) const ISTIO_PROXY: &str = "istio-proxy";

pub(super) fn containers<'a>(pod: &'a Map<String, Value>, list: &str) -> impl Iterator<Item = &'a Value> {
    pod.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn name_of(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The pod with its sidecar.
pub(super) fn with_sidecar(
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
    let written = take_list(spec, "containers")?;
    let (settings_of, mut application): (Vec<Value>, Vec<Value>) =
        written.into_iter().partition(|container| name_of(container) == ISTIO_PROXY);
    if application.is_empty() {
        return Err(malformed());
    }
    let mut inits = take_list(spec, "initContainers")?;
    let mut volumes = take_list(spec, "volumes")?;
    names_are_free("spec.containers", &application, &[PROXY, REDIRECT])?;
    names_are_free("spec.initContainers", &inits, &[PROXY, REDIRECT])?;
    names_are_free("spec.volumes", &volumes, &[TOKEN, ROOTS, STATE])?;
    users_differ(spec, &application)?;
    ports_are_free(&application, warnings);

    let moved =
        if overrides.keeps_probes { Map::new() } else { probes::rewrite(&mut application, &mut inits, warnings) };
    let mut proxy = proxy(overrides, settings, &moved, warnings);
    for written in settings_of {
        merge(&mut proxy, &written, warnings);
    }
    let mut first = Vec::new();
    if let Some(arguments) = &overrides.redirect {
        first.push(redirect(arguments, &proxy, settings));
    }
    first.push(proxy);
    let steps: Vec<&str> = first.iter().map(name_of).collect();
    let status = json!({
        "initContainers": steps, "containers": null, "volumes": [TOKEN, ROOTS, STATE], "revision": settings.revision,
    })
    .to_string();
    // The application's own steps come after: their traffic is the pod's as well.
    inits.splice(0..0, first);
    volumes.extend(own_volumes(settings));
    volumes.extend(overrides.volumes.iter().cloned());
    spec.insert("containers".to_owned(), application.into());
    spec.insert("initContainers".to_owned(), inits.into());
    spec.insert("volumes".to_owned(), volumes.into());
    mark(&mut pod, labels, owner, &status, settings)?;
    Ok(pod)
}

pub(super) fn take_list(spec: &Map<String, Value>, key: &'static str) -> Result<Vec<Value>, InjectError> {
    match spec.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(items.clone()),
        Some(_) => Err(InjectError::Malformed(format!("spec.{key}: not a list of objects"))),
    }
}

pub(super) fn names_are_free(place: &'static str, items: &[Value], ours: &[&str]) -> Result<(), InjectError> {
    match items.iter().map(name_of).find(|name| ours.contains(name)) {
        Some(name) => Err(InjectError::NameTaken { place, name: name.to_owned() }),
        None => Ok(()),
    }
}

/// An application that ran as the sidecar's user or group would not be redirected.
fn users_differ(spec: &Map<String, Value>, application: &[Value]) -> Result<(), InjectError> {
    let of_pod = spec.get("securityContext");
    for (index, container) in application.iter().enumerate() {
        for key in ["runAsUser", "runAsGroup"] {
            let own = container.get("securityContext").and_then(|context| context.get(key));
            let id = own.or_else(|| of_pod.and_then(|context| context.get(key))).and_then(Value::as_u64);
            if id == Some(PROXY_ID) {
                return Err(InjectError::User { index, uid: PROXY_ID });
            }
        }
    }
    Ok(())
}

fn ports_are_free(application: &[Value], warnings: &mut Vec<String>) {
    for container in application {
        for port in container.get("ports").and_then(Value::as_array).into_iter().flatten() {
            let number = port.get("containerPort").and_then(Value::as_u64).unwrap_or(0);
            if PORTS.contains(&number) {
                warnings.push(format!("container `{}`: port {number} is the sidecar's", name_of(container)));
            }
        }
    }
}

/// What every proxy is told by its environment.
pub(super) fn environment(
    overrides: &Overrides,
    settings: &InjectionSettings,
    moved_probes: &Map<String, Value>,
) -> Vec<Value> {
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        plain("PALISADE_CONTROL", &settings.sidecar_control),
        plain("PALISADE_CONTROL_CA", &format!("{ROOTS_FOLDER}/root-cert.pem")),
        plain("PALISADE_TOKEN_FILE", &format!("{TOKEN_FOLDER}/token")),
        plain("PALISADE_STATE_DIR", &format!("{STATE_FOLDER}/proxy")),
        field("PALISADE_NAME", "metadata.name"),
        field("PALISADE_NAMESPACE", "metadata.namespace"),
        field("PALISADE_POD_IP", "status.podIPs"),
    ];
    let further = [
        ("PALISADE_LOG", overrides.log.clone()),
        ("PALISADE_WORKERS", overrides.workers.map(|workers| workers.to_string())),
        ("PALISADE_DRAIN_SECONDS", overrides.drain_seconds.map(|seconds| seconds.to_string())),
        (
            "PALISADE_HEALTH",
            overrides.health_port.filter(|port| *port != HEALTH_PORT).map(|port| format!("0.0.0.0:{port}")),
        ),
        (
            "PALISADE_APP_PROBES",
            Some(moved_probes).filter(|probes| !probes.is_empty()).map(|probes| json!(probes).to_string()),
        ),
    ];
    env.extend(further.into_iter().filter_map(|(name, value)| value.map(|value| plain(name, &value))));
    env
}

fn proxy(
    overrides: &Overrides,
    settings: &InjectionSettings,
    moved_probes: &Map<String, Value>,
    warnings: &mut Vec<String>,
) -> Value {
    let env = environment(overrides, settings, moved_probes);
    let port = overrides.health_port.unwrap_or(HEALTH_PORT);
    let probe = |period: u32, failures: u32| {
        json!({
            "httpGet": {"path": "/healthz/ready", "port": port},
            "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
        })
    };
    let mut mounts = vec![
        json!({"name": TOKEN, "mountPath": TOKEN_FOLDER, "readOnly": true}),
        json!({"name": ROOTS, "mountPath": ROOTS_FOLDER, "readOnly": true}),
        json!({"name": STATE, "mountPath": STATE_FOLDER}),
    ];
    mounts.extend(overrides.volume_mounts.iter().cloned());
    let mut limits = Map::new();
    if let Some(cpu) = &overrides.cpu_limit {
        limits.insert("cpu".to_owned(), cpu.as_str().into());
    }
    let memory_limit = overrides.memory_limit.as_ref().unwrap_or(&settings.sidecar_memory_limit);
    limits.insert("memory".to_owned(), memory_limit.as_str().into());
    let image = match &overrides.image {
        // What a pod asks Istio for is no image of ours.
        Some(image) if image.contains("proxyv2") => {
            warnings.push("annotation `sidecar.istio.io/proxyImage` has no effect: it names Istio's proxy".to_owned());
            &settings.sidecar_image
        }
        Some(image) => image,
        None => &settings.sidecar_image,
    };
    let mut container = json!({
        "name": PROXY,
        "image": image,
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "http-palisade", "containerPort": 15020, "protocol": "TCP"}],
        "resources": {
            "requests": {
                "cpu": overrides.cpu.as_ref().unwrap_or(&settings.sidecar_cpu),
                "memory": overrides.memory.as_ref().unwrap_or(&settings.sidecar_memory),
            },
            "limits": limits,
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
        // The application starts when its traffic can flow.
        "startupProbe": probe(1, 600),
        "volumeMounts": mounts,
    });
    if let Some(container) = container.as_object_mut() {
        if overrides.health_port.is_some() {
            container.insert("readinessProbe".to_owned(), probe(15, 4));
        } else {
            container.shift_remove("startupProbe");
        }
    }
    with_pull_policy(container, settings)
}

/// The step that redirects: root in its own network namespace, with that one capability and nothing else.
fn redirect(arguments: &[String], proxy: &Value, settings: &InjectionSettings) -> Value {
    let all: Vec<&str> = std::iter::once("redirect").chain(arguments.iter().map(String::as_str)).collect();
    let container = json!({
        "name": REDIRECT,
        "image": proxy.get("image"),
        "args": all,
        "resources": {
            "requests": {"cpu": settings.sidecar_cpu, "memory": settings.sidecar_memory},
            "limits": {"memory": settings.sidecar_memory_limit},
        },
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    with_pull_policy(container, settings)
}

pub(super) fn with_pull_policy(mut container: Value, settings: &InjectionSettings) -> Value {
    if let (Some(policy), Some(fields)) = (&settings.sidecar_pull_policy, container.as_object_mut()) {
        fields.insert("imagePullPolicy".to_owned(), policy.as_str().into());
    }
    container
}

pub(super) fn own_volumes(settings: &InjectionSettings) -> [Value; 3] {
    [
        json!({
            "name": TOKEN,
            "projected": {"sources": [{
                "serviceAccountToken": {"audience": settings.sidecar_audience, "expirationSeconds": 43200, "path": "token"},
            }]},
        }),
        json!({"name": ROOTS, "configMap": {"name": settings.sidecar_roots}}),
        // It holds the private key.
        json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
    ]
}

/// Takes what a user wrote about the sidecar in a container `istio-proxy`: resources, environment and mounts.
fn merge(proxy: &mut Value, written: &Value, warnings: &mut Vec<String>) {
    let (Some(proxy), Some(written)) = (proxy.as_object_mut(), written.as_object()) else { return };
    for (key, value) in written {
        match (key.as_str(), value) {
            ("name", _) => {}
            ("image", Value::String(image)) if image == "auto" => {}
            ("resources", Value::Object(_)) => {
                proxy.insert(key.clone(), value.clone());
            }
            ("env" | "volumeMounts", Value::Array(items)) => {
                if let Some(list) = proxy.get_mut(key).and_then(Value::as_array_mut) {
                    list.extend(items.iter().filter(|item| !name_of(item).starts_with("PALISADE_")).cloned());
                }
            }
            _ => warnings.push(format!("`{key}` of container `{ISTIO_PROXY}` has no effect")),
        }
    }
}

/// Labels and annotations by which others know the pod.
fn mark(
    pod: &mut Value,
    labels: &BTreeMap<String, String>,
    owner: Option<&str>,
    status: &str,
    settings: &InjectionSettings,
) -> Result<(), InjectError> {
    let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).filter(|text| !text.is_empty()).cloned();
    let name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
        .or_else(|| owner.map(str::to_owned));
    let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let marks = [
        ("security.istio.io/tlsMode", Some("istio".to_owned())),
        ("service.istio.io/canonical-name", name),
        ("service.istio.io/canonical-revision", Some(revision.unwrap_or_else(|| "latest".to_owned()))),
        ("istio.io/rev", Some(settings.revision.clone())),
        (PROXY_LABEL, Some("sidecar".to_owned())),
    ];
    let malformed = || InjectError::Malformed("metadata: not an object".to_owned());
    let fields = pod.as_object_mut().ok_or_else(malformed)?;
    let metadata = object_at(fields, "metadata").ok_or_else(malformed)?;
    let written = object_at(metadata, "labels").ok_or_else(malformed)?;
    for (key, value) in marks {
        if let Some(value) = value {
            // A mark of the sidecar is never the user's to set; what only names the workload is.
            if key == PROXY_LABEL {
                written.insert(key.to_owned(), value.into());
            } else {
                written.entry(key).or_insert_with(|| value.into());
            }
        }
    }
    let annotations = object_at(metadata, "annotations").ok_or_else(malformed)?;
    annotations.insert(STATUS.to_owned(), status.into());
    Ok(())
}

pub(super) fn object_at<'a>(fields: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let value = fields.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}
