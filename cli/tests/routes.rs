//! What `eval` says of routes: Istio's and the Gateway API's, each feature by a request.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use serde_json::{Value, json};

const MESH: &str = include_str!("routes/mesh.yaml");
const EDGE: &str = include_str!("routes/edge.yaml");

/// The results of cases, by id.
fn eval(documents: &str, cases: &[Value]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, documents).unwrap();
    let results = command::answers_over(&file, cases, &[]).into_iter();
    results.map(|result| (result["id"].as_str().unwrap().to_owned(), result)).collect::<serde_json::Map<_, _>>().into()
}

/// A request of the client's to the shop.
fn outbound(id: &str, method: &str, path: &str, headers: &[(&str, &str)], random: f64) -> Value {
    json!({
        "id": id, "direction": "outbound",
        "proxy": {"namespace": "shop", "name": "client"},
        "destination": {"port": 80},
        "http": {"method": method, "authority": "web.shop", "path": path, "headers": headers},
        "random": random,
    })
}

/// A request at the edge.
fn edge(id: &str, method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Value {
    json!({
        "id": id,
        "proxy": {"kind": "gateway", "namespace": "shop", "name": "edge", "gateway": "shop/edge"},
        "destination": {"ip": "10.1.1.1", "port": 80},
        "http": {"method": method, "authority": host, "path": path, "headers": headers},
        "random": 0,
    })
}

fn cluster(result: &Value) -> &str {
    result["route"]["backends"][0]["cluster"].as_str().unwrap_or("none")
}

fn header<'a>(result: &'a Value, name: &str) -> Option<&'a str> {
    let lines = result["request"]["headers"].as_array()?;
    lines.iter().find(|line| line[0] == name)?[1].as_str()
}

#[test]
fn virtual_services_route_as_istio_says() {
    let origin = ("origin", "https://shop.example.com");
    let asked = ("access-control-request-method", "PUT");
    let results = eval(
        MESH,
        &[
            outbound("preflight", "OPTIONS", "/shared", &[origin, asked], 0.0),
            outbound("preflight of another", "OPTIONS", "/shared", &[("origin", "https://evil.com"), asked], 0.0),
            outbound("ignored", "OPTIONS", "/strict", &[("origin", "https://evil.com"), asked], 0.0),
            outbound("copied", "GET", "/copied", &[], 0.2),
            outbound("half copied", "GET", "/copied", &[], 0.7),
            outbound("direct", "GET", "/direct", &[], 0.0),
            outbound("regex", "GET", "/item/42/edit?x=1", &[], 0.0),
            outbound("regex is full", "GET", "/item/42/edit/more", &[], 0.0),
            outbound("rewritten", "GET", "/old/a/b", &[], 0.0),
            outbound("slashes", "GET", "/slash/x", &[], 0.0),
            outbound("whole", "GET", "/exact", &[], 0.0),
            outbound("case", "GET", "/CASE/x", &[], 0.0),
            outbound("without", "GET", "/without", &[], 0.0),
            outbound("with", "GET", "/without", &[("x-internal", "1")], 0.0),
            outbound("query", "GET", "/query?a=1&b=xyz", &[], 0.0),
            outbound("other query", "GET", "/query?a=2&b=xyz", &[], 0.0),
            outbound("delegated", "GET", "/team/cart", &[], 0.0),
            outbound("not the delegate's", "GET", "/team/other", &[], 0.0),
            outbound("moved", "GET", "/moved?q=1", &[], 0.0),
            outbound("labels", "GET", "/labels", &[], 0.0),
            outbound("weights", "GET", "/weights", &[], 0.95),
            outbound("headers", "GET", "/headers", &[("x-drop", "1"), ("x-set", "old")], 0.0),
            outbound("retries", "GET", "/retries", &[], 0.0),
            outbound("no retries", "GET", "/noretries", &[], 0.0),
            outbound("aborted", "GET", "/aborted", &[], 0.0),
            outbound("rest", "GET", "/anything", &[], 0.0),
        ],
    );
    let reason = |id: &str| results[id]["reason"].as_str().unwrap().to_owned();
    let rule = |id: &str| results[id]["route"]["rule"].as_u64();
    assert_eq!((reason("preflight").as_str(), &results["preflight"]["status"]), ("cors-preflight", &json!(200)));
    assert_eq!(results["preflight"]["outcome"], "respond");
    assert_eq!(results["preflight of another"]["outcome"], "forward");
    assert_eq!(reason("ignored"), "cors-preflight");
    let shadow = json!(["outbound|80||shadow.shop.svc.cluster.local"]);
    assert_eq!(results["copied"]["route"]["mirrors"], shadow);
    assert_eq!(results["half copied"]["route"]["mirrors"], json!([]));
    assert_eq!((reason("direct").as_str(), &results["direct"]["status"]), ("direct-response", &json!(418)));
    assert_eq!(results["regex"]["request"]["path"], "/v2/items/42?x=1");
    assert_eq!(header(&results["regex"], "x-envoy-original-path"), Some("/item/42/edit?x=1"));
    assert_ne!(rule("regex is full"), rule("regex"));
    assert_eq!(results["rewritten"]["request"]["path"], "/new/a/b");
    assert_eq!(results["slashes"]["request"]["path"], "//x");
    assert_eq!(results["whole"]["request"]["path"], "/replaced");
    assert_eq!(results["case"]["route"]["name"], "case");
    assert_eq!(results["without"]["route"]["name"], "without");
    assert_eq!(results["with"]["route"]["name"], "rest");
    assert_eq!(results["query"]["route"]["name"], "query");
    assert_eq!(results["other query"]["route"]["name"], "rest");
    assert_eq!(results["delegated"]["route"]["name"], "team-cart");
    assert_eq!(results["delegated"]["route"]["source"], "VirtualService shop/web");
    assert_eq!(results["not the delegate's"]["route"]["name"], "rest");
    assert_eq!(results["moved"]["route"]["redirect"], "https://new.example.com:8443/there?q=1");
    assert_eq!(results["moved"]["status"], 308);
    assert_eq!(results["labels"]["route"]["name"], "mine");
    assert_eq!(cluster(&results["weights"]), "outbound|80||shadow.shop.svc.cluster.local");
    assert_eq!(results["weights"]["route"]["backends"].as_array().unwrap().len(), 2);
    assert_eq!(header(&results["headers"], "x-drop"), None);
    assert_eq!(header(&results["headers"], "x-set"), Some("rule"));
    assert_eq!(results["headers"]["request"]["authority"], "inner.example.com");
    let retries = &results["retries"]["route"]["retries"];
    assert_eq!((&retries["attempts"], &retries["per_try_ms"]), (&json!(3), &json!(250)));
    assert_eq!(retries["on"], json!(["gateway-error", "retriable-status-codes", "429"]));
    assert_eq!(results["no retries"]["route"]["retries"], Value::Null);
    assert_eq!((reason("aborted").as_str(), &results["aborted"]["status"]), ("fault-abort", &json!(503)));
    assert_eq!(results["rest"]["route"]["retries"]["attempts"], 2);
}

#[test]
fn gateway_api_routes_route_as_their_specification_says() {
    let grpc = ("content-type", "application/grpc");
    let origin = ("origin", "https://a.shop.example.com");
    let with_claims = |mut case: Value, id: &str, claims: Value| {
        case["id"] = json!(id);
        case["proxy"] = json!({"kind": "gateway", "namespace": "shop", "name": "claims-0", "labels": {"app": "edge"}});
        case["http"]["claims"] = claims;
        case
    };
    let over_tls = |id: &str, sni: &str| {
        json!({
            "id": id,
            "proxy": {"kind": "gateway", "namespace": "shop", "name": "edge", "gateway": "shop/edge"},
            "destination": {"ip": "10.1.1.1", "port": 8443},
            "tls": {"sni": sni, "alpn": ["h2"]}, "random": 0,
        })
    };
    let bytes = json!({
        "id": "bytes",
        "proxy": {"kind": "gateway", "namespace": "shop", "name": "edge", "gateway": "shop/edge"},
        "destination": {"ip": "10.1.1.1", "port": 9000}, "random": 0,
    });
    let gamma = |id: &str, namespace: &str| {
        json!({
            "id": id, "direction": "outbound",
            "proxy": {"namespace": namespace, "name": "client"},
            "destination": {"port": 80},
            "http": {"method": "GET", "authority": "plain.shop", "path": "/x"}, "random": 0,
        })
    };
    let results = eval(
        EDGE,
        &[
            edge("exact", "GET", "web.example.com", "/exact", &[]),
            edge("longest prefix", "GET", "web.example.com", "/a/b/c", &[]),
            edge("segments", "GET", "web.example.com", "/ab", &[]),
            edge("method", "POST", "web.example.com", "/a", &[]),
            edge("to https", "GET", "web.example.com:8080", "/secure", &[]),
            edge("kept scheme", "GET", "web.example.com", "/renamed", &[]),
            edge("prefix replaced", "GET", "web.example.com", "/prefix/x", &[]),
            edge("backend path", "GET", "web.example.com", "/backend", &[]),
            edge("copied", "GET", "web.example.com", "/copied", &[]),
            edge(
                "preflight",
                "OPTIONS",
                "web.example.com",
                "/cors",
                &[origin, ("access-control-request-method", "GET")],
            ),
            edge("missing", "GET", "web.example.com", "/missing", &[]),
            edge("retried", "GET", "web.example.com", "/retried", &[]),
            edge("named", "GET", "web.example.com", "/named", &[]),
            edge("call", "POST", "grpc.example.com", "/shop.Cart/Add", &[grpc]),
            edge("service", "POST", "grpc.example.com", "/shop.Cart/Drop", &[grpc]),
            edge("by header", "POST", "grpc.example.com", "/shop.Other/Get", &[grpc, ("x-tier", "gold")]),
            edge("any service", "POST", "grpc.example.com", "/any.Thing/Ping", &[grpc]),
            edge("no call", "POST", "grpc.example.com", "/no.Such/Method", &[grpc]),
            over_tls("relayed", "one.example.com"),
            over_tls("terminated", "two.example.com"),
            over_tls("nobody's", "three.example.com"),
            bytes,
            gamma("producer", "shop"),
            gamma("consumer", "guest"),
            with_claims(
                edge("", "GET", "claims.example.com", "/", &[]),
                "claimed",
                json!({"iss": "i", "group": ["a", "staff"]}),
            ),
            with_claims(
                edge("", "GET", "claims.example.com", "/", &[]),
                "unclaimed",
                json!({"iss": "i", "group": "b"}),
            ),
        ],
    );
    let rule = |id: &str| results[id]["route"]["rule"].as_u64();
    assert_eq!((rule("exact"), rule("longest prefix"), rule("segments")), (Some(0), Some(2), Some(3)));
    assert_eq!(rule("method"), Some(1));
    assert_eq!(results["to https"]["route"]["redirect"], "https://web.example.com/secure");
    assert_eq!(results["to https"]["status"], 307);
    assert_eq!(results["kept scheme"]["route"]["redirect"], "http://other.example.com/renamed");
    assert_eq!(results["prefix replaced"]["request"]["path"], "/new/x");
    assert_eq!(results["backend path"]["request"]["path"], "/own");
    assert_eq!(results["backend path"]["request"]["authority"], "own.example.com");
    assert_eq!(results["copied"]["route"]["mirrors"], json!(["outbound|80||shadow.shop.svc.cluster.local"]));
    assert_eq!(results["preflight"]["reason"], "cors-preflight");
    assert_eq!((&results["missing"]["status"], &results["missing"]["reason"]), (&json!(500), &json!("no-cluster")));
    assert_eq!(results["retried"]["route"]["retries"]["attempts"], 4);
    assert_eq!(results["retried"]["route"]["timeout_ms"], 500);
    assert_eq!(results["named"]["route"]["name"], "by-name");

    assert_eq!(results["call"]["route"]["source"], "GRPCRoute shop/grpc");
    assert_eq!(
        (rule("call"), rule("service"), rule("by header"), rule("any service")),
        (Some(0), Some(1), Some(2), Some(3))
    );
    let refused = &results["no call"];
    assert_eq!(
        (&refused["status"], &refused["grpc_status"], &refused["reason"]),
        (&json!(200), &json!(12), &json!("no-route"))
    );

    let secure = "outbound|443||secure.shop.svc.cluster.local";
    assert_eq!(
        (cluster(&results["relayed"]), &results["relayed"]["connection"]["mode"]),
        (secure, &json!("tls-passthrough"))
    );
    assert_eq!(results["relayed"]["route"]["source"], "TLSRoute shop/one");
    assert_eq!(
        (cluster(&results["terminated"]), &results["terminated"]["connection"]["mode"]),
        ("outbound|80||plain.shop.svc.cluster.local", &json!("tls-terminated"))
    );
    assert_eq!(results["nobody's"]["reason"], "no-filter-chain");
    assert_eq!(
        (cluster(&results["bytes"]), &results["bytes"]["connection"]["protocol"]),
        ("outbound|80||plain.shop.svc.cluster.local", &json!("tcp"))
    );

    assert_eq!(results["producer"]["route"]["source"], "HTTPRoute shop/producer");
    assert_eq!(results["consumer"]["route"]["source"], "HTTPRoute guest/consumer");
    assert_eq!(results["claimed"]["route"]["name"], "staff");
    assert_eq!(results["unclaimed"]["route"]["name"], "rest");

    let backend = &results["exact"]["route"]["backends"][0];
    assert_eq!((&backend["tls"], &backend["sni"]), (&json!("simple"), &json!("web.internal.example.com")));
    assert_eq!(backend["sans"], json!(["web.internal.example.com"]));
}
