//! CedarPolicies: conditions of the policy as a whole, and of each object that it attaches to.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::palisade::CedarMode;
use palisade_model::origin::Origin;

use super::{
    Body, MAX_ANCESTORS, ObjectStatus, Reference, WholeStatus,
    istio::{accepted, namespace_or_mesh},
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
    objects: &mut BTreeMap<ObjectName, Arc<ObjectStatus>>,
) {
    let valid = resolved.inputs.cedar_policies.values().map(|policy| policy.head.origin());
    let rejected = reports.rejected().map(|(name, (uid, generation))| {
        let ObjectName { group, kind, namespace, name } = name.clone();
        Origin { group, kind, namespace, name, uid: Arc::clone(uid), generation: *generation }
    });
    for origin in valid.chain(rejected).filter(|origin| &*origin.kind == "CedarPolicy") {
        let Origin { group, kind, namespace, name, uid: _, generation: _ } = origin.clone();
        let key = ObjectKey::new(Arc::clone(&namespace), Arc::clone(&name));
        let name = ObjectName { group, kind, namespace, name };
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
            accepted: accepted(findings.get(&name).map(Vec::as_slice).unwrap_or_default()),
            messages: None,
            ancestors: Some(targets.iter().take(MAX_ANCESTORS).map(reference).collect()),
            addresses: Vec::new(),
            is_dry_run: spec.is_some_and(|spec| spec.mode == CedarMode::Audit),
            concern: Some(namespace_or_mesh(resolved, &name.namespace)),
        };
        objects.insert(name, Arc::new(ObjectStatus { origin, body: Body::Object(status) }));
    }
}
