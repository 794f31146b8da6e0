//! Conditions of Gateway API objects, for whoever asks.

use std::{collections::BTreeMap, sync::Arc};

use super::{Condition, ObjectName};
use crate::{
    object::Head,
    resolve::gateway_api::{GatewayApi, status},
};

/// Of all Gateways and routes.
pub(super) fn of(gateway_api: &GatewayApi) -> BTreeMap<ObjectName, Vec<Condition>> {
    let mut all: BTreeMap<ObjectName, Vec<Condition>> = BTreeMap::new();
    let mut note = |head: &Head, condition: Condition| all.entry(ObjectName::of(head)).or_default().push(condition);
    for gateway in gateway_api.gateways() {
        for listener in &gateway.status.listeners {
            note(&gateway.head, written(&listener.name, &listener.accepted));
            note(&gateway.head, written(&listener.name, &listener.resolved_refs));
            if let Some(reason) = listener.conflict {
                let condition = Condition {
                    part: Arc::clone(&listener.name),
                    kind: "Conflicted".into(),
                    is_true: true,
                    reason: reason.into(),
                    message: "another listener of the port stands in the way".to_owned(),
                };
                note(&gateway.head, condition);
            }
        }
    }
    for route in gateway_api.statuses() {
        for parent in &route.parents {
            let part: Arc<str> = parent.index.to_string().into();
            note(route.head(), written(&part, &parent.accepted));
            note(route.head(), written(&part, &parent.resolved_refs));
        }
    }
    all
}

/// Of all listeners.
pub(super) fn attached_routes(gateway_api: &GatewayApi) -> BTreeMap<(ObjectName, Arc<str>), u32> {
    let listeners = gateway_api.gateways().flat_map(|gateway| {
        let name = ObjectName::of(&gateway.head);
        gateway.status.listeners.iter().map(move |listener| (name.clone(), listener))
    });
    listeners.map(|(name, listener)| ((name, Arc::clone(&listener.name)), listener.attached_routes)).collect()
}

fn written(part: &Arc<str>, condition: &status::Condition) -> Condition {
    let status::Condition { condition_type, is_true, reason, message } = condition;
    Condition {
        part: Arc::clone(part),
        kind: (*condition_type).into(),
        is_true: *is_true,
        reason: (*reason).into(),
        message: message.to_string(),
    }
}
