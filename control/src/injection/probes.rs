//! Probes of the kubelet, which has no certificate of the mesh: it asks the sidecar, and the sidecar asks the application.

use serde_json::{Map, Value, json};

/// Where the sidecar answers for the application.
const PORT: u16 = 15020;

/// The probes of a container and the last part of their paths, as Istio has them.
const PROBES: [(&str, &str); 3] =
    [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")];

/// Leads probes by HTTP, TCP and gRPC through the sidecar; what they asked for, by path, is returned. Probes by command stay.
pub(super) fn rewrite(
    application: &mut [Value],
    inits: &mut [Value],
    warnings: &mut Vec<String>,
) -> Map<String, Value> {
    let mut moved = Map::new();
    // Steps that end have no probes; sidecars of the user's own have.
    for container in application.iter_mut().chain(inits) {
        let Some(container) = container.as_object_mut() else { continue };
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let ports = container.get("ports").cloned().unwrap_or(Value::Null);
        for hook in ["postStart", "preStop"] {
            let pointer = container.get("lifecycle").and_then(|all| all.get(hook)).and_then(|hook| hook.get("httpGet"));
            if pointer.is_some() {
                warnings.push(format!("container `{name}`: `lifecycle.{hook}.httpGet` goes through the sidecar, where policies apply to it"));
            }
        }
        for (field, word) in PROBES {
            let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) else { continue };
            let path = format!("/app-health/{name}/{word}");
            if let Some(asked) = ask_sidecar(probe, &ports, &path, &format!("container `{name}`: `{field}`"), warnings)
            {
                moved.insert(path, asked);
            }
        }
    }
    moved
}

/// Makes the probe one of the sidecar's path; what it was is returned. `None` = it stays.
fn ask_sidecar(
    probe: &mut Map<String, Value>,
    ports: &Value,
    path: &str,
    place: &str,
    warnings: &mut Vec<String>,
) -> Option<Value> {
    let kind =
        ["httpGet", "tcpSocket", "grpc"].into_iter().find(|kind| probe.get(*kind).is_some_and(Value::is_object))?;
    let mut asked = probe.get(kind)?.as_object()?.clone();
    if asked.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
        // Another host than the pod: the sidecar does not see it.
        return None;
    }
    let Some(port) = number(asked.get("port"), ports) else {
        warnings.push(format!("{place} names a port that the container does not have, and stays as it is"));
        return None;
    };
    if port == u64::from(PORT) {
        return None;
    }
    asked.insert("port".to_owned(), port.into());
    let timeout = probe.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(1);
    // Where it stood, so that the other fields keep their places.
    let place = probe.keys().position(|key| key == kind).unwrap_or(0);
    probe.shift_remove(kind);
    probe.shift_insert(place.min(probe.len()), "httpGet".to_owned(), json!({"path": path, "port": PORT}));
    Some(json!({kind: asked, "timeoutSeconds": timeout}))
}

/// A port by number, or by its name among the container's.
fn number(port: Option<&Value>, ports: &Value) -> Option<u64> {
    match port? {
        Value::Number(number) => number.as_u64(),
        Value::String(name) => {
            let named = ports.as_array()?.iter().find(|port| port.get("name").and_then(Value::as_str) == Some(name));
            named.map_or_else(|| name.parse().ok(), |port| port.get("containerPort").and_then(Value::as_u64))
        }
        _ => None,
    }
}
