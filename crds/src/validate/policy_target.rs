//! What policies select: rules that several kinds share.

use crate::codes::Code;
use crate::istio::{PolicyTargetReference, WorkloadSelector};
use crate::schema::Cursor;

/// A selector without labels selects everything: Istio warns.
pub(super) fn selector(selector: Option<&WorkloadSelector>, cursor: &mut Cursor<'_>) {
    if selector.is_some_and(|selector| selector.match_labels.is_empty()) {
        cursor.report_at(
            "selector",
            Code::PolicyAttachment,
            "a selector without labels selects every workload in scope",
        );
    }
}

/// Targets must be of a kind that policies attach to.
pub(super) fn targets(
    one: Option<&PolicyTargetReference>,
    several: &[PolicyTargetReference],
    code: Code,
    cursor: &mut Cursor<'_>,
) {
    if let Some(target) = one {
        cursor.within("targetRef", |cursor| check(target, code, cursor));
    }
    cursor.within("targetRefs", |cursor| {
        for (index, target) in several.iter().enumerate() {
            cursor.within(index, |cursor| check(target, code, cursor));
        }
    });
}

fn check(target: &PolicyTargetReference, code: Code, cursor: &mut Cursor<'_>) {
    let PolicyTargetReference { group, kind, name: _, namespace: _ } = target;
    let group = if group.is_empty() { "core" } else { group.as_str() };
    let allowed = [
        ("core", "Service"),
        ("networking.istio.io", "ServiceEntry"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
    ];
    if !allowed.contains(&(group, kind.as_str())) {
        cursor.report_at(
            "kind",
            code,
            format!("a policy attaches to a Service, ServiceEntry, Gateway or GatewayClass, not to `{group}/{kind}`"),
        );
    }
}
