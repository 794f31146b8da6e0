//! What is kept of an API object: the part that documents have. What servers add and nobody reads costs memory, and would make
//! a change of what is none.

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// kubectl keeps the whole document in here once more, a Secret's content too.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The one label of EndpointSlices that is read.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Labels of Nodes that are read begin so: region, zone, subzone, network.
const TOPOLOGY: &str = "topology.";

/// An object as a document.
pub(super) fn whole(kind: Kind, resource: &ApiResource, object: DynamicObject) -> Value {
    let DynamicObject { types: _, metadata, data } = object;
    let mut document = head(resource, metadata);
    let Value::Object(fields) = data else { return Value::Object(document) };
    for (key, value) in fields {
        match (kind.kind, key.as_str()) {
            ("Service", "status") => {
                if let Some(balancer) = value.get("loadBalancer") {
                    document.insert(key, json!({"loadBalancer": balancer}));
                }
            }
            ("ServiceEntry", "status") => {
                if let Some(addresses) = value.get("addresses") {
                    document.insert(key, json!({"addresses": addresses}));
                }
            }
            // Status is written here, and never read but for what lies above.
            (_, "status") => {}
            _ => {
                document.insert(key, value);
            }
        }
    }
    if kind.kind == "EndpointSlice"
        && let Some(Value::Object(metadata)) = document.get_mut("metadata")
    {
        // Each change leaves a time of its own here, whether or not it changed an endpoint.
        metadata.remove("annotations");
        metadata.remove("generation");
        if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
            labels.retain(|key, _| key == SERVICE_NAME);
        }
    }
    Value::Object(document)
}

/// A document of metadata alone.
pub(super) fn metadata(resource: &ApiResource, object: PartialObjectMeta<DynamicObject>) -> Value {
    let PartialObjectMeta { types: _, metadata, _phantom } = object;
    let mut document = head(resource, metadata);
    if resource.kind == "Node"
        && let Some(Value::Object(metadata)) = document.get_mut("metadata")
    {
        // Kubelets and cloud controllers write theirs all the time; where it is stays.
        metadata.remove("annotations");
        if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
            labels.retain(|key, _| key.starts_with(TOPOLOGY));
        }
    }
    Value::Object(document)
}

/// A pod as a document: who it is, its ports and addresses, and whether it is ready.
pub(super) fn pod(resource: &ApiResource, pod: Pod) -> Value {
    let Pod { mut metadata, spec, status } = pod;
    let is_ending = metadata.deletion_timestamp.take();
    let mut document = head(resource, metadata);
    if let (Some(time), Some(Value::Object(metadata))) = (is_ending, document.get_mut("metadata")) {
        metadata.insert("deletionTimestamp".to_owned(), json!(time));
    }
    document.extend(spec.map(|spec| ("spec".to_owned(), json!(pod_spec(spec)))));
    document.extend(status.map(|status| ("status".to_owned(), json!(pod_status(status)))));
    Value::Object(document)
}

fn pod_spec(spec: PodSpec) -> PodSpec {
    PodSpec {
        containers: spec.containers.into_iter().map(ports_of).collect(),
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        node_name: spec.node_name,
        hostname: spec.hostname,
        subdomain: spec.subdomain,
        ..PodSpec::default()
    }
}

fn ports_of(container: Container) -> Container {
    Container { name: container.name, ports: container.ports, ..Container::default() }
}

fn pod_status(status: PodStatus) -> PodStatus {
    let ready = status.conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == "Ready");
    // Since when, and why, is of no matter.
    let ready = ready.map(|PodCondition { type_, status, .. }| PodCondition { type_, status, ..Default::default() });
    PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        conditions: ready.map(|ready| vec![ready]),
        ..PodStatus::default()
    }
}

fn head(resource: &ApiResource, metadata: ObjectMeta) -> Map<String, Value> {
    let annotations = metadata.annotations.map(|mut annotations| {
        annotations.remove(LAST_APPLIED);
        annotations
    });
    let kept = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp,
        labels: metadata.labels,
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    };
    Map::from_iter([
        ("apiVersion".to_owned(), json!(resource.api_version)),
        ("kind".to_owned(), json!(resource.kind)),
        ("metadata".to_owned(), json!(kept)),
    ])
}
