//! Istio's kinds: `Accepted` and `Enforced` of the object as a whole, and findings as Istio has them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use palisade_crds::Severity;
use palisade_model::origin::Origin;

use super::{Body, Concern, Condition, Finding, ObjectStatus, WholeStatus, holds::of_istio};
use crate::{
    object::Head,
    reports::{Diagnostic, ObjectName, Reports},
    resolve::{Resolved, authorization::is_dry_run, service_entries::keeps_addresses},
};

/// What Istio's groups end with.
const GROUPS: &str = ".istio.io";

/// Findings that a message tells; the others are counted.
const TOLD: usize = 3;

/// All objects of Istio's groups that are read, those that are rejected as well.
pub(super) fn objects(
    resolved: &Resolved,
    reports: &Reports,
    findings: &BTreeMap<&ObjectName, Vec<&Diagnostic>>,
    objects: &mut BTreeMap<ObjectName, Arc<ObjectStatus>>,
) {
    let allocated = resolved.services.allocated();
    for head in of_istio(&resolved.inputs).filter(|head| head.group.ends_with(GROUPS)) {
        let name = ObjectName::of(head);
        let is_dry_run = &*head.kind == "AuthorizationPolicy" && is_dry_run(head);
        let mut status = whole(resolved, &name, is_dry_run, findings);
        if &*head.kind == "ServiceEntry" {
            let given = allocated.get(&head.key).into_iter().flatten();
            status.addresses = given.map(|(host, address)| (Arc::clone(host), *address)).collect();
            status.addresses.extend(left(resolved, head, &status.addresses));
        }
        objects.insert(name, Arc::new(ObjectStatus { origin: head.origin(), body: Body::Object(status) }));
    }
    for (name, (uid, generation)) in reports.rejected().filter(|(name, _)| name.group.ends_with(GROUPS)) {
        if !objects.contains_key(name) {
            let status = whole(resolved, name, false, findings);
            let ObjectName { group, kind, namespace, name: own } = name.clone();
            let origin = Origin { group, kind, namespace, name: own, uid: Arc::clone(uid), generation: *generation };
            objects.insert(name.clone(), Arc::new(ObjectStatus { origin, body: Body::Object(status) }));
        }
    }
}

/// Addresses of hosts that are another document's in our eyes, or need none: what Istio's controller gave them stays, as long as
/// it would keep it.
fn left(resolved: &Resolved, head: &Head, given: &[(Arc<str>, IpAddr)]) -> Vec<(Arc<str>, IpAddr)> {
    let Some(entry) = resolved.inputs.service_entries.get(&head.key) else { return Vec::new() };
    let held = head.allocated.iter().flat_map(|all| all.iter());
    held.filter(|(host, _)| keeps_addresses(entry, host) && !given.iter().any(|(own, _)| **own == **host))
        .map(|(host, address)| (host.as_str().into(), *address))
        .collect()
}

fn whole(
    resolved: &Resolved,
    name: &ObjectName,
    is_dry_run: bool,
    findings: &BTreeMap<&ObjectName, Vec<&Diagnostic>>,
) -> WholeStatus {
    let found = findings.get(name).map(Vec::as_slice).unwrap_or_default();
    WholeStatus {
        accepted: accepted(found),
        messages: Some(found.iter().map(|diagnostic| finding(diagnostic)).collect()),
        ancestors: None,
        addresses: Vec::new(),
        is_dry_run,
        concern: concern(resolved, name),
    }
}

/// Which proxies resources made from an object go to. Policies stay in their namespace, those of the root namespace do not.
fn concern(resolved: &Resolved, name: &ObjectName) -> Option<Concern> {
    match &*name.kind {
        "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => {
            Some(namespace_or_mesh(resolved, &name.namespace))
        }
        "VirtualService" | "DestinationRule" | "ServiceEntry" | "Gateway" => Some(Concern::Mesh),
        _ => None,
    }
}

/// A namespace, which for the root namespace means the mesh.
pub(super) fn namespace_or_mesh(resolved: &Resolved, namespace: &Arc<str>) -> Concern {
    if *namespace == resolved.settings.root_namespace {
        Concern::Mesh
    } else {
        Concern::Namespace(Arc::clone(namespace))
    }
}

/// Whether a document is in use, by what there is to say about it.
pub(super) fn accepted(found: &[&Diagnostic]) -> Condition {
    let is_error = |diagnostic: &&&Diagnostic| diagnostic.severity == Severity::Error;
    let errors: Vec<&&Diagnostic> = found.iter().filter(is_error).collect();
    if !errors.is_empty() {
        return Condition::fails("Accepted", "Invalid", told(&errors));
    }
    let warnings: Vec<&&Diagnostic> = found.iter().filter(|d| d.severity == Severity::Warning).collect();
    Condition::holds("Accepted", "Accepted").saying(told(&warnings))
}

fn told(found: &[&&Diagnostic]) -> String {
    let mut parts: Vec<String> =
        found.iter().take(TOLD).map(|d| format!("{}: {}: {}", d.code, d.path, d.message)).collect();
    if found.len() > TOLD {
        parts.push(format!("and {} more", found.len() - TOLD));
    }
    parts.join("; ")
}

fn finding(diagnostic: &Diagnostic) -> Finding {
    let level = match diagnostic.severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
        Severity::Info => "INFO",
    };
    Finding { code: diagnostic.code, level, message: format!("{}: {}", diagnostic.path, diagnostic.message) }
}
