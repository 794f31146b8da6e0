//! Pods of gateways that no document runs: one per Gateway API Gateway of our classes, one per Istio Gateway selector.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    infrastructure::{is_manual, label_value, object_name, ports},
    inputs::{Inputs, core, served_gateways::ServedGateways},
    object::{Head, Object, ObjectKey, selects},
    resolve::gateway_api::{ListenerProtocol, attached_sets},
};

/// Label of pods that serve a Gateway API Gateway.
pub(crate) const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// Label with that Gateway's class.
const GATEWAY_CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
/// GatewayClasses that are served.
pub(crate) const CLASSES: [&str; 3] = ["palisade", EGRESS_CLASS, ISTIO_CLASS];
/// The class of gateways that are reached from inside the cluster alone.
pub(crate) const EGRESS_CLASS: &str = "palisade-egress";
/// The class that others may serve in the same cluster (`istioClasses`).
const ISTIO_CLASS: &str = "istio";
/// Name of the controller in GatewayClasses.
pub(crate) const CONTROLLER: &str = "palisade.dev/gateway-controller";

/// Which documents a gateway pod serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GatewayKind {
    /// One Gateway API Gateway.
    GatewayApi,
    /// All Istio Gateways that select it.
    Istio,
}

/// Whether a class is one of ours: by name, or by a GatewayClass with our controller.
pub(crate) fn is_served_class(inputs: &Inputs, class: &str) -> bool {
    let key = ObjectKey::new("", class);
    let is_by_name = CLASSES.contains(&class) && (class != ISTIO_CLASS || inputs.settings.istio_classes);
    is_by_name || inputs.gateway_classes.get(&key).is_some_and(|written| written.spec.controller_name == CONTROLLER)
}

/// Pods for gateways that have none, in a fixed order.
pub(crate) fn missing(inputs: &Inputs) -> Vec<Object<core::Pod>> {
    let mut pods = Vec::new();
    let served = ServedGateways::new(inputs);
    for gateway in inputs.api_gateways.values() {
        let class = &gateway.spec.gateway_class_name;
        if !is_served_class(inputs, class) {
            continue;
        }
        let labels = BTreeMap::from([
            (GATEWAY_NAME_LABEL.to_owned(), label_value(&gateway.head.key.name)),
            (GATEWAY_CLASS_LABEL.to_owned(), label_value(class)),
        ]);
        if is_run(&served, inputs, &gateway.head.key) {
            continue;
        }
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let labels = labels.into_iter().chain(infrastructure.map(|i| i.labels.clone()).unwrap_or_default()).collect();
        let name = object_name(&gateway.head.key.name, class);
        let key = ObjectKey::new(Arc::clone(&gateway.head.key.namespace), name.as_str());
        pods.push(pod(key, &name, labels, GatewayKind::GatewayApi, gateway.head.key.clone()));
    }
    let selectors: BTreeSet<&BTreeMap<String, String>> = inputs
        .gateways
        .values()
        .map(|gateway| &gateway.spec.selector)
        .filter(|selector| !selector.is_empty())
        .filter(|selector| !inputs.pods.values().any(|pod| selects(selector, &pod.head.labels)))
        .collect();
    let root = &inputs.settings.root_namespace;
    let mut names = BTreeSet::new();
    for selector in selectors {
        let Some(name) = selector.get("istio").or_else(|| selector.values().next()) else { continue };
        // Two selectors with one name: the later ones are told apart by number.
        let name = (1..).map(|n: u32| if n == 1 { name.clone() } else { format!("{name}-{n}") }).find(|name| {
            let key = ObjectKey::new(Arc::clone(root), name.as_str());
            !inputs.pods.contains_key(&key) && names.insert(name.clone())
        });
        let Some(name) = name else { continue };
        let key = ObjectKey::new(Arc::clone(root), name.as_str());
        pods.push(pod(key.clone(), &name, selector.clone(), GatewayKind::Istio, key));
    }
    pods
}

/// Whether a pod is there that serves a Gateway.
fn is_run(served: &ServedGateways, inputs: &Inputs, gateway: &ObjectKey) -> bool {
    inputs.pods.values().any(|pod| served.by(&pod.head.key.namespace, &pod.head.labels).contains(gateway))
}

/// Services of Gateway API Gateways that have none, as the control plane makes them in a cluster: `NAME-CLASS`, with the ports
/// of the listeners.
pub(super) fn missing_services(inputs: &Inputs) -> Vec<Object<core::Service>> {
    let mut services = Vec::new();
    for gateway in inputs.api_gateways.values() {
        let class = &gateway.spec.gateway_class_name;
        let key = ObjectKey::new(
            Arc::clone(&gateway.head.key.namespace),
            object_name(&gateway.head.key.name, class).as_str(),
        );
        let is_there = inputs.services.contains_key(&key) || is_manual(&gateway.spec);
        if !is_served_class(inputs, class) || is_there {
            continue;
        }
        let of_sets = attached_sets(inputs, gateway);
        let of_sets = of_sets.iter().flat_map(|set| &set.spec.listeners);
        let listeners = gateway.spec.listeners.iter().chain(of_sets);
        let listeners = listeners.map(|own| (own.name.as_str(), own.port, ListenerProtocol::of(own)));
        let ports = ports(listeners).into_iter().map(|exposed| core::ServicePort {
            name: exposed.name,
            port: exposed.port,
            target: core::TargetPort::Number(exposed.port),
            transport: exposed.transport.to_owned(),
            app_protocol: Some(exposed.app_protocol.to_owned()),
        });
        services.push(Object {
            head: Head {
                group: "".into(),
                kind: "Service".into(),
                key,
                uid: "".into(),
                generation: 0,
                created: i64::MIN,
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                allocated: None,
            },
            spec: core::Service {
                selector: BTreeMap::from([(GATEWAY_NAME_LABEL.to_owned(), label_value(&gateway.head.key.name))]),
                ports: ports.collect(),
                families: vec![core::Family::V4],
                ..core::Service::default()
            },
        });
    }
    services
}

fn pod(
    key: ObjectKey,
    service_account: &str,
    labels: BTreeMap<String, String>,
    kind: GatewayKind,
    gateway: ObjectKey,
) -> Object<core::Pod> {
    Object {
        head: Head {
            group: "".into(),
            kind: "Pod".into(),
            key,
            uid: "".into(),
            generation: 0,
            created: i64::MIN,
            labels,
            annotations: BTreeMap::new(),
            allocated: None,
        },
        spec: core::Pod {
            service_account: service_account.to_owned(),
            is_ready: true,
            gateway: Some((kind, gateway)),
            ..core::Pod::default()
        },
    }
}
