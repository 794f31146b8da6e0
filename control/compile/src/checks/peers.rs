//! Findings about PeerAuthentications that have no effect.

use super::{first_of_each, name_of};
use crate::{
    object::{self, Head},
    reports::{Code, Report, Reports},
    resolve::Resolved,
};

pub(super) fn check(resolved: &Resolved, reports: &mut Reports) {
    let root = &resolved.settings.root_namespace;
    let sorted = object::by_age(resolved.inputs.peer_authentications.values());
    let mut found: Vec<(&Head, &Head)> = Vec::new();
    let levels = sorted.iter().filter_map(|policy| {
        let is_level = policy.spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty());
        is_level.then(|| (policy.head.key.namespace.clone(), &policy.head))
    });
    first_of_each(levels, |later, older| found.push((later, older)));
    for (later, older) in found {
        let message = format!("has no effect: `{}` for the same namespace is older", name_of(older));
        reports.add(Report::warning(later, Code::PolicyVoid, "spec", &message));
    }
    for policy in &sorted {
        let has_labels = policy.spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
        if has_labels && policy.head.key.namespace == *root {
            let message = "has no effect: in the root namespace a selector selects nothing";
            reports.add(Report::warning(&policy.head, Code::PolicyVoid, "spec.selector", message));
        }
    }
}
