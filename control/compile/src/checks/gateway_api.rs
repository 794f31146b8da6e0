//! Conditions of Gateway API objects, and what is wrong with them as findings.

use std::sync::Arc;

use crate::{
    object::Head,
    reports::{Code, Condition, ObjectName, Report, Reports},
    resolve::{Resolved, gateway_api::status},
};

pub(super) fn check(resolved: &Resolved, reports: &mut Reports) {
    for gateway in resolved.gateway_api.gateways() {
        let name = ObjectName::of(&gateway.head);
        for (index, listener) in gateway.status.listeners.iter().enumerate() {
            let path = format!("spec.listeners[{index}]");
            note(&gateway.head, &listener.name, &listener.accepted, &path, Code::NotAttached, reports);
            note(&gateway.head, &listener.name, &listener.resolved_refs, &path, Code::Unresolved, reports);
            if let Some(reason) = listener.conflict {
                let condition = Condition {
                    part: Arc::clone(&listener.name),
                    kind: "Conflicted".into(),
                    is_true: true,
                    reason: reason.into(),
                    message: "another listener of the port stands in the way".to_owned(),
                };
                reports.condition(name.clone(), condition);
            }
            reports.attached_routes.insert((name.clone(), Arc::clone(&listener.name)), listener.attached_routes);
        }
    }
    for route in resolved.gateway_api.statuses() {
        for parent in &route.parents {
            let part: Arc<str> = parent.index.to_string().into();
            let path = format!("spec.parentRefs[{}]", parent.index);
            note(&route.head, &part, &parent.accepted, &path, Code::NotAttached, reports);
            note(&route.head, &part, &parent.resolved_refs, "spec.rules", Code::Unresolved, reports);
        }
    }
}

/// Notes a condition; one that does not hold is a finding as well.
fn note(head: &Head, part: &Arc<str>, condition: &status::Condition, path: &str, code: Code, reports: &mut Reports) {
    let status::Condition { condition_type, is_true, reason, message } = condition;
    if !is_true {
        reports.add(Report::warning(head, code, path, &format!("{reason}: {message}")));
    }
    let noted = Condition {
        part: Arc::clone(part),
        kind: (*condition_type).into(),
        is_true: *is_true,
        reason: (*reason).into(),
        message: message.to_string(),
    };
    reports.condition(ObjectName::of(head), noted);
}
