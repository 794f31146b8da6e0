//! Findings that need all documents together: references that lead nowhere, and known fields that are not served.

mod gateway_api;
mod gateways;
mod peers;
mod policies;
mod sidecars;
mod virtual_services;

use std::{collections::BTreeMap, sync::Arc};

use palisade_model::host::HostPattern;

pub(crate) use policies::CheckedPolicies;

use crate::{
    object::Head,
    reports::{Code, Report, Reports},
    resolve::Resolved,
};

/// Adds all findings, given those in policies of the mesh `before`.
pub(crate) fn check(before: Option<&CheckedPolicies>, resolved: &Resolved, reports: &mut Reports) -> CheckedPolicies {
    virtual_services::check(resolved, reports);
    destination_hosts(resolved, reports);
    gateways::check(resolved, reports);
    gateway_api::check(resolved, reports);
    peers::check(resolved, reports);
    sidecars::check(resolved, reports);
    policies::check(before, resolved, reports)
}

/// DestinationRules for hosts that nothing has.
fn destination_hosts(resolved: &Resolved, reports: &mut Reports) {
    for document in resolved.inputs.destination_rules.values() {
        let namespace = &document.head.key.namespace;
        let host = crate::hosts::full_name(&document.spec.host, namespace, &resolved.settings.cluster_domain);
        let Ok(pattern) = host.parse::<HostPattern>() else { continue };
        if !is_known(resolved, &pattern) {
            let message = format!("no service has host `{host}`");
            reports.add(Report::warning(&document.head, Code::UnknownHost, "spec.host", &message));
        }
    }
}

/// Whether any service has the host, or one that the wildcard takes.
fn is_known(resolved: &Resolved, pattern: &HostPattern) -> bool {
    match pattern {
        HostPattern::Exact(host) => {
            resolved.services.get(host).is_some() || resolved.services.alias_target(host).is_some()
        }
        HostPattern::Suffix(_) | HostPattern::Any => {
            resolved.services.iter().any(|service| pattern.matches(&service.host))
        }
    }
}

/// The first document of each key, and a finding about every later one.
fn first_of_each<'a, K: Ord>(
    documents: impl IntoIterator<Item = (K, &'a Head)>,
    mut report: impl FnMut(&'a Head, &'a Head),
) {
    let mut first: BTreeMap<K, &Head> = BTreeMap::new();
    for (key, head) in documents {
        match first.get(&key) {
            Some(older) => report(head, older),
            None => {
                first.insert(key, head);
            }
        }
    }
}

/// `NAMESPACE/NAME` as text.
fn name_of(head: &Head) -> Arc<str> {
    head.key.to_string().into()
}
