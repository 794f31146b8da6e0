//! From documents to the plan, by the same functions that the control plane reads documents with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use palisade_compile::inputs::core::{self, TargetPort};

use palisade_compile::{ControlSettings, GatewayKind, Head, Inputs, ObjectKey, SourceDocument, SourceOptions};
use palisade_control::source::files;

use super::{ContainerPlan, GatewayPlan, NamePlan, Plan, PodId, PodPlan, ServicePlan, Transport, environment};

/// Reads the documents as they are now. What is wrong with them is the control plane's to say: a broken one counts as
/// absent here.
///
/// # Errors
/// Where a file cannot be read.
pub(in crate::dev) fn read(
    documents: &[PathBuf],
    namespace: &str,
    root_namespace: Option<&str>,
) -> anyhow::Result<Plan> {
    let read = files::read(documents)?;
    let options = SourceOptions {
        control: ControlSettings { root_namespace: root_namespace.map(Into::into), ..ControlSettings::default() },
        is_files: true,
    };
    let documents = read.documents.into_iter().map(|document| SourceDocument::parse(document, namespace));
    Ok(build(&Inputs::new(documents, &options)))
}

fn build(inputs: &Inputs) -> Plan {
    let plan = palisade_compile::plan(inputs);
    let pods = plan.pods.iter().filter_map(|pod| {
        let key = ObjectKey::new(pod.namespace.clone(), pod.name.clone());
        inputs.pods.get(&key).map(|object| self::pod(inputs, &object.head, &object.spec, &pod.annotations))
    });
    let gateways = plan.gateways.iter().map(|gateway| {
        let palisade_compile::GatewayPlan { key, kind, namespace, name, service_account, labels: _, ip, ports } =
            gateway;
        GatewayPlan {
            name: format!("{}/{}", key.namespace, key.name),
            pod: PodId { namespace: namespace.to_string(), name: name.to_string() },
            addresses: ip.iter().copied().collect(),
            service_account: service_account.clone(),
            is_gateway_api: *kind == GatewayKind::GatewayApi,
            // One of the ports that stand for it is as good as another.
            ports: ports.iter().filter_map(|(port, bound)| Some((*port, *bound.first()?))).collect(),
        }
    });
    Plan { pods: pods.collect(), gateways: gateways.collect(), services: services(inputs), names: names(inputs) }
}

fn pod(inputs: &Inputs, head: &Head, pod: &core::Pod, annotations: &BTreeMap<String, String>) -> PodPlan {
    PodPlan {
        id: PodId { namespace: head.key.namespace.to_string(), name: head.key.name.to_string() },
        uid: head.uid.to_string(),
        addresses: pod.ips.clone(),
        service_account: pod.service_account.clone(),
        hostname: pod.hostname.clone(),
        annotations: annotations.clone(),
        is_injected: pod.is_injected,
        containers: pod.containers.iter().map(|container| self::container(inputs, head, pod, container)).collect(),
    }
}

fn container(inputs: &Inputs, head: &Head, pod: &core::Pod, container: &core::Container) -> ContainerPlan {
    let (env, lacks) = match environment::resolve(inputs, head, pod, container) {
        Ok(env) => (env, None),
        Err(lacks) => (Vec::new(), Some(lacks)),
    };
    let core::Container { name, image, command, args, env: _, env_from: _, ports } = container;
    ContainerPlan {
        name: name.clone(),
        image: image.clone(),
        command: command.clone(),
        args: args.clone(),
        env,
        lacks,
        ports: ports.iter().map(|port| port.port).collect(),
    }
}

/// Every virtual address with its endpoints: what kube-proxy knows.
fn services(inputs: &Inputs) -> Vec<ServicePlan> {
    let mut plans = Vec::new();
    for service in inputs.services.values() {
        for port in &service.spec.ports {
            let transport = match port.transport.as_str() {
                "TCP" => Transport::Tcp,
                "UDP" => Transport::Udp,
                _ => continue,
            };
            let endpoints = endpoints(inputs, &service.head.key, &service.spec, port);
            plans.extend(service.spec.addresses.iter().map(|address| ServicePlan {
                address: *address,
                port: port.port,
                transport,
                endpoints: endpoints.clone(),
            }));
        }
    }
    plans
}

fn endpoints(inputs: &Inputs, key: &ObjectKey, service: &core::Service, port: &core::ServicePort) -> Vec<SocketAddr> {
    let slices: Vec<_> = slices(inputs, key).collect();
    if slices.is_empty() {
        return backends(inputs, key, service)
            .filter_map(|pod| {
                let port = match &port.target {
                    TargetPort::Number(port) => Some(*port),
                    TargetPort::Name(name) => pod.named_port(name),
                }?;
                Some(pod.ips.iter().map(move |ip| SocketAddr::new(*ip, port)))
            })
            .flatten()
            .collect();
    }
    let mut endpoints = Vec::new();
    for slice in slices {
        for slice_port in slice.ports.iter().filter(|slice_port| slice_port.name == port.name) {
            let addresses = slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)).flat_map(|e| &e.addresses);
            endpoints.extend(addresses.map(|address| SocketAddr::new(*address, slice_port.port)));
        }
    }
    endpoints
}

fn is_ready(endpoint: &core::SliceEndpoint) -> bool {
    endpoint.ready.unwrap_or(true)
}

fn slices<'a>(inputs: &'a Inputs, key: &'a ObjectKey) -> impl Iterator<Item = &'a core::EndpointSlice> {
    let of_service = |slice: &&core::EndpointSlice| *slice.service == *key.name;
    let in_namespace = inputs.endpoint_slices.iter().filter(|(slice, _)| slice.namespace == key.namespace);
    in_namespace.map(|(_, slice)| &slice.spec).filter(of_service)
}

/// The pods that a Service's selector means, as far as they take traffic.
fn backends<'a>(
    inputs: &'a Inputs,
    key: &'a ObjectKey,
    service: &'a core::Service,
) -> impl Iterator<Item = &'a core::Pod> {
    inputs
        .pods_in(&key.namespace)
        .filter(|pod| !service.selector.is_empty() && is_selected(&service.selector, &pod.head.labels))
        .map(|pod| &pod.spec)
        .filter(|pod| !pod.is_gone && (pod.is_ready || service.publish_not_ready))
}

fn is_selected(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The names that cluster DNS knows.
fn names(inputs: &Inputs) -> BTreeMap<String, NamePlan> {
    let domain = &inputs.settings.cluster_domain;
    let mut names = BTreeMap::new();
    for service in inputs.services.values() {
        let key = &service.head.key;
        let name = format!("{}.{}.svc.{domain}", key.name, key.namespace);
        let plan = match &service.spec.external_name {
            Some(target) => NamePlan::Alias(target.trim_end_matches('.').to_ascii_lowercase()),
            None if service.spec.is_headless => {
                for pod in backends(inputs, key, &service.spec) {
                    // The headless Service that a pod names as its subdomain gives it a name of its own.
                    if pod.subdomain.as_deref() == Some(&*key.name)
                        && let Some(hostname) = &pod.hostname
                    {
                        names.insert(format!("{hostname}.{name}"), NamePlan::Addresses(pod.ips.clone()));
                    }
                }
                NamePlan::Addresses(headless_addresses(inputs, key, &service.spec))
            }
            None => NamePlan::Addresses(service.spec.addresses.clone()),
        };
        names.insert(name, plan);
    }
    names
}

fn headless_addresses(inputs: &Inputs, key: &ObjectKey, service: &core::Service) -> Vec<IpAddr> {
    let slices: Vec<_> = slices(inputs, key).collect();
    if slices.is_empty() {
        return backends(inputs, key, service).flat_map(|pod| pod.ips.iter().copied()).collect();
    }
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| is_ready(endpoint));
    endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use palisade_crds::document;

    use super::*;

    const DOCUMENTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 9080, targetPort: web}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: api.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: reviews}
  ports: [{port: 5432}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1}
spec:
  replicas: 2
  selector: {matchLabels: {app: reviews}}
  template:
    metadata: {labels: {app: reviews}}
    spec:
      containers:
      - {name: reviews, image: example.com/reviews:1, args: [--x], ports: [{name: web, containerPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: web}
spec:
  gatewayClassName: palisade
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

    fn plan() -> Plan {
        let read = document::read("test.yaml", DOCUMENTS.as_bytes());
        assert!(read.unreadable.is_empty(), "{:?}", read.unreadable);
        let documents = read.documents.into_iter().map(|document| SourceDocument::parse(document, "default"));
        build(&Inputs::new(documents, &SourceOptions { control: ControlSettings::default(), is_files: true }))
    }

    #[test]
    fn a_deployment_becomes_its_pods() {
        let plan = plan();
        let names: Vec<String> = plan.pods.iter().map(|pod| pod.id.to_string()).collect();
        assert_eq!(names, ["default/reviews-v1-0", "default/reviews-v1-1"]);
        let pod = &plan.pods[0];
        assert!(pod.is_injected && pod.addresses.len() == 1);
        assert_eq!(pod.containers[0].ports, [8080]);
    }

    #[test]
    fn a_service_leads_to_the_named_port_of_its_pods() {
        let plan = plan();
        let service = &plan.services[0];
        let expected: Vec<SocketAddr> = plan.pods.iter().map(|pod| SocketAddr::new(pod.addresses[0], 8080)).collect();
        assert_eq!((service.port, &service.endpoints), (9080, &expected));
        let name = &plan.names["reviews.default.svc.cluster.local"];
        assert_eq!(name, &NamePlan::Addresses(vec![service.address]));
    }

    #[test]
    fn headless_names_are_pods_and_external_names_are_aliases() {
        let plan = plan();
        let addresses: Vec<IpAddr> = plan.pods.iter().map(|pod| pod.addresses[0]).collect();
        assert_eq!(plan.names["db.default.svc.cluster.local"], NamePlan::Addresses(addresses));
        let alias = NamePlan::Alias("api.example.com".to_owned());
        assert_eq!(plan.names["outside.default.svc.cluster.local"], alias);
    }

    #[test]
    fn a_gateway_has_a_process_and_its_listeners_ports() {
        let plan = plan();
        let gateway = &plan.gateways[0];
        assert_eq!((gateway.name.as_str(), gateway.is_gateway_api), ("web/edge", true));
        assert_eq!(gateway.ports, BTreeMap::from([(80, 80)]));
    }
}
