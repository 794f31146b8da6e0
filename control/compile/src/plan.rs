//! What a mesh on one machine has to run: pods and gateways, as `palisade dev` starts them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use palisade_model::{identity::SpiffeId, settings::ProxyKind};

use crate::{
    inputs::{GatewayKind, Inputs, core},
    lower::client::Proxy,
    object::{self, ObjectKey},
    resolve::{gateway_api::attached_sets, gateways},
};

/// Pods and gateways, each list sorted by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Pods of applications.
    pub pods: Vec<PodPlan>,
    /// Gateways.
    pub gateways: Vec<GatewayPlan>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Primary address.
    pub ip: Option<IpAddr>,
    /// Service account.
    pub service_account: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Containers in order.
    pub containers: Vec<core::Container>,
    /// A sidecar runs beside it.
    pub is_injected: bool,
    /// The pod shares the machine's network.
    pub host_network: bool,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPlan {
    /// `NAMESPACE/NAME` by which people know it: the Gateway API Gateway's, or the pod's.
    pub key: ObjectKey,
    /// Which documents it serves.
    pub kind: GatewayKind,
    /// Namespace of its pod.
    pub namespace: Arc<str>,
    /// Name of its pod.
    pub name: Arc<str>,
    /// Service account of its pod.
    pub service_account: String,
    /// Labels of its pod.
    pub labels: BTreeMap<String, String>,
    /// Address of its pod.
    pub ip: Option<IpAddr>,
    /// Ports that documents declare, each with the ports that the pod binds for it.
    pub ports: BTreeMap<u16, BTreeSet<u16>>,
}

/// What is to be run for these documents.
pub fn plan(inputs: &Inputs) -> Plan {
    let mut pods = Vec::new();
    let mut gateways = Vec::new();
    for pod in inputs.pods.values().filter(|pod| !pod.spec.is_gone) {
        let key = &pod.head.key;
        match &pod.spec.gateway {
            None => pods.push(PodPlan {
                namespace: Arc::clone(&key.namespace),
                name: Arc::clone(&key.name),
                ip: pod.spec.ips.first().copied(),
                service_account: pod.spec.service_account.clone(),
                labels: pod.head.labels.clone(),
                annotations: pod.head.annotations.clone(),
                containers: pod.spec.containers.clone(),
                is_injected: pod.spec.is_injected,
                host_network: pod.spec.is_host_network,
            }),
            Some((kind, gateway)) => gateways.push(GatewayPlan {
                key: gateway.clone(),
                kind: *kind,
                namespace: Arc::clone(&key.namespace),
                name: Arc::clone(&key.name),
                service_account: pod.spec.service_account.clone(),
                labels: pod.head.labels.clone(),
                ip: pod.spec.ips.first().copied(),
                ports: gateway_ports(inputs, pod, *kind, gateway),
            }),
        }
    }
    Plan { pods, gateways }
}

fn gateway_ports(
    inputs: &Inputs,
    pod: &core::PodObject,
    kind: GatewayKind,
    gateway: &ObjectKey,
) -> BTreeMap<u16, BTreeSet<u16>> {
    let Ok(identity) =
        SpiffeId::new(inputs.settings.trust_domain.clone(), &pod.head.key.namespace, &pod.spec.service_account)
    else {
        return BTreeMap::new();
    };
    let proxy = Proxy {
        kind: ProxyKind::Gateway,
        namespace: Arc::clone(&pod.head.key.namespace),
        name: Arc::clone(&pod.head.key.name),
        labels: pod.head.labels.clone(),
        identity,
        addresses: pod.spec.ips.clone(),
        gateways: (kind == GatewayKind::GatewayApi).then(|| gateway.clone()).into_iter().collect(),
        topology: None,
        locality: Default::default(),
        node: String::new(),
        network: String::new(),
    };
    let declared: BTreeSet<u16> = match kind {
        GatewayKind::GatewayApi => {
            let gateway = inputs.api_gateways.get(gateway);
            let sets = gateway.map(|gateway| attached_sets(inputs, gateway)).unwrap_or_default();
            let own = gateway.iter().flat_map(|gateway| &gateway.spec.listeners);
            let listeners = own.chain(sets.iter().flat_map(|set| &set.spec.listeners));
            listeners.filter(|listener| listener.protocol != "UDP").map(|listener| listener.port).collect()
        }
        GatewayKind::Istio => inputs
            .gateways
            .values()
            .filter(|gateway| object::selects(&gateway.spec.selector, &pod.head.labels))
            .flat_map(|gateway| &gateway.spec.servers)
            .filter_map(|server| u16::try_from(server.port.number).ok())
            .filter(|port| *port > 0)
            .collect(),
    };
    declared.into_iter().map(|port| (port, gateways::target_ports(inputs, &proxy, port))).collect()
}
