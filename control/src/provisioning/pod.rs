//! The pods of a gateway: one container that a namespace under Pod Security `restricted` admits.

use palisade_compile::Infrastructure;
use serde_json::{Value, json};

use super::settings::GatewaySettings;
use crate::injection::InjectionSettings;

/// The container.
pub(super) const PROXY: &str = "palisade-proxy";

/// User and group of the proxy.
const PROXY_ID: u64 = 1337;

const TOKEN_FOLDER: &str = "/var/run/secrets/palisade.dev/token";
const ROOTS_FOLDER: &str = "/var/run/secrets/palisade.dev/roots";
const STATE_FOLDER: &str = "/var/lib/palisade";

/// Seconds between the order to end and the proxy's drain: until then Services and load balancers lead here.
const WITHDRAWAL: u32 = 5;

/// Seconds that are left to end in.
const REST: u32 = 5;

/// The `spec` of a gateway's pods. Listeners are no part of it: a change of theirs restarts nothing.
pub(super) fn spec(wanted: &Infrastructure, settings: &GatewaySettings, mesh: &InjectionSettings) -> Value {
    let name = wanted.name.as_str();
    let selector = super::objects::selector(wanted);
    let mut spec = json!({
        "serviceAccountName": name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": WITHDRAWAL + settings.gateway_drain_seconds + REST,
        "securityContext": {
            "runAsUser": PROXY_ID,
            "runAsGroup": PROXY_ID,
            "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
            // Listeners are bound on the ports that they declare, without any capability.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
        }],
        "containers": [container(wanted, settings, mesh)],
        "volumes": [
            {
                "name": "palisade-token",
                "projected": {"sources": [{
                    "serviceAccountToken": {
                        "audience": mesh.sidecar_audience, "expirationSeconds": 43200, "path": "token",
                    },
                }]},
            },
            {"name": "palisade-roots", "configMap": {"name": mesh.sidecar_roots}},
            // It holds private keys.
            {"name": "palisade-state", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        ],
    });
    if let Some(fields) = spec.as_object_mut().filter(|_| !settings.gateway_pull_secret.is_empty()) {
        let secrets: Vec<Value> = settings.gateway_pull_secret.iter().map(|name| json!({"name": name})).collect();
        fields.insert("imagePullSecrets".to_owned(), secrets.into());
    }
    spec
}

fn container(wanted: &Infrastructure, settings: &GatewaySettings, mesh: &InjectionSettings) -> Value {
    let mut container = json!({
        "name": PROXY,
        "image": settings.gateway_image,
        "env": env(wanted, settings, mesh),
        "ports": [
            {"name": "http-palisade", "containerPort": 15020, "protocol": "TCP"},
            {"name": "http-ready", "containerPort": 15021, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": settings.gateway_cpu, "memory": settings.gateway_memory},
            "limits": {"memory": settings.gateway_memory_limit},
        },
        "securityContext": {
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": probe(1, 120),
        "readinessProbe": probe(5, 2),
        "lifecycle": {"preStop": {"sleep": {"seconds": WITHDRAWAL}}},
        "volumeMounts": [
            {"name": "palisade-token", "mountPath": TOKEN_FOLDER, "readOnly": true},
            {"name": "palisade-roots", "mountPath": ROOTS_FOLDER, "readOnly": true},
            {"name": "palisade-state", "mountPath": STATE_FOLDER},
        ],
    });
    if let (Some(policy), Some(fields)) = (&settings.gateway_pull_policy, container.as_object_mut()) {
        fields.insert("imagePullPolicy".to_owned(), policy.as_str().into());
    }
    container
}

fn probe(period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": "/healthz/ready", "port": 15021},
        "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
    })
}

fn env(wanted: &Infrastructure, settings: &GatewaySettings, mesh: &InjectionSettings) -> Vec<Value> {
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    vec![
        plain("PALISADE_CONTROL", &mesh.sidecar_control),
        plain("PALISADE_CONTROL_CA", &format!("{ROOTS_FOLDER}/root-cert.pem")),
        plain("PALISADE_TOKEN_FILE", &format!("{TOKEN_FOLDER}/token")),
        plain("PALISADE_STATE_DIR", &format!("{STATE_FOLDER}/proxy")),
        field("PALISADE_NAME", "metadata.name"),
        field("PALISADE_NAMESPACE", "metadata.namespace"),
        field("PALISADE_POD_IP", "status.podIPs"),
        plain("PALISADE_GATEWAY", &wanted.gateway.to_string()),
        plain("PALISADE_DRAIN_SECONDS", &settings.gateway_drain_seconds.to_string()),
    ]
}
