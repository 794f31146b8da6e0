//! Slices are taken over where nothing that they were made from has changed, and only there.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{Inputs, Mesh, ProxyRef, Slice, SourceOptions, compile, compile_after, scope_after};

use crate::support::{HTTP, documents, istio, pod, service};

fn inputs(text: &str) -> Inputs {
    Inputs::new(documents("in.yaml", text), &SourceOptions { is_files: true, ..SourceOptions::default() })
}

fn slice(mesh: &Mesh, previous: Option<&Arc<Slice>>, namespace: &str) -> Arc<Slice> {
    scope_after(previous, mesh, &ProxyRef::sidecar(namespace, "client"), &BTreeSet::new()).unwrap()
}

/// Two namespaces of one client and one service each.
fn base() -> String {
    ["a", "b"]
        .map(|namespace| service("s", namespace, HTTP) + &pod("s", namespace, "") + &pod("client", namespace, ""))
        .concat()
}

fn route(namespace: &str, path: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{kind: Service, group: '', name: s}}], rules: [{{matches: [{{path: {{value: {path}}}}}], \
         backendRefs: [{{name: s, port: 80}}]}}]}}\n---\n"
    )
}

fn policy(namespace: &str, path: &str) -> String {
    istio("AuthorizationPolicy", "p", namespace, &format!("{{rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}"))
}

#[test]
fn a_change_elsewhere_leaves_a_slice_the_very_same() {
    for (what, before, after) in [
        ("a route", route("a", "/x"), route("a", "/y")),
        ("a new route", String::new(), route("a", "/x")),
        ("a policy", policy("a", "/x"), policy("a", "/y")),
        ("a policy that goes", policy("a", "/x"), String::new()),
    ] {
        let first = compile(&Arc::new(inputs(&(base() + &before)))).mesh;
        let (own, other) = (slice(&first, None, "a"), slice(&first, None, "b"));
        let second = compile_after(&first, inputs(&(base() + &after))).mesh;
        let (own_after, other_after) = (slice(&second, Some(&own), "a"), slice(&second, Some(&other), "b"));
        assert_ne!(own.snapshot().version(), own_after.snapshot().version(), "{what}: whom it concerns");
        assert!(Arc::ptr_eq(&other, &other_after), "{what}: whom it does not concern");
    }
}

#[test]
fn another_pod_behind_a_service_changes_the_slices_that_have_the_service() {
    let first = compile(&Arc::new(inputs(&base()))).mesh;
    let own = slice(&first, None, "a");
    let moved =
        base().replace("{name: s, namespace: a, labels: {app: s}}", "{name: s2, namespace: a, labels: {app: s}}");
    assert_ne!(moved, base());
    let second = compile_after(&first, inputs(&moved)).mesh;
    assert_ne!(own.snapshot().version(), slice(&second, Some(&own), "a").snapshot().version());
}

#[test]
fn what_is_asked_for_is_part_of_a_slice() {
    let mesh = compile(&Arc::new(inputs(&base()))).mesh;
    let own = slice(&mesh, None, "a");
    let asked = BTreeSet::from([palisade_model::service::Query::Host("s.b.svc.cluster.local".into())]);
    let more = scope_after(Some(&own), &mesh, &ProxyRef::sidecar("a", "client"), &asked).unwrap();
    assert_ne!(own.snapshot().version(), more.snapshot().version());
}
