//! What a large mesh costs, and a change in it. Prints figures and asserts only that small changes change little.

use std::time::Instant;

use palisade_compile::{Mesh, compile, compile_after};
use serde_json::{Value, json};

use super::{Cluster, Inputs, SourceOptions};

const SERVICES: usize = 1_000;
const PODS_EACH: usize = 10;
const ROUTES: usize = 3_000;

fn namespace_of(service: usize) -> String {
    format!("ns-{}", service % 50)
}

fn address(service: usize, pod: usize) -> String {
    format!("10.{}.{}.{}", 1 + service / 250, service % 250, 1 + pod)
}

fn pod(service: usize, index: usize, is_ready: bool) -> Value {
    let ready = if is_ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("svc-{service}-5d8f7c9b6-{index:05}"), "namespace": namespace_of(service),
            "uid": format!("7b1c2f5e-{service:04}-{index:04}-9a3d-0123456789ab"), "creationTimestamp": "2026-11-30T12:00:00Z",
            "labels": {
                "app": format!("svc-{service}"), "version": "v1", "pod-template-hash": "5d8f7c9b6",
                "security.istio.io/tlsMode": "istio", "palisade.dev/proxy": "sidecar",
            },
        },
        "spec": {
            "containers": [{"name": "app", "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}]},
                           {"name": "palisade-sidecar", "ports": [{"containerPort": 15020, "name": "metrics"}]}],
            "nodeName": format!("node-{}", index % 100), "serviceAccountName": format!("svc-{service}"),
        },
        "status": {
            "phase": "Running", "podIP": address(service, index), "podIPs": [{"ip": address(service, index)}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

fn slice(service: usize, ready: impl Fn(usize) -> bool) -> Value {
    let endpoints: Vec<Value> = (0..PODS_EACH)
        .map(|index| {
            json!({
                "addresses": [address(service, index)], "nodeName": format!("node-{}", index % 100),
                "conditions": {"ready": ready(index), "serving": ready(index), "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace_of(service),
                              "name": format!("svc-{service}-5d8f7c9b6-{index:05}")},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("svc-{service}-abcde"), "namespace": namespace_of(service),
                     "labels": {"kubernetes.io/service-name": format!("svc-{service}")}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

fn route(index: usize, path: &str) -> Value {
    let service = index % SERVICES;
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": format!("route-{index}"), "namespace": namespace_of(service), "generation": 1,
                     "creationTimestamp": "2026-11-30T12:00:00Z"},
        "spec": {
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge", "namespace": "ns-0"}],
            "hostnames": [format!("svc-{service}.example.com")],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": format!("/{path}{index}")}}],
                       "backendRefs": [{"group": "", "kind": "Service", "name": format!("svc-{service}"), "port": 80, "weight": 1}]}],
        },
    })
}

fn policy(service: usize, method: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("svc-{service}"), "namespace": namespace_of(service), "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": format!("svc-{service}")}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/ns-1/sa/svc-{service}")]}}],
                       "to": [{"operation": {"methods": [method], "paths": ["/api/*"]}}]}],
        },
    })
}

fn documents() -> Vec<Value> {
    let mut documents = vec![json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "ns-0"},
        "spec": {"gatewayClassName": "palisade", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}]},
    })];
    documents.extend((0..50).map(|index| super::namespace(&namespace_of(index))));
    for index in 0..100 {
        documents.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {
            "name": format!("node-{index}"),
            "labels": {"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": format!("z{}", index % 3)}}}));
    }
    for service in 0..SERVICES {
        documents.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("svc-{service}"), "namespace": namespace_of(service)},
            "spec": {"clusterIP": format!("10.96.{}.{}", service / 250, 1 + service % 250), "type": "ClusterIP",
                     "selector": {"app": format!("svc-{service}")},
                     "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
        }));
        documents.push(slice(service, |_| true));
        documents.push(policy(service, "GET"));
        documents.extend((0..PODS_EACH).map(|index| pod(service, index, true)));
    }
    documents.extend((0..ROUTES).map(|index| route(index, "path")));
    documents
}

#[tokio::test]
async fn a_small_change_costs_little_in_a_large_mesh() {
    let documents = documents();
    let started = Instant::now();
    let mut cluster = Cluster::of(&documents).await;
    let read = started.elapsed();
    let inputs = cluster.source.store.inputs();
    let started = Instant::now();
    let mut mesh: Mesh = compile(&std::sync::Arc::new(inputs)).mesh;
    println!("{} documents: read {read:?}; compiled {:?}", documents.len(), started.elapsed());
    for (what, kind, group, document) in [
        ("endpoints of one service", "EndpointSlice", "discovery.k8s.io", slice(7, |index| index != 3)),
        ("readiness of one pod", "Pod", "", pod(8, 3, false)),
        ("one route", "HTTPRoute", super::GATEWAY_API, route(9, "other")),
        ("policy of one workload", "AuthorizationPolicy", "security.istio.io", policy(10, "POST")),
        ("the same again", "AuthorizationPolicy", "security.istio.io", policy(10, "POST")),
    ] {
        cluster.change(kind, group, &document);
        let changes = cluster.source.pending.next().await;
        let started = Instant::now();
        let is_new = super::Source::take(&mut cluster.source, changes);
        let taken = started.elapsed();
        assert_eq!(is_new, what != "the same again");
        if !is_new {
            println!("{what}: taken {taken:?}, nothing to compile");
            continue;
        }
        let options = SourceOptions::default();
        let inputs: Inputs = super::Source::inputs(&mut cluster.source, &options).unwrap();
        let gathered = started.elapsed();
        let next = compile_after(&mesh, inputs).mesh;
        let compiled = started.elapsed();
        let shared = next.shares_with(&mesh);
        println!(
            "{what}: taken {taken:?}, gathered {:?}, compiled {:?}; {shared} of 11 steps shared",
            gathered - taken,
            compiled - gathered
        );
        assert!(shared >= 8, "{what}: {shared} steps are shared");
        mesh = next;
    }
}

#[test]
fn an_object_takes_no_more_memory_than_what_is_used_of_it() {
    let count = 1_000;
    type Make = fn(usize) -> Value;
    let kinds: [(&str, Make, u64); 4] = [
        ("Pod", |index| pod(index / 10, index % 10, true), 3_000),
        ("EndpointSlice of 10", |index| slice(index, |_| true), 6_000),
        ("HTTPRoute", |index| route(index, "path"), 6_000),
        ("AuthorizationPolicy", |index| policy(index, "GET"), 4_000),
    ];
    for (kind, make, limit) in kinds {
        let mut kept = palisade_compile::KeptInputs::new(SourceOptions::default());
        let memory = allocation_counter::measure(|| {
            for index in 0..count {
                let document = palisade_crds::Document::from_value(make(index));
                kept.put(&std::sync::Arc::new(palisade_crds::parse(&document, "default")));
            }
        });
        let each = u64::try_from(memory.bytes_current).unwrap() / u64::try_from(count).unwrap();
        println!("{kind}: {each} bytes each");
        assert!(each < limit, "{kind}: {each} bytes each");
    }
}
