//! Whom a policy concerns and what changes for them, in a few lines for whoever writes it. Bounded work over the newest mesh.

use std::collections::{BTreeMap, BTreeSet};

use palisade_compile::{Inputs, Mesh, Object as InputObject, ObjectKey, inputs::core};
use palisade_crds::{
    Object, Parsed,
    istio::{Action, AuthorizationPolicy, MutualTlsMode, PeerAuthentication, RuleEntry},
};

/// Pods that are looked at; a mesh with more is summed up by those.
const MAX_PODS: usize = 20_000;
/// Names that one line lists.
const NAMED: usize = 4;

/// Annotation of policies that only count what they would do.
const DRY_RUN: &str = "istio.io/dry-run";

/// What writing a policy changes; nothing for other kinds, and for policies that are not enforced.
pub(super) fn of_writing(parsed: &Parsed, mesh: Option<&Mesh>) -> Vec<String> {
    let Some(inputs) = mesh.map(Mesh::inputs) else { return Vec::new() };
    match &parsed.object {
        Object::AuthorizationPolicy(policy) => authorization(parsed, policy, inputs, true),
        Object::PeerAuthentication(policy) => strict(parsed, policy, inputs),
        _ => Vec::new(),
    }
}

/// What removing a policy changes.
pub(super) fn of_removal(parsed: &Parsed, mesh: Option<&Mesh>) -> Vec<String> {
    let Some(inputs) = mesh.map(Mesh::inputs) else { return Vec::new() };
    match &parsed.object {
        Object::AuthorizationPolicy(policy) => authorization(parsed, policy, inputs, false),
        _ => Vec::new(),
    }
}

fn authorization(parsed: &Parsed, policy: &AuthorizationPolicy, inputs: &Inputs, is_written: bool) -> Vec<String> {
    let is_dry = parsed
        .meta
        .annotations
        .get(DRY_RUN)
        .is_some_and(|value| matches!(value.as_str(), "true" | "1" | "t" | "T" | "TRUE" | "True"));
    // What attaches to named objects concerns gateways and services, whose pods labels do not tell.
    if is_dry || policy.targets().next().is_some() || !matches!(policy.action, Action::Allow | Action::Deny) {
        return Vec::new();
    }
    let labels = policy.selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default();
    let pods = selected(inputs, &parsed.meta.namespace, &labels);
    if pods.is_empty() {
        return vec!["selects no pod that runs now".to_owned()];
    }
    let mut lines = Vec::new();
    let own = ObjectKey::new(parsed.meta.namespace.as_str(), parsed.meta.name.as_str());
    if policy.action == Action::Allow {
        let open: Vec<&InputObject<core::Pod>> =
            pods.iter().copied().filter(|pod| !has_other_allow(inputs, pod, &own)).collect();
        let is_new = is_written && !inputs.authorization_policies.contains_key(&own);
        if !open.is_empty() && is_new {
            lines.push(format!(
                "{} took every request that no policy denies; from now on what this policy does not allow is denied",
                names(&open)
            ));
        } else if !open.is_empty() && !is_written {
            lines.push(format!(
                "{} will take every request that no policy denies: no other ALLOW policy is left",
                names(&open)
            ));
        }
    }
    let before = inputs.authorization_policies.get(&own).map(|object| principals(&object.spec)).unwrap_or_default();
    let after = if is_written { principals(policy) } else { BTreeSet::new() };
    let (more, fewer) = match policy.action {
        Action::Deny => ("loses access", "is no longer denied"),
        _ => ("gains access", "loses access"),
    };
    for (changed, what) in [(after.difference(&before), more), (before.difference(&after), fewer)] {
        let changed: Vec<&str> = changed.map(String::as_str).collect();
        if !changed.is_empty() {
            lines.push(format!("{what} to {}: {}", names(&pods), list(&changed)));
        }
    }
    lines
}

/// STRICT on pods whose plaintext clients, if any, lose access.
fn strict(parsed: &Parsed, policy: &PeerAuthentication, inputs: &Inputs) -> Vec<String> {
    let is_strict = |mode: Option<MutualTlsMode>| mode == Some(MutualTlsMode::Strict);
    let mode = policy.mtls.as_ref().map(|mtls| mtls.mode);
    let own = ObjectKey::new(parsed.meta.namespace.as_str(), parsed.meta.name.as_str());
    let before =
        inputs.peer_authentications.get(&own).and_then(|object| object.spec.mtls.as_ref().map(|mtls| mtls.mode));
    if !is_strict(mode) || is_strict(before) {
        return Vec::new();
    }
    let labels = policy.selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default();
    let pods = selected(inputs, &parsed.meta.namespace, &labels);
    let outside = inputs.pods.values().take(MAX_PODS).filter(|pod| !pod.spec.is_injected).count();
    if pods.is_empty() {
        return vec!["selects no pod that runs now".to_owned()];
    }
    vec![format!(
        "loses access to {}: every client without a mesh identity; {outside} pods of the mesh run without a sidecar",
        names(&pods)
    )]
}

/// Pods that a policy of this namespace selects: all namespaces' from the root namespace.
fn selected<'a>(
    inputs: &'a Inputs,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<&'a InputObject<core::Pod>> {
    let is_root = *inputs.settings.root_namespace == *namespace;
    let has_labels =
        |pod: &&InputObject<core::Pod>| labels.iter().all(|(key, value)| pod.head.labels.get(key) == Some(value));
    if is_root {
        return inputs.pods.values().take(MAX_PODS).filter(has_labels).collect();
    }
    inputs.pods_in(&namespace.into()).take(MAX_PODS).filter(has_labels).collect()
}

/// Whether an enforced ALLOW policy other than `own` selects the pod.
fn has_other_allow(inputs: &Inputs, pod: &InputObject<core::Pod>, own: &ObjectKey) -> bool {
    let in_scope = [&*pod.head.key.namespace, &*inputs.settings.root_namespace];
    in_scope.into_iter().any(|namespace| {
        let start = ObjectKey::new(namespace, "");
        inputs.authorization_policies.range(start..).take_while(|(key, _)| *key.namespace == *namespace).any(
            |(key, policy)| {
                let labels = policy.spec.selector.as_ref().map(|selector| &selector.match_labels);
                key != own
                    && policy.spec.action == Action::Allow
                    && !policy.head.annotations.contains_key(DRY_RUN)
                    && policy.spec.targets().next().is_none()
                    && labels
                        .is_none_or(|labels| labels.iter().all(|(key, value)| pod.head.labels.get(key) == Some(value)))
            },
        )
    })
}

/// Everyone whom the rules name, as they name them.
fn principals(policy: &AuthorizationPolicy) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, entry) in policy.rules() {
        let RuleEntry::Rule(rule) = entry else { continue };
        match &rule.from {
            None => {
                found.insert("everyone".to_owned());
            }
            Some(from) => {
                for source in from.iter().map(|from| &from.source) {
                    found.extend(source.principals.iter().cloned());
                    found.extend(source.request_principals.iter().map(|principal| format!("token {principal}")));
                    found.extend(source.namespaces.iter().map(|namespace| format!("namespace {namespace}")));
                    found.extend(source.service_accounts.iter().map(|account| format!("service account {account}")));
                    found.extend(source.ip_blocks.iter().cloned());
                    found.extend(source.remote_ip_blocks.iter().cloned());
                }
            }
        }
    }
    found
}

fn names(pods: &[&InputObject<core::Pod>]) -> String {
    let listed: Vec<String> = pods.iter().take(NAMED).map(|pod| pod.head.key.to_string()).collect();
    let more = pods.len().saturating_sub(NAMED);
    let count = if pods.len() == 1 { "1 pod".to_owned() } else { format!("{} pods", pods.len()) };
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{count} ({}{rest})", listed.join(", "))
}

fn list(items: &[&str]) -> String {
    let more = items.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", items.iter().take(NAMED).copied().collect::<Vec<_>>().join(", "))
}
