//! Kubernetes objects as compiling reads them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use palisade_crds::kubernetes as k8s;

use crate::{
    inputs::core::{
        Container, ContainerPort, EndpointSlice, EnvFrom, EnvObject, EnvValue, EnvVar, Family, KeyedBytes, Namespace,
        Pod, Service, ServicePort, SliceEndpoint, SlicePort, TargetPort,
    },
    object::{Head, Object, ObjectKey, selects},
};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// A Deployment or StatefulSet.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    /// Metadata of the workload.
    pub(crate) head: Head,
    selector: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    pod: Pod,
    replicas: usize,
    is_stateful: bool,
}

impl Template {
    /// Whether pods with these labels are the workload's.
    pub(crate) fn owns(&self, labels: &BTreeMap<String, String>) -> bool {
        selects(&self.selector, labels)
    }

    /// Its pods, `NAME-0`, `NAME-1`, …
    pub(crate) fn pods(&self) -> impl Iterator<Item = Object<Pod>> {
        (0..self.replicas).map(|index| {
            let name = format!("{}-{index}", self.head.key.name);
            let mut pod = self.pod.clone();
            if self.is_stateful {
                pod.hostname = Some(name.clone());
            }
            Object {
                head: Head {
                    group: "".into(),
                    kind: "Pod".into(),
                    key: ObjectKey::new(Arc::clone(&self.head.key.namespace), name),
                    uid: "".into(),
                    generation: 0,
                    created: self.head.created,
                    labels: self.labels.clone(),
                    annotations: self.annotations.clone(),
                    allocated: None,
                },
                spec: pod,
            }
        })
    }
}

/// A port number of an API object; what is out of range was refused when the object was read.
fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

fn target(port: &k8s::ServicePort, number: u16) -> TargetPort {
    match &port.target_port {
        None => TargetPort::Number(number),
        Some(k8s::IntOrString::Int(target)) => TargetPort::Number(port_number(*target).unwrap_or(number)),
        Some(k8s::IntOrString::String(name)) => match name.parse() {
            Ok(target) => TargetPort::Number(target),
            Err(_) => TargetPort::Name(name.clone()),
        },
    }
}

pub(super) fn service(service: &k8s::Service) -> Service {
    let spec = service.spec.clone().unwrap_or_default();
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    let written = spec.cluster_ips.unwrap_or_default().into_iter().chain(spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in written.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let ingress =
        service.status.iter().flat_map(|status| &status.load_balancer).flat_map(|lb| lb.ingress.iter().flatten());
    let families = match (spec.ip_families.unwrap_or_default().as_slice(), spec.ip_family_policy.as_deref()) {
        ([], Some("RequireDualStack")) => vec![Family::V4, Family::V6],
        ([], _) => vec![Family::V4],
        (written, _) => written.iter().map(|f| if f == "IPv6" { Family::V6 } else { Family::V4 }).collect(),
    };
    let external_hostnames = ingress.clone().filter_map(|ingress| ingress.hostname.clone()).collect();
    let is_load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    Service {
        addresses,
        is_headless,
        external_name: spec.external_name.filter(|_| is_external),
        selector: spec.selector.unwrap_or_default(),
        ports: spec
            .ports
            .unwrap_or_default()
            .iter()
            .filter_map(|port| {
                let number = port_number(port.port)?;
                Some(ServicePort {
                    name: port.name.clone().unwrap_or_default(),
                    port: number,
                    target: target(port, number),
                    transport: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        traffic_distribution: service
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("networking.istio.io/traffic-distribution").cloned())
            .or(spec.traffic_distribution)
            .unwrap_or_default(),
        is_local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_addresses: ingress
            .filter_map(|ingress| ingress.ip.as_deref())
            .chain(spec.external_ips.iter().flatten().map(String::as_str))
            .filter_map(|text| text.parse().ok())
            .collect(),
        external_hostnames,
        is_load_balancer,
        families,
    }
}

pub(super) fn slice(slice: &k8s::EndpointSlice, service: String) -> EndpointSlice {
    // Names cannot be dialled: slices of type FQDN are ignored (istio-semantics 13).
    let endpoints = if slice.address_type == "FQDN" { &[][..] } else { slice.endpoints.as_slice() };
    EndpointSlice {
        service,
        ports: slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let number = port_number(port.port?)?;
                Some(SlicePort { name: port.name.clone().unwrap_or_default(), port: number })
            })
            .collect(),
        endpoints: endpoints
            .iter()
            .map(|endpoint| {
                let conditions = endpoint.conditions.as_ref();
                SliceEndpoint {
                    addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
                    ready: conditions.and_then(|c| c.ready),
                    serving: conditions.and_then(|c| c.serving),
                    terminating: conditions.and_then(|c| c.terminating),
                    pod: endpoint
                        .target_ref
                        .as_ref()
                        .filter(|target| target.kind.as_deref() == Some("Pod"))
                        .and_then(|target| target.name.clone()),
                    hostname: endpoint.hostname.clone(),
                    node: endpoint.node_name.clone(),
                    zone: endpoint.zone.clone(),
                }
            })
            .collect(),
    }
}

pub(super) fn pod(pod: &k8s::Pod) -> Pod {
    let mut read = pod.spec.as_ref().map(pod_spec).unwrap_or_default();
    if let Some(status) = &pod.status {
        let ips = status.pod_ips.iter().flatten().map(|ip| Some(ip.ip.as_str()));
        for ip in ips.flatten().chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()) {
            if !read.ips.contains(&ip) {
                read.ips.push(ip);
            }
        }
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        read.is_ready = ready.is_none_or(|condition| condition.status == "True");
        read.is_gone = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    }
    read.is_gone |= pod.metadata.deletion_timestamp.is_some();
    read
}

fn pod_spec(spec: &k8s::PodSpec) -> Pod {
    // The older name of the field counts where the newer one says nothing.
    let names = [spec.service_account_name.as_deref(), spec.service_account.as_deref()];
    let account = names.into_iter().flatten().find(|name| !name.is_empty());
    Pod {
        ips: Vec::new(),
        is_host_network: spec.host_network.unwrap_or(false),
        service_account: account.unwrap_or("default").to_owned(),
        node: spec.node_name.clone().unwrap_or_default(),
        locality: String::new(),
        hostname: spec.hostname.clone(),
        subdomain: spec.subdomain.clone(),
        containers: spec.containers.iter().map(container).collect(),
        is_ready: true,
        is_gone: false,
        is_injected: false,
        accepts_mesh_tls: false,
        is_palisade: false,
        gateway: None,
    }
}

fn container(container: &k8s::Container) -> Container {
    Container {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        env: container.env.iter().flatten().map(env_var).collect(),
        env_from: container.env_from.iter().flatten().flat_map(env_from).collect(),
        ports: container
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let number = port_number(port.container_port)?;
                Some(ContainerPort { name: port.name.clone().unwrap_or_default(), port: number })
            })
            .collect(),
    }
}

fn env_var(variable: &k8s::EnvVar) -> EnvVar {
    let object = |is_secret, name: &str, optional: Option<bool>| EnvObject {
        is_secret,
        name: name.to_owned(),
        is_optional: optional.unwrap_or(false),
    };
    let value = match (&variable.value, &variable.value_from) {
        (Some(value), _) => EnvValue::Literal(value.clone()),
        (None, None) => EnvValue::Literal(String::new()),
        (None, Some(source)) => {
            let k8s::EnvVarSource {
                config_map_key_ref: map,
                field_ref: field,
                resource_field_ref: resource,
                secret_key_ref: secret,
                ..
            } = source;
            if let Some(field) = field {
                EnvValue::Field(field.field_path.clone())
            } else if let Some(key) = map {
                EnvValue::Key { object: object(false, &key.name, key.optional), key: key.key.clone() }
            } else if let Some(key) = secret {
                EnvValue::Key { object: object(true, &key.name, key.optional), key: key.key.clone() }
            } else {
                EnvValue::KubeletOnly(if resource.is_some() { "resourceFieldRef" } else { "valueFrom" })
            }
        }
    };
    EnvVar { name: variable.name.clone(), value }
}

fn env_from(source: &k8s::EnvFromSource) -> impl Iterator<Item = EnvFrom> {
    let k8s::EnvFromSource { config_map_ref, prefix, secret_ref } = source;
    let map = config_map_ref.as_ref().map(|map| (false, &map.name, map.optional));
    let secret = secret_ref.as_ref().map(|secret| (true, &secret.name, secret.optional));
    map.into_iter().chain(secret).map(move |(is_secret, name, optional)| EnvFrom {
        prefix: prefix.clone().unwrap_or_default(),
        object: EnvObject { is_secret, name: name.clone(), is_optional: optional.unwrap_or(false) },
    })
}

fn template(
    head: Head,
    selector: &k8s::LabelSelector,
    template: &k8s::PodTemplateSpec,
    replicas: Option<i32>,
) -> Template {
    let metadata = template.metadata.clone().unwrap_or_default();
    let labels: BTreeMap<String, String> = metadata.labels.unwrap_or_default();
    let written = selector.match_labels.clone().unwrap_or_default();
    Template {
        head,
        selector: if written.is_empty() { labels.clone() } else { written },
        labels,
        annotations: metadata.annotations.unwrap_or_default(),
        pod: template.spec.as_ref().map(pod_spec).unwrap_or_default(),
        replicas: usize::try_from(replicas.unwrap_or(1)).unwrap_or(0),
        is_stateful: false,
    }
}

pub(super) fn deployment(head: Head, deployment: &k8s::Deployment) -> Option<Template> {
    let spec = deployment.spec.as_ref()?;
    Some(template(head, &spec.selector, &spec.template, spec.replicas))
}

pub(super) fn stateful_set(head: Head, set: &k8s::StatefulSet) -> Option<Template> {
    let spec = set.spec.as_ref()?;
    let mut made = template(head, &spec.selector, &spec.template, spec.replicas);
    made.is_stateful = true;
    made.pod.subdomain = made.pod.subdomain.or_else(|| spec.service_name.clone());
    Some(made)
}

pub(super) fn config_map(map: &k8s::ConfigMap) -> KeyedBytes {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), Arc::from(value.as_bytes())));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), Arc::from(value.0.as_slice())));
    KeyedBytes { entries: text.chain(binary).collect() }
}

/// Where a pod is: as its own label says, else its node's.
pub(super) fn locality(pod: &Object<Pod>, nodes: &BTreeMap<Arc<str>, BTreeMap<String, String>>) -> String {
    if let Some(label) = pod.head.labels.get("istio-locality").filter(|label| !label.is_empty()) {
        // Istio separates by dots, since labels hold no slashes.
        return label.replace('.', "/");
    }
    let Some(node) = nodes.get(pod.spec.node.as_str()) else { return String::new() };
    let label = |name: &str| node.get(name).map(String::as_str).unwrap_or_default();
    match [REGION, ZONE, SUBZONE].map(label) {
        ["", "", ""] => String::new(),
        [region, zone, subzone] => format!("{region}/{zone}/{subzone}"),
    }
}

/// Whether a sidecar runs beside a pod and takes mesh TLS. In files every pod counts unless it opts out; in a cluster injection
/// has left its label.
pub(super) fn decide_injection(pod: &mut Object<Pod>, namespace: &Namespace, is_files: bool) {
    const INJECT: &str = "sidecar.istio.io/inject";
    let written_mode = pod.head.labels.get("security.istio.io/tlsMode");
    let says = pod.head.labels.get(INJECT).or_else(|| pod.head.annotations.get(INJECT));
    let is_out = pod.spec.is_host_network
        || pod.spec.gateway.is_some()
        || says.is_some_and(|value| value == "false")
        || namespace.labels.get("istio-injection").is_some_and(|value| value == "disabled");
    let is_ours = pod.head.labels.get(crate::mesh::PROXY_LABEL).is_some_and(|value| value == "sidecar");
    pod.spec.is_injected = if is_files { !is_out } else { is_ours };
    pod.spec.accepts_mesh_tls = match written_mode {
        Some(mode) => mode == "istio",
        None => is_files && !is_out,
    };
    // In files a label that is written says that the proxy there may be Istio's.
    pod.spec.is_palisade = is_ours || (pod.spec.is_injected && written_mode.is_none());
}
