//! The table covers the kinds, the page is the table, and the warnings are the page's.

use std::collections::BTreeSet;

use super::*;
use crate::document;
use crate::object::Support;

#[test]
fn every_field_has_a_row() {
    let missing: Vec<String> =
        KNOWN_KINDS.iter().filter_map(|kind| fields(kind).err().map(|m| format!("{}: {m:#?}", kind.kind))).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_row_has_a_field() {
    for api in [Api::Istio, Api::Gateway] {
        let mut declared: BTreeSet<(String, String)> = BTreeSet::new();
        let mut paths: BTreeSet<(&str, String)> = BTreeSet::new();
        for kind in KNOWN_KINDS {
            let Some((of, shape)) = shape_of(kind) else { continue };
            if of == api {
                collect(shape, 0, &mut declared);
                paths.extend(fields(kind).unwrap().into_iter().map(|field| (kind.kind, field.path)));
            }
        }
        for record in api.records() {
            let keys = record.served.iter().copied().chain(record.others.iter().map(|(key, _)| *key));
            for key in keys {
                let row = (record.name.to_owned(), key.to_owned());
                assert!(declared.contains(&row), "{api:?}: no record `{}` has a field `{key}`", record.name);
            }
        }
        for (kind, path, _) in api.exceptions() {
            assert!(paths.contains(&(*kind, (*path).to_owned())), "{kind} has no field `{path}`");
        }
    }
}

fn collect(shape: Shape, depth: usize, declared: &mut BTreeSet<(String, String)>) {
    match shape {
        _ if depth > MAX_DEPTH => {}
        Shape::Leaf(_) => {}
        Shape::List(inner) | Shape::Map(inner) => collect(inner(), depth + 1, declared),
        Shape::Record(record) => {
            for field in record.fields {
                declared.insert((record.name.to_owned(), field.key.to_owned()));
                collect((field.shape)(), depth + 1, declared);
            }
        }
    }
}

#[test]
fn the_page_is_not_stale() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/compatibility.md");
    let page = page();
    if std::env::var("PALISADE_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(path, &page).unwrap();
    }
    let held = std::fs::read_to_string(path).unwrap_or_default();
    assert!(held == page, "stale; `PALISADE_GOLDEN=write cargo test -p palisade-crds` writes {path}");
}

/// Findings of a document by code and path.
fn findings(text: &str) -> Vec<(&'static str, String)> {
    let documents = document::read("in.yaml", text.as_bytes()).documents;
    let parsed = crate::object::parse(&documents[0], "default");
    let is_ours = |issue: &&Issue| matches!(issue.code, Code::FieldNotServed | Code::FieldRefused);
    parsed.issues.iter().filter(is_ours).map(|issue| (issue.code.id(), issue.path.to_string())).collect()
}

#[test]
fn what_is_not_served_is_warned_about_where_it_is_written() {
    let found = findings(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{name: g}]
  rules:
  - backendRefs: [{name: b, port: 80}]
  - filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]
    backendRefs:
    - {name: b, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: c, port: 80}}}]}
    sessionPersistence: {sessionName: s}
",
    );
    let expected = [
        ("PLS0301", "spec.rules[1].backendRefs[0].filters[0].requestMirror"),
        ("PLS0302", "spec.rules[1].filters[0].extensionRef"),
    ];
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!(sorted, expected.map(|(code, path)| (code, path.to_owned())));
}

#[test]
fn what_is_served_is_not_warned_about() {
    let text = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a}
spec:
  selector: {istio: a}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: c, insecureSkipVerify: false}}
";
    assert_eq!(findings(text), []);
    assert!(KNOWN_KINDS.iter().any(|kind| kind.support == Support::Served));
}

#[test]
fn a_value_that_is_refused_is_told_from_those_that_are_served() {
    let entry = |address: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: a}}\nspec: {{address: {address}}}\n"
        )
    };
    assert_eq!(findings(&entry("192.0.2.1")), []);
    assert_eq!(findings(&entry("unix:///run/app")), [("PLS0302", "spec.address".to_owned())]);
    let sidecar = |endpoint: &str, tls: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: a}}\nspec:\n  ingress:\n  - {{port: {{number: 9443, protocol: HTTPS, name: p}}, defaultEndpoint: '{endpoint}'{tls}}}\n"
        )
    };
    assert_eq!(findings(&sidecar("127.0.0.1:80", "")), []);
    let tls = ", tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    assert_eq!(findings(&sidecar("127.0.0.1:80", tls)), [("PLS0302", "spec.ingress[0].tls".to_owned())]);
    assert_eq!(findings(&sidecar("unix:///run/app", "")), [("PLS0302", "spec.ingress[0].defaultEndpoint".to_owned())]);
}
