//! Secrets and ConfigMaps that documents refer to: all that compiling reads of them, so that no other one need be read.

use std::{collections::BTreeSet, sync::Arc};

use palisade_crds::gateway_api::ObjectReference;

use crate::{
    infrastructure::{reference_of_class, reference_of_gateway},
    inputs::{CONTROLLER, Inputs, is_served_class},
    object::selects,
    resolve::gateway_api::{GROUP, Grants, Referrer},
};

/// Kinds of objects that hold certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferenceKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// An object that a document refers to, whether it is there or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Its kind.
    pub kind: ReferenceKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Every Secret and ConfigMap that the result of compiling depends on, besides the mesh configuration. References that no
/// ReferenceGrant allows are none, and names that no object can have are left out.
pub fn references(inputs: &Inputs) -> BTreeSet<Reference> {
    let mut found = Found::default();
    let grants = Grants::new(inputs);
    for gateway in inputs.api_gateways.values() {
        if !is_served_class(inputs, &gateway.spec.gateway_class_name) {
            continue;
        }
        let own = &gateway.head.key.namespace;
        // What is no ConfigMap is not read, and said in status.
        if let Ok(Some(key)) = reference_of_gateway(gateway) {
            found.add(ReferenceKind::ConfigMap, &key.namespace, &key.name);
        }
        let from = Referrer { group: GROUP, kind: "Gateway", namespace: own };
        let certificates =
            gateway.spec.listeners.iter().flat_map(|listener| &listener.tls).flat_map(|tls| &tls.certificate_refs);
        let shown = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
        let shown = shown.and_then(|backend| backend.client_certificate_ref.as_ref());
        for reference in certificates.chain(shown) {
            let namespace = reference.namespace.as_deref().unwrap_or(own);
            let is_secret = reference.group.is_empty() && reference.kind == "Secret";
            if is_secret && grants.permits(from, namespace, "", "Secret", &reference.name) {
                found.add(ReferenceKind::Secret, namespace, &reference.name);
            }
        }
        let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { continue };
        let settings = std::iter::once(&frontend.default).chain(frontend.per_port.iter().map(|port| &port.tls));
        for reference in settings.flat_map(|tls| &tls.validation).flat_map(|validation| &validation.ca_certificate_refs)
        {
            let ObjectReference { group, kind, name, namespace } = reference;
            let namespace = namespace.as_deref().unwrap_or(own);
            if grants.permits(from, namespace, group, kind, name) {
                found.object(group, kind, namespace, name);
            }
        }
    }
    for class in inputs.gateway_classes.values().filter(|class| class.spec.controller_name == CONTROLLER) {
        if let Ok(Some(key)) = reference_of_class(&class.spec) {
            found.add(ReferenceKind::ConfigMap, &key.namespace, &key.name);
        }
    }
    for policy in inputs.backend_tls_policies.values() {
        for reference in &policy.spec.validation.ca_certificate_refs {
            found.object(&reference.group, &reference.kind, &policy.head.key.namespace, &reference.name);
        }
    }
    found.of_istio(inputs);
    found.0
}

#[derive(Default)]
struct Found(BTreeSet<Reference>);

impl Found {
    /// What Istio's documents name: a Secret in the namespace of the pod that needs it.
    fn of_istio(&mut self, inputs: &Inputs) {
        let mut gateways: BTreeSet<&Arc<str>> = BTreeSet::new();
        for gateway in inputs.gateways.values() {
            let selector = &gateway.spec.selector;
            let pods = inputs.pods.values().filter(|pod| selects(selector, &pod.head.labels));
            let namespaces: BTreeSet<&Arc<str>> = pods.map(|pod| &pod.head.key.namespace).collect();
            for tls in gateway.spec.servers.iter().flat_map(|server| &server.tls) {
                let names = [&tls.credential_name, &tls.ca_cert_credential_name];
                for name in names.into_iter().chain(tls.credential_names.iter().flatten()) {
                    namespaces.iter().for_each(|namespace| self.credential(namespace, name));
                }
            }
            gateways.extend(namespaces);
        }
        gateways
            .extend(inputs.pods.values().filter(|pod| pod.spec.gateway.is_some()).map(|pod| &pod.head.key.namespace));
        for rule in inputs.destination_rules.values() {
            let policies = rule
                .spec
                .traffic_policy
                .iter()
                .chain(rule.spec.subsets.iter().flat_map(|subset| &subset.traffic_policy));
            for policy in policies {
                let ports = policy.port_level_settings.iter().flatten().flat_map(|port| &port.tls);
                for tls in policy.tls.iter().chain(ports) {
                    // Sidecars read it where a selector names them: in their own namespace.
                    self.credential(&rule.head.key.namespace, &tls.credential_name);
                    gateways.iter().for_each(|namespace| self.credential(namespace, &tls.credential_name));
                }
            }
        }
    }

    /// A `credentialName`, with the Secret beside it that may hold its roots.
    fn credential(&mut self, namespace: &Arc<str>, name: &str) {
        let name = name.strip_prefix("kubernetes://").unwrap_or(name);
        if !name.is_empty() {
            self.add(ReferenceKind::Secret, namespace, name);
            self.add(ReferenceKind::Secret, namespace, &format!("{name}-cacert"));
        }
    }

    fn object(&mut self, group: &str, kind: &str, namespace: &str, name: &str) {
        match (group, kind) {
            ("" | "core", "Secret") => self.add(ReferenceKind::Secret, namespace, name),
            ("" | "core", "ConfigMap") => self.add(ReferenceKind::ConfigMap, namespace, name),
            _ => {}
        }
    }

    fn add(&mut self, kind: ReferenceKind, namespace: &str, name: &str) {
        if is_name(namespace) && is_name(name) {
            self.0.insert(Reference { kind, namespace: namespace.into(), name: name.into() });
        }
    }
}

/// Whether an object can have that name. Others would mean something else in a selector.
fn is_name(text: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_part)
}
