//! CedarPolicies: conditions of the policy as a whole, and of each object that it attaches to.

use std::collections::BTreeMap;

use palisade_crds::palisade::CedarMode;

use super::{
    Body, MAX_ANCESTORS, ObjectStatus, Reference, WholeStatus,
    istio::{accepted, namespace_or_mesh},
    origin_of,
};
use crate::{
    object::ObjectKey,
    reports::{Diagnostic, ObjectName, Reports},
    resolve::Resolved,
};

/// All documents, those that are rejected as well.
pub(super) fn policies(
    resolved: &Resolved,
    reports: &Reports,
    findings: &BTreeMap<&ObjectName, Vec<&Diagnostic>>,
    objects: &mut BTreeMap<ObjectName, ObjectStatus>,
) {
    let documents = reports.documents_of(palisade_crds::palisade::GROUP);
    for (name, document) in documents.filter(|(name, _)| &*name.kind == "CedarPolicy") {
        let key = ObjectKey::new(name.namespace.clone(), name.name.clone());
        let spec = resolved.inputs.cedar_policies.get(&key).map(|policy| &policy.spec);
        let targets = spec.map(|spec| spec.target_refs.as_slice()).unwrap_or_default();
        let reference = |target: &palisade_crds::istio::PolicyTargetReference| Reference {
            group: target.group.clone(),
            kind: target.kind.clone(),
            namespace: Some(name.namespace.to_string()),
            name: target.name.clone(),
            section_name: None,
            port: None,
        };
        let status = WholeStatus {
            accepted: accepted(findings.get(name).map(Vec::as_slice).unwrap_or_default()),
            messages: None,
            ancestors: Some(targets.iter().take(MAX_ANCESTORS).map(reference).collect()),
            is_dry_run: spec.is_some_and(|spec| spec.mode == CedarMode::Audit),
            concern: Some(namespace_or_mesh(resolved, &name.namespace)),
        };
        let origin = origin_of(name, document);
        objects.insert(name.clone(), ObjectStatus { origin, body: Body::Object(status) });
    }
}
