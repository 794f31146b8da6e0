//! Routes of the Gateway API: our entries of `parents`.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::gateway_api::ParentReference;

use super::{Attachment, Body, Concern, Condition, ObjectStatus, Reference};
use crate::{
    object::ObjectKey,
    reports::ObjectName,
    resolve::{Resolved, gateway_api::status},
};

/// Routes with a parent that is ours, and those that had one.
pub(super) fn routes(resolved: &Resolved, objects: &mut BTreeMap<ObjectName, Arc<ObjectStatus>>) {
    for route in resolved.gateway_api.statuses() {
        // A route that did not change says what it said.
        let told = route.told.get_or_init(|| Arc::new(of_route(route)));
        objects.insert(ObjectName::of(route.head()), Arc::clone(told));
    }
}

fn of_route(route: &status::RouteStatus) -> ObjectStatus {
    let status::RouteStatus { route, parents, .. } = route;
    let head = &route.head;
    let mut gateways = Vec::new();
    let mut is_mesh_wide = false;
    let mut entries: Vec<Attachment> = Vec::new();
    for parent in parents.iter().filter(|parent| parent.exists) {
        let status::ParentStatus { index: _, parent, exists: _, accepted, resolved_refs } = parent;
        if parent.kind == "Gateway" {
            let namespace = parent.namespace.clone().unwrap_or_else(|| head.key.namespace.to_string());
            gateways.push(ObjectKey::new(namespace, parent.name.as_str()));
        } else {
            is_mesh_wide = true;
        }
        let reference = reference(parent);
        // Two references to one parent are one entry: the first speaks.
        if entries.iter().all(|entry| entry.reference != reference) {
            entries.push(Attachment {
                reference,
                conditions: vec![Condition::resolved(accepted), Condition::resolved(resolved_refs)],
                is_accepted: accepted.is_true,
            });
        }
    }
    gateways.sort();
    gateways.dedup();
    let concern = if is_mesh_wide { Concern::Mesh } else { Concern::Gateways(gateways) };
    let body = Body::Route { parents: entries, concern };
    ObjectStatus { origin: head.origin(), body }
}

fn reference(parent: &ParentReference) -> Reference {
    let ParentReference { group, kind, namespace, name, section_name, port } = parent.clone();
    Reference { group, kind, namespace, name, section_name, port }
}
