//! What each Gateway API Gateway needs to run in a cluster: names, ports, addresses, and what its owner says about the objects.

mod names;
mod parameters;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use palisade_crds::gateway_api::{Gateway, GatewayAddress};

pub use names::label_value;
pub(crate) use names::object_name;
pub use parameters::Overlays;
pub(crate) use parameters::{of_class, of_gateway, reference_of_class, reference_of_gateway};

use crate::{
    inputs::{EGRESS_CLASS, Inputs, is_served_class},
    mesh::Mesh,
    object::{Object, ObjectKey},
    resolve::gateway_api::{ListenerProtocol, ResolvedGateway},
};

/// What there is to be in a cluster for a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Objects that run it.
    Objects(Box<Infrastructure>),
    /// None: somebody else runs it.
    Nothing,
    /// Whatever is there: what its owner says cannot be read.
    Unchanged,
}

/// What runs a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Infrastructure {
    /// The Gateway.
    pub gateway: ObjectKey,
    /// Its UID.
    pub uid: Arc<str>,
    /// Its class.
    pub class: String,
    /// Name of all objects.
    pub name: String,
    /// Value of the label that names the Gateway.
    pub label: String,
    /// Value of the label that names its class.
    pub class_label: String,
    /// It is reached from outside the cluster.
    pub is_external: bool,
    /// Ports of its Service.
    pub ports: Vec<ExposedPort>,
    /// The address that it asks for.
    pub address: Option<IpAddr>,
    /// Labels of everything that is made.
    pub labels: BTreeMap<String, String>,
    /// Annotations of everything that is made.
    pub annotations: BTreeMap<String, String>,
    /// What is laid over the objects, in order.
    pub overlays: Vec<Overlays>,
}

/// A port of a Gateway's Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExposedPort {
    /// Its name.
    pub name: String,
    /// Its number, the same at the pod.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub transport: &'static str,
    /// `appProtocol`.
    pub app_protocol: &'static str,
}

/// What there is to be for every Gateway of the mesh.
pub fn infrastructure(mesh: &Mesh) -> BTreeMap<ObjectKey, Wanted> {
    let inputs = mesh.inputs();
    let gateways = inputs.api_gateways.values();
    gateways.map(|gateway| (gateway.head.key.clone(), wanted(mesh, inputs, gateway))).collect()
}

fn wanted(mesh: &Mesh, inputs: &Inputs, gateway: &Object<Gateway>) -> Wanted {
    let class = &gateway.spec.gateway_class_name;
    let Some(resolved) = mesh.resolved().gateway_api.gateway(&gateway.head.key) else { return Wanted::Nothing };
    if !is_served_class(inputs, class) || is_manual(&gateway.spec) {
        return Wanted::Nothing;
    }
    let Ok(overlays) = of_gateway(inputs, gateway) else { return Wanted::Unchanged };
    let ports = exposed_ports(resolved);
    if ports.is_empty() {
        // A Service without ports is none.
        return Wanted::Unchanged;
    }
    let own = gateway.spec.infrastructure.as_ref();
    let address = gateway.spec.addresses.iter().find_map(|address| address.value.as_deref()?.parse().ok());
    let key = &gateway.head.key;
    Wanted::Objects(Box::new(Infrastructure {
        gateway: key.clone(),
        uid: Arc::clone(&gateway.head.uid),
        class: class.clone(),
        name: object_name(&key.name, class),
        label: label_value(&key.name),
        class_label: label_value(class),
        is_external: class != EGRESS_CLASS,
        ports,
        address,
        labels: own.map(|own| own.labels.clone()).unwrap_or_default(),
        annotations: own.map(|own| own.annotations.clone()).unwrap_or_default(),
        overlays,
    }))
}

/// Whether a Gateway names the Services that lead to it: their pods run it, and none are made.
pub(crate) fn is_manual(gateway: &Gateway) -> bool {
    gateway.addresses.iter().any(is_service_name)
}

fn is_service_name(address: &GatewayAddress) -> bool {
    address.address_type == "Hostname" && address.value.as_deref().is_some_and(|value| !value.is_empty())
}

/// The Services that a Gateway names by `SERVICE`, `SERVICE.NAMESPACE` or longer names; `None` stands for a name that is none of these.
pub(crate) fn named_services(inputs: &Inputs, gateway: &Object<Gateway>) -> Vec<(String, Option<ObjectKey>)> {
    let domain = format!(".svc.{}", inputs.settings.cluster_domain);
    let key = |host: &str| {
        let short = host.strip_suffix(&domain).or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
        match short.split_once('.') {
            None => Some(ObjectKey::new(Arc::clone(&gateway.head.key.namespace), short)),
            Some((name, namespace)) if !namespace.contains('.') => Some(ObjectKey::new(namespace, name)),
            Some(_) => None,
        }
    };
    let hosts = gateway.spec.addresses.iter().filter(|address| is_service_name(address));
    hosts.filter_map(|address| address.value.as_deref()).map(|host| (host.to_owned(), key(host))).collect()
}

/// One port for each that listeners have, named after the first of its listeners where a port can have that name.
fn exposed_ports(gateway: &ResolvedGateway) -> Vec<ExposedPort> {
    ports(gateway.listeners.iter().map(|listener| (&*listener.name, listener.port, listener.protocol)))
}

/// Ports of a Service for listeners by name, port and protocol.
pub(crate) fn ports<'a>(listeners: impl Iterator<Item = (&'a str, u16, ListenerProtocol)>) -> Vec<ExposedPort> {
    let mut ports: Vec<ExposedPort> = Vec::new();
    for (name, port, protocol) in listeners {
        let (app_protocol, transport) = match protocol {
            ListenerProtocol::Http => ("http", "TCP"),
            ListenerProtocol::Https => ("https", "TCP"),
            ListenerProtocol::TlsTerminate | ListenerProtocol::TlsPassthrough => ("tls", "TCP"),
            ListenerProtocol::Tcp => ("tcp", "TCP"),
            ListenerProtocol::Udp => ("udp", "UDP"),
            // It is not served.
            ListenerProtocol::Unknown => continue,
        };
        if ports.iter().any(|other| other.port == port && other.transport == transport) {
            continue;
        }
        let is_free = |name: &str| !ports.iter().any(|other| other.name == name);
        let plain = name.to_ascii_lowercase();
        let name = if is_port_name(&plain) && is_free(&plain) { plain } else { format!("{app_protocol}-{port}") };
        let name = if is_free(&name) { name } else { format!("listener-{port}-{}", transport.to_ascii_lowercase()) };
        ports.push(ExposedPort { name, port, transport, app_protocol });
    }
    ports
}

fn is_port_name(text: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(is_part) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_of_a_service_for_each_that_listeners_have() {
        let made = ports(
            [
                ("http", 80, ListenerProtocol::Http),
                ("a.example", 443, ListenerProtocol::Https),
                ("b.example", 443, ListenerProtocol::TlsPassthrough),
                ("dns", 53, ListenerProtocol::Udp),
                ("dns-tcp", 53, ListenerProtocol::Tcp),
                ("https-443", 8443, ListenerProtocol::Https),
                ("odd", 99, ListenerProtocol::Unknown),
            ]
            .into_iter(),
        );
        let told: Vec<String> =
            made.iter().map(|p| format!("{} {} {} {}", p.name, p.port, p.transport, p.app_protocol)).collect();
        assert_eq!(
            told,
            [
                "http 80 TCP http",
                "https-443 443 TCP https",
                "dns 53 UDP udp",
                "dns-tcp 53 TCP tcp",
                "https-8443 8443 TCP https",
            ]
        );
    }
}
