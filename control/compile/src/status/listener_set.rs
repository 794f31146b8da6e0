//! ListenerSets: whether their Gateway lets them, and which of their listeners are served.

use std::{collections::BTreeMap, sync::Arc};

use super::{Body, Condition, GatewayStatus, ListenerSetStatus, ListenerStatus, ObjectStatus, gateway};
use crate::{
    reports::ObjectName,
    resolve::gateway_api::{ResolvedGateway, ResolvedSet},
};

/// Adds the statuses of a Gateway's sets; how many are attached, if it has any.
pub(super) fn add(
    gateway: &ResolvedGateway,
    told: &GatewayStatus,
    objects: &mut BTreeMap<ObjectName, Arc<ObjectStatus>>,
) -> Option<usize> {
    let mut attached = 0;
    for set in &gateway.sets {
        let status = one(gateway, told, set);
        attached += usize::from(status.accepted.is_true());
        let status = ObjectStatus { origin: set.head.origin(), body: Body::ListenerSet(status) };
        objects.insert(ObjectName::of(&set.head), Arc::new(status));
    }
    (!gateway.sets.is_empty()).then_some(attached)
}

fn one(gateway: &ResolvedGateway, told: &GatewayStatus, set: &ResolvedSet) -> ListenerSetStatus {
    let listeners: Vec<ListenerStatus> = set.listeners.iter().map(gateway::listener).collect();
    let invalid: Vec<&str> =
        listeners.iter().filter(|listener| !listener.is_valid).map(|listener| &*listener.name).collect();
    let (accepted, obstacle) = if !set.is_allowed {
        refused("NotAllowed", "NotAllowed", "`allowedListeners` of the Gateway does not let this namespace")
    } else if invalid.len() == listeners.len() {
        refused("ListenersNotValid", "ListenersNotValid", "none of its listeners can be served")
    } else {
        let accepted = match invalid.as_slice() {
            [] => Condition::holds("Accepted", "Accepted"),
            names => Condition::holds("Accepted", "ListenersNotValid")
                .saying(format!("these listeners are not served: {}", names.join(", "))),
        };
        let obstacle = told.obstacle.as_ref().map(|of_gateway| {
            let message = format!("the Gateway is not programmed: {}: {}", of_gateway.reason, of_gateway.message);
            Condition::fails("Programmed", "ParentNotProgrammed", message)
        });
        (accepted, obstacle)
    };
    ListenerSetStatus { accepted, obstacle, listeners, gateway: gateway.head.key.clone() }
}

fn refused(accepted: &'static str, programmed: &'static str, message: &str) -> (Condition, Option<Condition>) {
    let programmed = Condition::fails("Programmed", programmed, message);
    (Condition::fails("Accepted", accepted, message), Some(programmed))
}
