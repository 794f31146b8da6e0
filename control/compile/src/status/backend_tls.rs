//! BackendTLSPolicies: our entries of `ancestors`, one for each Gateway that a target serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::gateway_api::{BackendTlsPolicy, BackendTlsTarget};

use super::{Attachment, Body, Concern, Condition, MAX_ANCESTORS, ObjectStatus, Reference};
use crate::{
    object::{Object, ObjectKey},
    reports::ObjectName,
    resolve::{
        Resolved,
        gateway_api::{GROUP, authorities},
    },
};

/// Gateways by the Services that their routes send requests to.
type Users = BTreeMap<ObjectKey, BTreeSet<ObjectKey>>;

/// All policies.
pub(super) fn policies(resolved: &Resolved, objects: &mut BTreeMap<ObjectName, Arc<ObjectStatus>>) {
    if resolved.inputs.backend_tls_policies.is_empty() {
        return;
    }
    let users = users(resolved);
    for policy in resolved.inputs.backend_tls_policies.values() {
        let body = one(resolved, policy, &users);
        objects.insert(ObjectName::of(&policy.head), Arc::new(ObjectStatus { origin: policy.head.origin(), body }));
    }
}

fn users(resolved: &Resolved) -> Users {
    let mut users = Users::new();
    for gateway in resolved.gateway_api.gateways() {
        for route in gateway.listeners.iter().flat_map(|listener| &listener.routes).map(|attached| &attached.route) {
            for backend in route.rules.iter().flat_map(|rule| &rule.backend_refs) {
                let namespace =
                    backend.namespace.as_deref().map_or_else(|| Arc::clone(&route.head.key.namespace), Arc::from);
                let service = ObjectKey::new(namespace, backend.name.as_str());
                users.entry(service).or_default().insert(gateway.head.key.clone());
            }
        }
    }
    users
}

fn one(resolved: &Resolved, policy: &Object<BackendTlsPolicy>, users: &Users) -> Body {
    let namespace = &policy.head.key.namespace;
    let refs = resolved_refs(resolved, policy);
    let mut gateways: BTreeMap<&ObjectKey, Vec<Option<Condition>>> = BTreeMap::new();
    let mut unused = Vec::new();
    for target in &policy.spec.target_refs {
        let service = ObjectKey::new(Arc::clone(namespace), target.name.as_str());
        let problem = problem(resolved, policy, target, &service);
        match users.get(&service) {
            Some(users) if !users.is_empty() => {
                for gateway in users {
                    gateways.entry(gateway).or_default().push(problem.clone());
                }
            }
            Some(_) | None => unused.push((reference(target), problem)),
        }
    }
    let concern = Concern::Gateways(gateways.keys().map(|key| (*key).clone()).collect());
    let of_gateways = gateways.into_iter().map(|(gateway, problems)| {
        // It is in use at a Gateway when it is for one target.
        let problem = if problems.iter().any(Option::is_none) { None } else { problems.into_iter().flatten().next() };
        let reference = Reference {
            group: GROUP.to_owned(),
            kind: "Gateway".to_owned(),
            namespace: Some(gateway.namespace.to_string()),
            name: gateway.name.to_string(),
            section_name: None,
            port: None,
        };
        (reference, problem)
    });
    let ancestors = of_gateways
        .chain(unused)
        .take(MAX_ANCESTORS)
        .map(|(reference, problem)| {
            let accepted = match (&refs.is_true(), problem) {
                (_, Some(problem)) => problem,
                (false, None) => {
                    let message = "the server cannot be verified: connections to it are refused";
                    Condition::fails("Accepted", "NoValidCACertificate", message)
                }
                (true, None) => Condition::holds("Accepted", "Accepted"),
            };
            let is_accepted = accepted.is_true();
            Attachment { reference, conditions: vec![accepted, refs.clone()], is_accepted }
        })
        .collect();
    Body::Ancestors { ancestors, concern }
}

/// Why a policy has no effect at one of its targets.
fn problem(
    resolved: &Resolved,
    policy: &Object<BackendTlsPolicy>,
    target: &BackendTlsTarget,
    service: &ObjectKey,
) -> Option<Condition> {
    let BackendTlsTarget { group, kind, name, section_name } = target;
    if !matches!(group.as_str(), "" | "core") || kind != "Service" {
        let message = format!("targets of kind `{group}/{kind}` are not served");
        return Some(Condition::fails("Accepted", "Invalid", message));
    }
    let known = resolved.inputs.services.get(service);
    let has_port = |section: &str| known.is_some_and(|known| known.spec.ports.iter().any(|port| port.name == section));
    match section_name {
        _ if known.is_none() => {
            return Some(Condition::fails("Accepted", "TargetNotFound", format!("there is no Service `{service}`")));
        }
        Some(section) if !has_port(section) => {
            let message = format!("Service `{name}` has no port named `{section}`");
            return Some(Condition::fails("Accepted", "TargetNotFound", message));
        }
        Some(_) | None => {}
    }
    let winner = resolved.gateway_api.backend_tls_exactly(service, section_name.as_deref().unwrap_or_default());
    let other = winner.filter(|winner| winner.origin != policy.head.origin())?;
    Some(Condition::fails("Accepted", "Conflicted", format!("{} has the same target and is older", other.origin)))
}

fn resolved_refs(resolved: &Resolved, policy: &Object<BackendTlsPolicy>) -> Condition {
    let validation = &policy.spec.validation;
    let known = validation.well_known_ca_certificates.as_deref();
    if validation.ca_certificate_refs.is_empty() && known != Some("System") {
        let message = "`wellKnownCACertificates` can only be `System`";
        return Condition::fails("ResolvedRefs", "InvalidKind", message);
    }
    for reference in &validation.ca_certificate_refs {
        let (group, kind, name) = (&reference.group, &reference.kind, &reference.name);
        if !matches!(group.as_str(), "" | "core") || !matches!(kind.as_str(), "ConfigMap" | "Secret") {
            let message = format!("`{group}/{kind}` is not a kind of root certificate");
            return Condition::fails("ResolvedRefs", "InvalidKind", message);
        }
        let namespace = &policy.head.key.namespace;
        if authorities::pem(&resolved.inputs, group, kind, namespace, name).is_none() {
            let message = format!("{kind} `{namespace}/{name}` holds no certificate under `ca.crt`");
            return Condition::fails("ResolvedRefs", "InvalidCACertificateRef", message);
        }
    }
    Condition::holds("ResolvedRefs", "ResolvedRefs")
}

fn reference(target: &BackendTlsTarget) -> Reference {
    let BackendTlsTarget { group, kind, name, section_name } = target.clone();
    Reference { group, kind, namespace: None, name, section_name, port: None }
}
