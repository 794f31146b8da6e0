//! What `eval` says of requests that name two places, hide slashes, or carry names that servers read differently.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use serde_json::{Value, json};

/// The result of each case, in order.
fn eval(documents: &str, cases: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, documents).unwrap();
    let results = command::answers_over(&file, cases, &[]);
    assert_eq!(results.len(), cases.len());
    results
}

fn gateway(port: u16, http: Value) -> Value {
    json!({
        "proxy": {"kind": "gateway", "namespace": "shop", "name": "edge", "gateway": "shop/edge"},
        "destination": {"ip": "10.1.1.1", "port": port},
        "http": http,
        "random": 0,
    })
}

/// Gateway API, GEP-3567: what another listener takes more closely than the one that the handshake chose is misdirected;
/// what nobody takes has no route. Istio's own Gateways know no 421.
#[test]
fn a_request_that_another_listener_serves_is_misdirected() {
    let rows = [
        (443, "free.test", "free.test", 200),
        (443, "free.test", "one.test", 421),
        (443, "free.test", "unknown.test", 404),
        (443, "one.test", "one.test", 200),
        (443, "one.test", "ONE.test:443", 200),
        (443, "one.test", "free.test", 421),
        (443, "one.test", "unknown.test", 421),
        (443, "a.wild.test", "a.wild.test", 200),
        (443, "a.wild.test", "b.wild.test", 200),
        (443, "a.wild.test", "special.wild.test", 421),
        (443, "a.wild.test", "one.test", 421),
        (443, "special.wild.test", "special.wild.test", 200),
        (443, "special.wild.test", "a.wild.test", 421),
        (443, "unknown.test", "free.test", 200),
        (443, "unknown.test", "unknown.test", 404),
        (8443, "a.closed.test", "a.closed.test", 200),
        (8443, "a.closed.test", "b.closed.test", 421),
        // No listener of the port has it.
        (8443, "a.closed.test", "one.test", 404),
    ];
    let case = |port, sni: &str, host: &str, version: &str| {
        let mut case = gateway(port, json!({"method": "GET", "authority": host, "path": "/", "version": version}));
        case["tls"] = json!({"sni": sni, "alpn": ["h2", "http/1.1"]});
        case
    };
    for version in ["1.1", "2"] {
        let cases: Vec<Value> = rows.iter().map(|(port, sni, host, _)| case(*port, sni, host, version)).collect();
        let results = eval(include_str!("hygiene/misdirected.yaml"), &cases);
        for ((port, sni, host, status), result) in rows.iter().zip(&results) {
            let seen = if result["outcome"] == "forward" { json!(200) } else { result["status"].clone() };
            assert_eq!(seen, json!(status), "{port} {sni} {host}: {result}");
            assert_eq!(result["reason"] == "misdirected", *status == 421, "{result}");
        }
    }
    let istio = |host: &str| {
        json!({
            "proxy": {"kind": "gateway", "namespace": "shop", "name": "istio-edge", "labels": {"istio": "edge"}},
            "destination": {"ip": "10.1.1.2", "port": 443},
            "tls": {"sni": "one.test", "alpn": ["h2"]},
            "http": {"method": "GET", "authority": host, "path": "/", "version": "2"},
        })
    };
    let results = eval(include_str!("hygiene/misdirected.yaml"), &[istio("one.test"), istio("two.test")]);
    assert_eq!(results[0]["outcome"], "forward", "{}", results[0]);
    assert_eq!((&results[1]["status"], &results[1]["reason"]), (&json!(404), &json!("no-route")), "{}", results[1]);
}

#[test]
fn a_host_beside_the_authority_must_be_the_same() {
    let case = |lines: Value| {
        gateway(80, json!({"method": "GET", "authority": "a.test", "path": "/", "version": "2", "headers": lines}))
    };
    let cases = [case(json!([])), case(json!([["host", "a.test"]])), case(json!([["host", "b.test"]]))];
    let results = eval(include_str!("hygiene/mesh.yaml"), &cases);
    assert_eq!(results[0]["outcome"], "forward", "{}", results[0]);
    assert_eq!(results[1]["outcome"], "forward", "{}", results[1]);
    assert_eq!((&results[2]["status"], &results[2]["reason"]), (&json!(400), &json!("bad-request")));
}

/// `connectionSettings` with the profile EDGE: gateways merge slashes, send clients to decoded paths and refuse `_` in header
/// names; sidecars do as before.
#[test]
fn the_edge_profile_is_for_gateways() {
    let at_edge = |path: &str, lines: Value| {
        gateway(80, json!({"method": "GET", "authority": "a.test", "path": path, "headers": lines}))
    };
    let at_pod = |path: &str, lines: Value| {
        json!({
            "proxy": {"namespace": "shop", "name": "web-0"},
            "destination": {"port": 80},
            "http": {"method": "GET", "authority": "web.shop", "path": path, "headers": lines},
        })
    };
    let (none, underscore) = (json!([]), json!([["x_user", "a"]]));
    let grpc = json!([["content-type", "application/grpc"]]);
    let results = eval(
        include_str!("hygiene/mesh.yaml"),
        &[
            at_edge("/a//b", none.clone()),
            at_edge("/a%2Fb%5c..//c?q=%2f", none.clone()),
            at_edge("/a%2Fb", grpc),
            at_edge("/a", underscore.clone()),
            at_edge("//admin", none.clone()),
            at_edge("//evil.test/%2f..", none.clone()),
            at_pod("/a%2F//b", none),
            at_pod("/a", underscore),
        ],
    );
    assert_eq!(results[0]["request"]["path"], "/a/b", "{}", results[0]);
    let moved =
        |result: &Value| (result["status"].clone(), result["reason"].clone(), result["route"]["redirect"].clone());
    assert_eq!(moved(&results[1]), (json!(307), json!("redirect"), json!("http://a.test/a/c?q=%2f")), "{}", results[1]);
    assert_eq!(results[2]["reason"], "bad-request", "{}", results[2]);
    assert_eq!((&results[3]["status"], &results[3]["reason"]), (&json!(400), &json!("bad-request")), "{}", results[3]);
    assert_eq!(results[4]["status"], 403, "{}", results[4]);
    // Never to another host.
    assert_eq!(moved(&results[5]).2, json!("http://a.test/evil.test/"), "{}", results[5]);
    assert_eq!(results[6]["request"]["path"], "/a%2F//b", "{}", results[6]);
    assert_eq!(results[7]["outcome"], "forward", "{}", results[7]);
}
