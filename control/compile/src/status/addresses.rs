//! Where clients reach a Gateway, and whether that is where it asks to be reached.

use std::{net::IpAddr, sync::Arc};

use palisade_crds::gateway_api::Gateway;

use crate::{
    infrastructure::{named_services, object_name},
    inputs::core,
    object::{Object, ObjectKey},
    resolve::Resolved,
};

/// The addresses of a Gateway.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// `IPAddress` or `Hostname`, and the value.
    pub(super) found: Vec<(&'static str, String)>,
    /// Services that it names and that are not there.
    missing: Vec<String>,
}

impl Addresses {
    /// What a Gateway asks for and does not have, if there is something.
    pub(super) fn unusable(&self, document: &Object<Gateway>) -> Option<String> {
        if let Some(host) = self.missing.first() {
            return Some(format!("address `{host}` names no Service of this cluster"));
        }
        let asked = document.spec.addresses.iter().filter(|address| address.address_type == "IPAddress");
        let asked = asked.filter_map(|address| address.value.as_deref()).filter(|value| !value.is_empty());
        let is_there = |value: &&str| {
            let address = value.parse::<IpAddr>().ok();
            address.is_some_and(|address| self.found.iter().any(|(_, own)| own.parse() == Ok(address)))
        };
        let value = asked.into_iter().find(|value| !is_there(value))?;
        Some(format!("address `{value}` is not one that the Gateway has"))
    }
}

/// Where clients reach a Gateway: what the Services that it names, else its own, are given from outside; where nobody gives them
/// anything, their own addresses; without a Service those of its pods.
pub(super) fn of(resolved: &Resolved, document: &Object<Gateway>) -> Addresses {
    let inputs = &resolved.inputs;
    let key = &document.head.key;
    let named = named_services(inputs, document);
    if !named.is_empty() {
        let mut addresses = Addresses::default();
        for (host, service) in named {
            match service.and_then(|service| inputs.services.get(&service)) {
                Some(service) => addresses.found.extend(of_service(service)),
                None => addresses.missing.push(host),
            }
        }
        return addresses;
    }
    let name = object_name(&key.name, &document.spec.gateway_class_name);
    if let Some(service) = inputs.services.get(&ObjectKey::new(Arc::clone(&key.namespace), name.as_str())) {
        return Addresses { found: of_service(service), missing: Vec::new() };
    }
    let served = resolved.gateway_api.served();
    let serves = |pod: &&Object<core::Pod>| {
        let is_there = pod.spec.is_ready && !pod.spec.is_gone;
        is_there && served.by(&key.namespace, &pod.head.labels).contains(key)
    };
    let pods = inputs.pods_in(&key.namespace).filter(serves);
    Addresses { found: pods.filter_map(|pod| pod.spec.ips.first()).map(ip).collect(), missing: Vec::new() }
}

fn ip(address: &IpAddr) -> (&'static str, String) {
    ("IPAddress", address.to_string())
}

fn of_service(service: &Object<core::Service>) -> Vec<(&'static str, String)> {
    let spec = &service.spec;
    let outside = spec.external_addresses.iter().map(ip);
    let outside: Vec<_> =
        outside.chain(spec.external_hostnames.iter().map(|host| ("Hostname", host.clone()))).collect();
    // In a cluster somebody gives it an address; in files nobody does.
    let is_awaited = spec.is_load_balancer && !service.head.uid.is_empty();
    if outside.is_empty() && !is_awaited { spec.addresses.iter().map(ip).collect() } else { outside }
}
