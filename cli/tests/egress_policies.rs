//! Egress policies and REGISTRY_ONLY against callers who say one thing and dial another, judged by `palisade eval`.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use std::path::Path;

use serde_json::{Value, json};

/// Permitted: four names and one address.
const PERMITTED: &str = "203.0.113.7";
/// Nobody's.
const OTHER: &str = "203.0.113.66";

fn outbound(namespace: &str, ip: &str, port: u16, rest: Value) -> Value {
    let mut case = json!({
        "proxy": {"namespace": namespace, "name": "curl"},
        "direction": "outbound",
        "destination": {"ip": ip, "port": port},
        "random": 0,
    });
    case.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    case
}

fn http(ip: &str, authority: &str) -> Value {
    outbound("shop", ip, 80, json!({"http": {"authority": authority}}))
}

fn tls(ip: &str, sni: &str) -> Value {
    outbound("shop", ip, 443, json!({"tls": {"sni": sni}}))
}

/// `OUTCOME REASON` of each case must be what stands beside it.
fn check(cases: Vec<(&str, Value, &str)>) {
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/egress/policies.yaml");
    let asked: Vec<Value> = cases.iter().map(|(_, case, _)| case.clone()).collect();
    let answers = command::answers_over(&documents, &asked, &[]);
    assert_eq!(answers.len(), cases.len());
    for ((name, _, expected), answer) in cases.iter().zip(&answers) {
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert_eq!(format!("{} {}", text("outcome"), text("reason")), *expected, "{name}: {answer}");
    }
}

#[test]
fn where_bytes_go_to_the_dialled_address_a_name_alone_is_no_evidence() {
    check(vec![
        ("host, at another address", http(OTHER, "none.example.com"), "respond egress-denied"),
        ("host, at an address that is permitted itself", http(PERMITTED, "none.example.com"), "forward ok"),
        (
            "a host that is not permitted, at such an address",
            http(PERMITTED, "no.example.com"),
            "respond egress-denied",
        ),
        ("server name, at another address", tls(OTHER, "none.example.com"), "reset egress-denied"),
        ("server name, at an address that is permitted itself", tls(PERMITTED, "none.example.com"), "forward ok"),
        ("wildcard, at another address", http(OTHER, "a.any.example.com"), "respond egress-denied"),
        ("wildcard, at an address that is permitted itself", http(PERMITTED, "a.any.example.com"), "forward ok"),
    ]);
}

#[test]
fn an_address_that_the_document_gives_a_host_needs_no_permit_of_its_own() {
    check(vec![
        ("its address", http("203.0.113.10", "placed.example.com"), "forward ok"),
        ("its network", http("198.51.100.9", "placed.example.com"), "forward ok"),
        ("another address", http(OTHER, "placed.example.com"), "respond egress-denied"),
        ("another host's address", http("203.0.113.11", "placed.example.com"), "respond egress-denied"),
        ("its address, another host", http("203.0.113.10", "no.example.com"), "respond egress-denied"),
        ("bytes at its address", outbound("shop", "203.0.113.10", 5432, json!({})), "forward ok"),
        ("bytes at another address", outbound("shop", OTHER, 5432, json!({})), "reset egress-denied"),
    ]);
}

#[test]
fn what_is_resolved_is_what_was_judged() {
    check(vec![
        ("a permitted name", http(OTHER, "c.wild.example.com"), "forward ok"),
        ("in capitals, with a final dot", http(OTHER, "C.Wild.Example.com."), "forward ok"),
        ("another name of the wildcard", http(OTHER, "b.wild.example.com"), "respond egress-denied"),
        ("with a final dot, at a permitted address", http(PERMITTED, "b.wild.example.com."), "respond egress-denied"),
        ("a permitted name that is rewritten to another", http(OTHER, "a.wild.example.com"), "respond egress-denied"),
        ("a server name", tls(OTHER, "c.wild.example.com"), "forward ok"),
        ("another server name", tls(PERMITTED, "b.wild.example.com"), "reset egress-denied"),
        ("a host that is resolved, wherever its caller dials", http(OTHER, "dns.example.com"), "forward ok"),
    ]);
}

#[test]
fn a_service_whose_pods_are_dialled_leads_to_its_pods_only() {
    let strict = |ip: &str, authority: &str| outbound("strict", ip, 80, json!({"http": {"authority": authority}}));
    check(vec![
        ("a pod, under a policy", http("10.1.0.5", "db.shop"), "forward ok"),
        ("a stranger, under a policy", http(OTHER, "db.shop"), "respond egress-denied"),
        ("an address that is permitted itself", http(PERMITTED, "db.shop"), "forward ok"),
        ("a pod, under REGISTRY_ONLY", strict("10.1.0.5", "db.shop"), "forward ok"),
        ("a stranger, under REGISTRY_ONLY", strict(OTHER, "db.shop"), "respond egress-unknown-host"),
        ("no Host of the mesh, under REGISTRY_ONLY", strict(OTHER, "x.example.com"), "respond egress-unknown-host"),
    ]);
}
