//! Calls to hosts outside the mesh, judged by `palisade eval`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use std::path::Path;

use serde_json::{Value, json};

fn eval(cases: &[Value]) -> Vec<Value> {
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/egress/documents.yaml");
    command::answers_over(&documents, cases, &[])
}

fn outbound(namespace: &str, port: u16, rest: Value) -> Value {
    let mut case = json!({
        "proxy": {"namespace": namespace, "name": "curl"},
        "direction": "outbound",
        "destination": {"port": port},
        "random": 0,
    });
    case.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    case
}

fn http(authority: &str) -> Value {
    json!({"http": {"method": "GET", "authority": authority, "path": "/"}})
}

fn tls(sni: &str) -> Value {
    json!({"tls": {"sni": sni}})
}

/// The chosen cluster.
fn cluster(result: &Value) -> &str {
    result["route"]["backends"][0]["cluster"].as_str().unwrap_or_default()
}

#[test]
fn known_hosts_are_forwarded_by_host_and_server_name_wherever_the_application_dials() {
    let real = |mut case: Value| {
        case["destination"]["ip"] = json!("203.0.113.77");
        case
    };
    let results = eval(&[
        outbound("shop", 80, http("httpbin.example.org")),
        real(outbound("shop", 80, http("httpbin.example.org:80"))),
        outbound("shop", 443, tls("httpbin.example.org")),
        real(outbound("shop", 443, tls("httpbin.example.org"))),
        real(outbound("shop", 443, tls("en.wiki.example.net"))),
        outbound("shop", 80, http("de.wiki.example.net")),
        real(outbound("shop", 5432, json!({}))),
    ]);
    let expected = [
        "outbound|80||httpbin.example.org",
        "outbound|80||httpbin.example.org",
        "outbound|443||httpbin.example.org",
        "outbound|443||httpbin.example.org",
        "outbound|443||*.wiki.example.net",
        "outbound|80||*.wiki.example.net",
        "outbound|5432||db.example.org",
    ];
    for (result, expected) in results.iter().zip(expected) {
        assert_eq!((result["outcome"].as_str(), cluster(result)), (Some("forward"), expected), "{result}");
    }
    assert_eq!(results[0]["route"]["source"], "ServiceEntry shop/httpbin-ext");
    assert_eq!(results[0]["route"]["backends"][0]["endpoints"][0]["address"], "httpbin.example.org:80");
    assert_eq!(results[3]["connection"]["mode"], "tls-passthrough");
    assert_eq!(results[4]["route"]["backends"][0]["endpoints"][0]["address"], "203.0.113.77:443");
}

#[test]
fn unknown_hosts_pass_or_are_refused_as_the_outbound_policy_says() {
    let results = eval(&[
        outbound("shop", 80, http("unknown.example.com")),
        outbound("strict", 80, http("unknown.example.com")),
        outbound("strict", 443, tls("unknown.example.com")),
        outbound("strict", 9999, json!({})),
        // Known, and not imported by the Sidecar.
        outbound("strict", 80, http("de.wiki.example.net")),
        outbound("strict", 80, http("httpbin.example.org")),
    ]);
    assert_eq!((&results[0]["outcome"], cluster(&results[0])), (&json!("passthrough"), "PassthroughCluster"));
    assert_eq!(
        (&results[1]["outcome"], &results[1]["status"], &results[1]["reason"]),
        (&json!("respond"), &json!(502), &json!("egress-unknown-host"))
    );
    for refused in &results[2..4] {
        assert_eq!((&refused["outcome"], cluster(refused)), (&json!("reset"), "BlackHoleCluster"), "{refused}");
        assert_eq!(refused["reason"], "egress-unknown-host");
    }
    assert_eq!(results[4]["status"], 502, "{}", results[4]);
    assert_eq!(cluster(&results[5]), "outbound|80||httpbin.example.org");
}

#[test]
fn the_two_rules_lead_through_the_egress_gateway_and_it_originates_tls() {
    let gateway = |port: u16, sni: &str, account: &str, rest: Value| {
        let mut case = json!({
            "proxy": {"kind": "gateway", "namespace": "istio-system", "name": "egressgateway"},
            "source": {"identity": format!("spiffe://cluster.local/ns/shop/sa/{account}")},
            "destination": {"port": port},
            "tls": {"sni": sni},
            "random": 0,
        });
        case.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        case
    };
    let results = eval(&[
        outbound("shop", 80, http("edition.example.com")),
        outbound("shop", 443, tls("edition.example.com")),
        gateway(8080, "edition.example.com", "curl", http("edition.example.com")),
        gateway(8080, "edition.example.com", "other", http("edition.example.com")),
    ]);
    let backend = &results[0]["route"]["backends"][0];
    assert_eq!(backend["cluster"], "outbound|80|cnn|istio-egressgateway.istio-system.svc.cluster.local");
    assert_eq!((&backend["tls"], &backend["sni"]), (&json!("mesh"), &json!("edition.example.com")));
    assert_eq!(
        cluster(&results[1]),
        "outbound|443|cnn|istio-egressgateway.istio-system.svc.cluster.local",
        "{}",
        results[1]
    );
    let backend = &results[2]["route"]["backends"][0];
    assert_eq!(backend["cluster"], "outbound|443||edition.example.com", "{}", results[2]);
    assert_eq!((&backend["tls"], &backend["sni"]), (&json!("simple"), &json!("edition.example.com")));
    assert_eq!((&results[3]["status"], &results[3]["reason"]), (&json!(403), &json!("authz-denied")), "{}", results[3]);
}
