//! Claims of istio-semantics.md about policies, each against compiled documents.

use palisade_compile::ProxyRef;
use palisade_model::resource::{Resource, ResourceKind};

use crate::support::{istio, of, pod};

fn set(text: &str, proxy: &ProxyRef) -> (Vec<String>, bool) {
    let held = of(text, proxy, &[]);
    let name = format!("workload/a/{}", proxy.name.as_deref().unwrap());
    let entry = held.get(ResourceKind::PolicySet, &name).unwrap().clone();
    let Resource::PolicySet(set) = entry.resource() else { panic!() };
    (set.policies.iter().map(ToString::to_string).collect(), set.deny_all.is_some())
}

#[test]
fn an_allow_policy_without_rules_leaves_no_permit() {
    let text = pod("s", "a", "") + &istio("AuthorizationPolicy", "p", "a", "{}");
    assert_eq!(set(&text, &ProxyRef::sidecar("a", "s")), (vec![], false));
}

#[test]
fn a_root_policy_with_a_selector_reaches_every_namespace() {
    let policy = istio("AuthorizationPolicy", "p", "istio-system", "{selector: {matchLabels: {app: s}}}");
    let text = pod("s", "a", "") + &pod("t", "a", "") + &policy;
    assert_eq!(set(&text, &ProxyRef::sidecar("a", "s")).0.len(), 0);
    assert_eq!(set(&text, &ProxyRef::sidecar("a", "t")).0, ["mesh/default-allow"]);
}

#[test]
fn target_refs_do_not_reach_a_sidecar() {
    let policy = "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]}";
    let text = pod("s", "a", "") + &istio("AuthorizationPolicy", "p", "a", policy);
    assert_eq!(set(&text, &ProxyRef::sidecar("a", "s")).0, ["mesh/default-allow"]);
}

#[test]
fn broken_policies_deny_their_target() {
    for policy in [
        istio("AuthorizationPolicy", "p", "a", "{action: SOMETIMES, rules: [{}]}"),
        istio("AuthorizationPolicy", "p", "a", "{action: DENY, rules: [{from: [{source: {}}]}]}"),
    ] {
        assert!(set(&(pod("s", "a", "") + &policy), &ProxyRef::sidecar("a", "s")).1, "{policy}");
    }
}

#[test]
fn a_dry_run_stands_beside_the_default() {
    let policy = istio("AuthorizationPolicy", "p", "a", "{}")
        .replace("namespace: a}", "namespace: a, annotations: {istio.io/dry-run: \"true\"}}");
    assert_eq!(set(&(pod("s", "a", "") + &policy), &ProxyRef::sidecar("a", "s")).0, ["a/p", "mesh/default-allow"]);
}
