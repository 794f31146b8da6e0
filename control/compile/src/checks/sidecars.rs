//! Sidecars that another one makes void.

use super::first_of_each;
use crate::{
    object,
    reports::{Code, Report, Reports},
    resolve::Resolved,
};

/// Adds all findings about them.
pub(super) fn check(resolved: &Resolved, reports: &mut Reports) {
    defaults(resolved, reports);
}

/// One Sidecar without selector counts in a namespace.
fn defaults(resolved: &Resolved, reports: &mut Reports) {
    let documents = object::by_age(resolved.inputs.sidecars.values());
    let without_selector = documents
        .into_iter()
        .filter(|document| document.spec.workload_selector.as_ref().is_none_or(|selector| selector.labels.is_empty()))
        .map(|document| (document.head.key.namespace.clone(), &document.head));
    first_of_each(without_selector, |head, older| {
        let message = format!("`{}` is older and counts for the namespace", older.key);
        reports.add(Report::warning(head, Code::PolicyVoid, "spec", &message));
    });
}
