//! The mesh that the control plane is measured with: 1,000 services of ten pods in 50 namespaces, all on one port, 1,000 policies,
//! 3,000 routes. What istiod was measured with, too. Included by the benchmark of compiling as well.

use serde_json::{Value, json};

/// Namespaces.
pub const NAMESPACES: usize = 50;
/// Services; service `i` is in namespace `i` modulo [`NAMESPACES`].
pub const SERVICES: usize = 1000;
/// Pods of a service.
pub const PODS: usize = 10;
/// Routes of a service.
pub const ROUTES: usize = 3;
/// Nodes.
const NODES: usize = 20;
/// The port of every service.
pub const PORT: u16 = 80;

/// Name of a service's namespace.
pub fn namespace_of(service: usize) -> String {
    format!("ns-{:02}", service % NAMESPACES)
}

/// Name of a service, of its account, its label and its policy.
pub fn service_name(service: usize) -> String {
    format!("svc-{service:04}")
}

/// Name of a pod.
pub fn pod_name(service: usize, pod: usize) -> String {
    format!("{}-{pod}", service_name(service))
}

/// Address of a pod.
pub fn pod_ip(service: usize, pod: usize) -> String {
    let number = service * PODS + pod;
    format!("10.{}.{}.{}", 64 + number / 62_500, number / 250 % 250, 2 + number % 250)
}

/// Nodes and namespaces: what has to be there first.
pub fn places() -> Vec<Value> {
    let nodes = (0..NODES).map(|node| {
        let labels =
            json!({"topology.kubernetes.io/region": "r1", "topology.kubernetes.io/zone": format!("z{}", node % 3)});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{node}"), "labels": labels}})
    });
    let namespaces = (0..NAMESPACES).map(
        |namespace| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_of(namespace)}}),
    );
    nodes.chain(namespaces).collect()
}

/// Accounts of the services' pods.
pub fn accounts() -> Vec<Value> {
    (0..SERVICES).map(|service| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(service, &service_name(service))})).collect()
}

/// Services.
pub fn services() -> Vec<Value> {
    let one = |service: usize| {
        let name = service_name(service);
        let port = json!({"name": "http", "port": PORT, "targetPort": 8080, "protocol": "TCP"});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(service, &name), "spec": {
            "clusterIP": cluster_ip(service), "clusterIPs": [cluster_ip(service)], "type": "ClusterIP",
            "selector": {"app": name}, "ports": [port],
        }})
    };
    (0..SERVICES).map(one).collect()
}

/// Pods, each with the status that a node would report.
pub fn pods() -> Vec<Value> {
    (0..SERVICES).flat_map(|service| (0..PODS).map(move |pod| self::pod(service, pod))).collect()
}

fn pod(service: usize, pod: usize) -> Value {
    let (name, ip) = (pod_name(service, pod), pod_ip(service, pod));
    let mut meta = meta(service, &name);
    // As injection leaves it.
    meta["labels"]["security.istio.io/tlsMode"] = json!("istio");
    meta["labels"]["palisade.dev/proxy"] = json!("sidecar");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": {
            "nodeName": node_of(service, pod), "serviceAccountName": service_name(service),
            "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "localhost/none:1", "ports": [{"containerPort": 8080, "protocol": "TCP"}]}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.0.2.1",
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
        },
    })
}

/// The EndpointSlices of all services.
pub fn endpoint_slices() -> Vec<Value> {
    (0..SERVICES).map(|service| endpoint_slice(service, None)).collect()
}

/// The EndpointSlice of a service; `extra` = one more address, and its zone.
pub fn endpoint_slice(service: usize, extra: Option<(&str, &str)>) -> Value {
    let name = service_name(service);
    let ready = json!({"ready": true, "serving": true, "terminating": false});
    let of_pod = |pod: usize| {
        json!({"addresses": [pod_ip(service, pod)], "nodeName": node_of(service, pod),
            "zone": format!("z{}", (service * PODS + pod) % NODES % 3), "conditions": ready,
            "targetRef": {"kind": "Pod", "namespace": namespace_of(service), "name": pod_name(service, pod)}})
    };
    let mut endpoints: Vec<Value> = (0..PODS).map(of_pod).collect();
    endpoints.extend(extra.map(|(ip, zone)| json!({"addresses": [ip], "zone": zone, "conditions": ready})));
    let labels = json!({"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "bench"});
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-a"), "namespace": namespace_of(service), "labels": labels},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

/// The AuthorizationPolicies of all services.
pub fn policies() -> Vec<Value> {
    (0..SERVICES).map(|service| policy(service, "/api/*")).collect()
}

/// The policy of one service: the next one may call it, on this path among others.
pub fn policy(service: usize, path: &str) -> Value {
    let name = service_name(service);
    let caller = (service + 1) % SERVICES;
    let principal = format!("cluster.local/ns/{}/sa/{}", namespace_of(caller), service_name(caller));
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
    "metadata": {"name": name, "namespace": namespace_of(service)},
    "spec": {"selector": {"matchLabels": {"app": name}}, "action": "ALLOW", "rules": [{
        "from": [{"source": {"principals": [principal]}}],
        "to": [{"operation": {"methods": ["GET", "POST"], "paths": ["/api", path]}}],
    }]}})
}

/// A policy for every workload of the mesh.
pub fn mesh_policy(path: &str) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "mesh-wide", "namespace": "istio-system"},
        "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": [path]}}]}]}})
}

/// The HTTPRoutes of all services, each attached to its Service.
pub fn routes() -> Vec<Value> {
    (0..SERVICES).flat_map(|service| (0..ROUTES).map(move |number| route(service, number, "none"))).collect()
}

/// One route of a service; it sets a header to `marker`.
pub fn route(service: usize, number: usize, marker: &str) -> Value {
    let name = service_name(service);
    let matched = json!({"path": {"type": "PathPrefix", "value": format!("/p{number}")},
        "headers": [{"type": "Exact", "name": "x-version", "value": format!("v{number}")}]});
    let filter = json!({"type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": [{"name": "x-marker", "value": marker}]}});
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
    "metadata": {"name": format!("{name}-{number}"), "namespace": namespace_of(service)},
    "spec": {
        "parentRefs": [{"group": "", "kind": "Service", "name": name, "port": PORT}],
        "rules": [{
            "matches": [matched], "filters": [filter],
            "backendRefs": [{"group": "", "kind": "Service", "name": name, "port": PORT, "weight": 1}],
        }],
    }})
}

fn meta(service: usize, name: &str) -> Value {
    json!({"name": name, "namespace": namespace_of(service), "labels": {"app": service_name(service), "version": "v1"}})
}

fn node_of(service: usize, pod: usize) -> String {
    format!("node-{}", (service * PODS + pod) % NODES)
}

fn cluster_ip(service: usize) -> String {
    format!("10.96.{}.{}", 10 + service / 250, 2 + service % 250)
}
