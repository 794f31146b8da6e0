//! What is wrong with Gateway API objects, as findings.

use crate::{
    object::Head,
    reports::{Code, Report, Reports},
    resolve::{Resolved, gateway_api::status},
};

pub(super) fn check(resolved: &Resolved, reports: &mut Reports) {
    reports.resolved(&resolved.gateway_api);
    for gateway in resolved.gateway_api.gateways() {
        for (index, listener) in gateway.status.listeners.iter().enumerate() {
            let path = || format!("spec.listeners[{index}]");
            note(&gateway.head, &listener.accepted, path, Code::NotAttached, reports);
            note(&gateway.head, &listener.resolved_refs, path, Code::Unresolved, reports);
        }
    }
    for route in resolved.gateway_api.statuses() {
        for parent in &route.parents {
            let path = || format!("spec.parentRefs[{}]", parent.index);
            note(route.head(), &parent.accepted, path, Code::NotAttached, reports);
            note(route.head(), &parent.resolved_refs, || "spec.rules".to_owned(), Code::Unresolved, reports);
        }
    }
}

/// A condition that does not hold is a finding.
fn note(head: &Head, condition: &status::Condition, path: impl FnOnce() -> String, code: Code, reports: &mut Reports) {
    let status::Condition { condition_type: _, is_true, reason, message } = condition;
    if !is_true {
        reports.add(Report::warning(head, code, &path(), &format!("{reason}: {message}")));
    }
}
