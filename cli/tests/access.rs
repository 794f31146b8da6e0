//! Tokens and external authorizers through `palisade eval`: real tokens, verified with the documents' keys, and given answers.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn keys(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}).to_string()
    }

    fn token(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": "k"})), part(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()).as_ref()))
    }
}

fn eval(documents: &str, cases: &[Value], settings: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("documents.yaml");
    std::fs::write(&file, documents).unwrap();
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    command::answers_over(&file, cases, &settings)
}

const WORKLOADS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: foo, labels: {app: app}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: foo}
spec: {selector: {app: app}, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
---
apiVersion: v1
kind: Pod
metadata: {name: judge, namespace: foo, labels: {app: judge}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Service
metadata: {name: judge, namespace: foo}
spec: {selector: {app: judge}, ports: [{name: grpc, port: 9000}, {name: http, port: 8000}]}
---
"#;

fn policy(kind: &str, name: &str, spec: &Value) -> String {
    let metadata = json!({"name": name, "namespace": "foo"});
    json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}).to_string()
        + "\n---\n"
}

fn call(id: &str, path: &str, headers: &Value) -> Value {
    json!({
        "id": id, "proxy": {"namespace": "foo", "name": "app"}, "destination": {"port": 80}, "random": 0,
        "http": {"path": path, "authority": "app.foo", "headers": headers}, "time": "2026-11-21T00:00:00Z",
    })
}

fn verdict(answer: &Value) -> (Option<u64>, &str) {
    (answer["status"].as_u64(), answer["reason"].as_str().unwrap())
}

#[test]
fn real_tokens_are_verified_with_inline_keys() {
    let issuer = Issuer::new();
    let authentication = json!({"jwtRules": [{
        "issuer": "i", "jwks": issuer.keys(), "audiences": ["a"],
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
    }]});
    let allow = json!({"rules": [
        {"to": [{"operation": {"paths": ["/open"]}}]},
        {"from": [{"source": {"requestPrincipals": ["i/me"]}}]},
        {"to": [{"operation": {"paths": ["/admins"]}}], "when": [{"key": "request.auth.claims[groups]", "values": ["admins"]}]},
    ]});
    let documents = WORKLOADS.to_owned()
        + &policy("RequestAuthentication", "r", &authentication)
        + &policy("AuthorizationPolicy", "p", &allow);
    let of =
        |claims: Value| json!([["authorization", format!("Bearer {}", issuer.token(&claims))], ["x-sub", "forged"]]);
    let good = json!({"iss": "i", "sub": "me", "aud": "a", "exp": 4_685_989_700_u64});
    let other = json!({"iss": "i", "sub": "you", "aud": "a", "groups": ["users", "admins"]});
    let cases = [
        (call("no token, open path", "/open", &json!([])), (None, "ok")),
        (call("no token", "/x", &json!([])), (Some(403), "authz-denied")),
        (call("good", "/x", &of(good.clone())), (None, "ok")),
        (call("another subject", "/x", &of(other.clone())), (Some(403), "authz-denied")),
        (call("by group", "/admins", &of(other)), (None, "ok")),
        (
            call("a bad token is refused also on the open path", "/open", &json!([["authorization", "Bearer x"]])),
            (Some(401), "jwt-invalid"),
        ),
        (
            call("expired", "/x", &of(json!({"iss": "i", "sub": "me", "aud": "a", "exp": 1}))),
            (Some(401), "jwt-invalid"),
        ),
        (
            call("another audience", "/x", &of(json!({"iss": "i", "sub": "me", "aud": "b"}))),
            (Some(403), "jwt-audience"),
        ),
        (call("another issuer", "/x", &of(json!({"iss": "j", "sub": "me"}))), (Some(401), "jwt-invalid")),
    ];
    let answers = eval(&documents, &cases.iter().map(|(case, _)| case.clone()).collect::<Vec<_>>(), &[]);
    for ((case, expected), answer) in cases.iter().zip(&answers) {
        assert_eq!(verdict(answer), *expected, "{}: {answer}", case["id"]);
    }
    let headers = |answer: &Value| answer["request"]["headers"].as_array().unwrap().clone();
    let sent = headers(&answers[2]);
    assert!(sent.contains(&json!(["x-sub", "me"])), "{sent:?}");
    assert!(!sent.iter().any(|line| line[0] == "authorization"), "the token is taken out: {sent:?}");
}

#[test]
fn every_place_that_a_rule_names_counts() {
    let issuer = Issuer::new();
    let places = json!({"jwtRules": [{"issuer": "i", "jwks": issuer.keys(), "fromParams": ["a", "b"], "fromHeaders": [{"name": "x-t"}]}]});
    let documents = WORKLOADS.to_owned() + &policy("RequestAuthentication", "r", &places);
    let good = issuer.token(&json!({"iss": "i", "sub": "me"}));
    let old = issuer.token(&json!({"iss": "i", "sub": "me", "exp": 1}));
    let refused = (Some(401), "jwt-invalid");
    let header = |token: &str| json!([["x-t", token]]);
    let rows = [
        (format!("/?a={good}&b={good}"), json!([]), (None, "ok"), "/"),
        (format!("/?q=1&a={good}&r"), json!([]), (None, "ok"), "/?q=1&r"),
        (format!("/?a={good}&b={old}"), json!([]), refused, ""),
        (format!("/?b={good}&a={old}"), json!([]), refused, ""),
        (format!("/?a={old}"), header(&good), refused, ""),
        (format!("/?a={good}"), header(&old), refused, ""),
        (format!("/?a={good}"), header(&good), (None, "ok"), "/"),
    ];
    let cases: Vec<Value> = rows.iter().map(|(path, headers, ..)| call("places", path, headers)).collect();
    for ((path, headers, expected, sent), answer) in rows.iter().zip(eval(&documents, &cases, &[])) {
        assert_eq!(verdict(&answer), *expected, "{path} {headers}");
        assert_eq!(answer["request"]["path"].as_str().unwrap_or_default(), *sent, "{path} {headers}");
    }
}

#[test]
fn gateways_of_the_gateway_api_are_selected_unless_the_mesh_says_no() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]);
    let selector = json!({"matchLabels": {"gateway.networking.k8s.io/gateway-name": "edge"}});
    let documents = [
        WORKLOADS.to_owned(),
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge, namespace: foo}, spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}}\n---\n".to_owned(),
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: foo}, spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: app, port: 80}]}]}}\n---\n".to_owned(),
        policy("RequestAuthentication", "aimed", &json!({"targetRefs": target, "jwtRules": [{"issuer": "a", "jwks": keys}]})),
        policy("RequestAuthentication", "selecting", &json!({"selector": selector, "jwtRules": [{"issuer": "b", "jwks": keys}]})),
        policy("AuthorizationPolicy", "everyone", &json!({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no"]}}]}]})),
    ]
    .concat();
    let case = |issuer_name: &str, path: &str| {
        let token = issuer.token(&json!({"iss": issuer_name, "sub": "s"}));
        json!({"id": path, "proxy": {"gateway": "foo/edge"}, "destination": {"port": 80},
               "http": {"path": path, "authority": "app", "headers": [["authorization", format!("Bearer {token}")]]}})
    };
    let cases = [case("a", "/"), case("b", "/"), case("a", "/no")];
    let verdicts = |settings: &[&str]| -> Vec<String> {
        eval(&documents, &cases, settings).iter().map(|answer| answer["reason"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(verdicts(&[]), ["ok", "ok", "authz-denied"]);
    assert_eq!(verdicts(&["ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY=false"]), ["ok", "jwt-invalid", "ok"]);
}

#[test]
fn given_claims_count_as_verified() {
    let claims = json!({"rules": [{"when": [{"key": "request.auth.claims[a][b]", "values": ["c"]}]}]});
    let documents = WORKLOADS.to_owned() + &policy("AuthorizationPolicy", "p", &claims);
    let mut case = call("given", "/", &json!([]));
    case["http"]["claims"] = json!({"iss": "i", "sub": "s", "a": {"b": "c"}});
    let answers = eval(&documents, &[case, call("none", "/", &json!([]))], &[]);
    assert_eq!(verdict(&answers[0]), (None, "ok"));
    assert_eq!(verdict(&answers[1]), (Some(403), "authz-denied"));
}

fn with_providers() -> String {
    let mesh = "extensionProviders:
    - {name: grpc, envoyExtAuthzGrpc: {service: judge.foo.svc.cluster.local, port: 9000}}
    - {name: open, envoyExtAuthzGrpc: {service: judge.foo.svc.cluster.local, port: 9000, failOpen: true}}
    - {name: busy, envoyExtAuthzGrpc: {service: judge.foo.svc.cluster.local, port: 9000, statusOnError: '503'}}
    - {name: http, envoyExtAuthzHttp: {service: judge.foo.svc.cluster.local, port: 8000, headersToUpstreamOnAllow: [x-user]}}";
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {mesh}\n---\n{WORKLOADS}"
    )
}

fn custom(name: &str, provider: &str, path: &str) -> String {
    let rules = json!([{"to": [{"operation": {"paths": [path]}}]}]);
    policy("AuthorizationPolicy", name, &json!({"action": "CUSTOM", "provider": {"name": provider}, "rules": rules}))
}

#[test]
fn custom_policies_ask_their_provider() {
    let documents = |provider: &str| with_providers() + &custom("c", provider, "/ask*");
    let asked = |provider: &str, path: &str, answer: Value| {
        let mut case = call(provider, path, &json!([["x-user", "forged"]]));
        case["providers"] = answer;
        eval(&documents(provider), &[case], &[]).remove(0)
    };
    for (provider, path, answer, expected, decision) in [
        ("grpc", "/other", json!({}), (None, "ok"), None),
        ("grpc", "/ask", json!({"grpc": {"status": 200}}), (None, "ok"), Some("allow")),
        ("grpc", "/ask", json!({"grpc": {"status": 418}}), (Some(418), "ext-authz-denied"), Some("deny")),
        ("grpc", "/ask", json!({}), (Some(403), "ext-authz-unavailable"), Some("deny")),
        ("grpc", "/ask", json!({"grpc": {"error": "timeout"}}), (Some(403), "ext-authz-unavailable"), Some("deny")),
        ("busy", "/ask", json!({"busy": {"error": "reset"}}), (Some(503), "ext-authz-unavailable"), Some("deny")),
        ("open", "/ask", json!({"open": {"error": "reset"}}), (None, "ok"), Some("allow")),
        ("http", "/ask", json!({"http": {"status": 401}}), (Some(401), "ext-authz-denied"), Some("deny")),
        ("http", "/ask", json!({"http": {"status": 500}}), (Some(403), "ext-authz-unavailable"), Some("deny")),
        ("missing", "/ask", json!({"missing": {"status": 200}}), (Some(403), "ext-authz-unavailable"), Some("deny")),
        ("missing", "/other", json!({}), (None, "ok"), None),
    ] {
        let got = asked(provider, path, answer.clone());
        assert_eq!(verdict(&got), expected, "{provider} {answer}: {got}");
        assert_eq!(got["authz"]["custom"][0]["decision"].as_str(), decision, "{provider} {answer}: {got}");
    }
    let headers = |answer: &Value| answer["request"]["headers"].as_array().unwrap().clone();
    let set = asked("http", "/ask", json!({"http": {"status": 200, "headers": [["x-user", "me"], ["x-other", "no"]]}}));
    assert!(headers(&set).contains(&json!(["x-user", "me"])), "{set}");
    assert!(!headers(&set).iter().any(|line| line[0] == "x-other"), "only listed headers go upstream: {set}");
    let forbidden = asked("grpc", "/ask", json!({"grpc": {"status": 200, "headers": [["host", "evil"]]}}));
    assert_eq!(verdict(&forbidden), (Some(403), "ext-authz-unavailable"));
    let denial = asked("grpc", "/ask", json!({"grpc": {"status": 403}}));
    assert_eq!(denial["authz"]["policies"][0]["name"], "c", "{denial}");
}

#[test]
fn providers_that_istio_refuses_deny_what_matches() {
    let judge = "service: judge.foo.svc.cluster.local, port: 8000";
    let long = "p".repeat(64);
    for (name, entries, is_usable) in [
        ("p", format!("{{name: p, envoyExtAuthzHttp: {{{judge}}}}}"), true),
        ("p", "{name: p, envoyExtAuthzHttp: {service: foo/judge.foo.svc.cluster.local, port: 8000}}".to_owned(), true),
        ("p", "{name: p, envoyExtAuthzHttp: {service: bar/judge.foo.svc.cluster.local, port: 8000}}".to_owned(), false),
        ("p", format!("{{name: p, envoyExtAuthzHttp: {{{judge}, headersToUpstreamOnAllow: ['*']}}}}"), false),
        ("p", format!("{{name: p, envoyExtAuthzHttp: {{{judge}, includeRequestHeadersInCheck: [a, '*']}}}}"), false),
        ("p", format!("{{name: p, envoyExtAuthzHttp: {{{judge}, statusOnError: '299'}}}}"), false),
        (
            "p",
            format!("{{name: p, envoyExtAuthzHttp: {{{judge}}}}}, {{name: p, envoyExtAuthzGrpc: {{{judge}}}}}"),
            false,
        ),
        ("p", format!("{{name: p, envoyExtAuthzHttp: {{{judge}}}}}, {{name: p, zipkin: {{{judge}}}}}"), true),
        ("P", format!("{{name: P, envoyExtAuthzHttp: {{{judge}}}}}"), false),
        ("p.q", format!("{{name: p.q, envoyExtAuthzHttp: {{{judge}}}}}"), false),
        ("p-", format!("{{name: p-, envoyExtAuthzHttp: {{{judge}}}}}"), false),
        (long.as_str(), format!("{{name: {long}, envoyExtAuthzHttp: {{{judge}}}}}"), false),
    ] {
        let mesh = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders: [{entries}]\n---\n"
        );
        let mut case = call(name, "/ask", &json!([]));
        case["providers"] = json!({name: {"status": 200}});
        let answer = eval(&(mesh + WORKLOADS + &custom("c", name, "/ask")), &[case], &[]).remove(0);
        let expected = if is_usable { (None, "ok") } else { (Some(403), "ext-authz-unavailable") };
        assert_eq!(verdict(&answer), expected, "{entries}");
    }
}

#[test]
fn a_provider_that_allows_spares_nothing_else() {
    let deny = json!({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/ask"]}}]}]});
    let documents = with_providers() + &custom("c", "grpc", "/ask") + &policy("AuthorizationPolicy", "d", &deny);
    let mut case = call("denied", "/ask", &json!([]));
    case["providers"] = json!({"grpc": {"status": 200}});
    assert_eq!(verdict(&eval(&documents, &[case], &[])[0]), (Some(403), "authz-denied"));
}

#[test]
fn several_providers_need_the_setting() {
    let documents = with_providers() + &custom("c", "grpc", "/ask") + &custom("d", "http", "/ask");
    let mut case = call("both", "/ask", &json!([]));
    case["providers"] = json!({"grpc": {"status": 200}, "http": {"status": 200}});
    assert_eq!(verdict(&eval(&documents, &[case.clone()], &[])[0]), (Some(403), "ext-authz-unavailable"));
    let setting = ["PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS=true"];
    let answer = eval(&documents, &[case], &setting).remove(0);
    assert_eq!(verdict(&answer), (None, "ok"));
    assert_eq!(answer["authz"]["custom"].as_array().unwrap().len(), 2);
}

#[test]
fn opaque_connections_are_put_before_grpc_providers_only() {
    let ports = |provider: &str| {
        let spec = json!({"action": "CUSTOM", "provider": {"name": provider}, "rules": [{"to": [{"operation": {"ports": ["90"]}}]}]});
        with_providers() + &policy("AuthorizationPolicy", "c", &spec)
    };
    let case = |providers: Value| json!({"id": 1, "proxy": {"namespace": "foo", "name": "app"}, "destination": {"port": 90}, "providers": providers});
    for (provider, answer, expected) in [
        ("grpc", json!({"grpc": {"status": 200}}), ("forward", "ok")),
        ("grpc", json!({"grpc": {"status": 403}}), ("reset", "ext-authz-denied")),
        ("grpc", json!({}), ("reset", "ext-authz-unavailable")),
        ("http", json!({}), ("forward", "ok")),
        ("missing", json!({}), ("reset", "ext-authz-unavailable")),
    ] {
        let got = eval(&ports(provider), &[case(answer)], &[]).remove(0);
        let found = (got["outcome"].as_str().unwrap(), got["reason"].as_str().unwrap());
        assert_eq!(found, expected, "{provider}: {got}");
    }
}

#[test]
fn the_documents_of_the_task_pages_are_accepted() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/tasks");
    for page in ["tokens.md", "external-authorization.md"] {
        let text = std::fs::read_to_string(docs.join(page)).unwrap();
        let blocks: Vec<&str> = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!blocks.is_empty(), "{page}");
        for block in blocks {
            let mut child = Command::new(env!("CARGO_BIN_EXE_palisade"))
                .args(["analyze", "-o", "jsonl", "-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(block.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && !said.contains("PLS03"), "{page}: {said}");
        }
    }
}
