//! Roots that Gateway API documents name as lists: each list is one bundle under a key of its own.

use std::sync::Arc;

use palisade_crds::gateway_api::{LocalObjectReference, ObjectReference};
use palisade_model::{origin::Origin, secret::Secret};

use super::{GROUP, Grants, Referrer};
use crate::{
    inputs::{Inputs, core::KeyedBytes},
    object::{Object, ObjectKey},
};

/// The key of the roots that a Gateway trusts its clients by, on one port or on all that have no settings of their own.
pub(crate) fn frontend_key(gateway: &ObjectKey, port: Option<u16>) -> Arc<str> {
    match port {
        Some(port) => format!("frontend/{gateway}/{port}").into(),
        None => format!("frontend/{gateway}").into(),
    }
}

/// The key of the roots of a BackendTLSPolicy.
pub(crate) fn backend_key(policy: &ObjectKey) -> Arc<str> {
    format!("backendtls/{policy}").into()
}

/// Every bundle that documents name and that is complete. One with a reference that leads nowhere is not there: whoever
/// needs it refuses.
pub(crate) fn bundles(inputs: &Inputs) -> Vec<(Secret, Origin)> {
    let grants = Grants::new(inputs);
    let mut bundles = Vec::new();
    for policy in inputs.backend_tls_policies.values() {
        let references = &policy.spec.validation.ca_certificate_refs;
        if references.is_empty() {
            continue;
        }
        let namespace = &policy.head.key.namespace;
        let parts: Option<Vec<String>> = references
            .iter()
            .map(|LocalObjectReference { group, kind, name }| pem(inputs, group, kind, namespace, name))
            .collect();
        bundles.extend(parts.map(|parts| bundle(backend_key(&policy.head.key), &parts, policy.head.origin())));
    }
    for gateway in inputs.api_gateways.values() {
        let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { continue };
        let ports = frontend.per_port.iter().map(|own| (Some(own.port), &own.tls));
        for (port, settings) in std::iter::once((None, &frontend.default)).chain(ports) {
            let Some(validation) = &settings.validation else { continue };
            let own = &gateway.head.key.namespace;
            let part = |reference: &ObjectReference| {
                let ObjectReference { group, kind, name, namespace } = reference;
                let namespace = namespace.as_deref().unwrap_or(own);
                let from = Referrer { group: GROUP, kind: "Gateway", namespace: own };
                grants.permits(from, namespace, group, kind, name).then(|| pem(inputs, group, kind, namespace, name))?
            };
            let parts: Option<Vec<String>> = validation.ca_certificate_refs.iter().map(part).collect();
            let key = frontend_key(&gateway.head.key, port);
            bundles.extend(parts.map(|parts| bundle(key, &parts, gateway.head.origin())));
        }
    }
    bundles
}

fn bundle(key: Arc<str>, parts: &[String], origin: Origin) -> (Secret, Origin) {
    (Secret { key, certificate: None, private_key: None, ca: Some(parts.join("\n").into()) }, origin)
}

/// The roots of a ConfigMap or Secret: key `ca.crt`.
pub(crate) fn pem(inputs: &Inputs, group: &str, kind: &str, namespace: &str, name: &str) -> Option<String> {
    let objects = match (group, kind) {
        ("" | "core", "ConfigMap") => &inputs.config_maps,
        ("" | "core", "Secret") => &inputs.secrets,
        _ => return None,
    };
    let object: &Object<KeyedBytes> = objects.get(&ObjectKey::new(namespace, name))?;
    let text = std::str::from_utf8(object.spec.entries.get("ca.crt")?).ok()?;
    text.contains("BEGIN CERTIFICATE").then(|| text.to_owned())
}
