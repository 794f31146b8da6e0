//! AuthorizationPolicy as Istio means it, field by field, through `palisade eval`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use serde_json::{Value, json};

const MESH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: foo, labels: {app: web, version: v1}}
spec: {containers: [{name: c, image: x}], serviceAccountName: web}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp, port: 9000, targetPort: 9000}
  - {name: auto, port: 9100, targetPort: 9100}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "trustDomain: new.example\ntrustDomainAliases: [old.example]\n"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: foo}
spec:
  gatewayClassName: palisade
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: foo}
spec:
  selector: {istio: front}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"#;

fn eval(documents: &str, cases: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("documents.yaml");
    std::fs::write(&file, format!("{MESH}---\n{documents}")).unwrap();
    command::answers_over(&file, cases, &[])
}

fn policy_in(namespace: &str, name: &str, spec: &Value) -> String {
    let metadata = json!({"name": name, "namespace": namespace});
    let document = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec});
    format!("{document}\n")
}

fn policy(spec: &Value) -> String {
    policy_in("foo", "p", spec)
}

fn merged(mut under: Value, over: &Value) -> Value {
    if let (Value::Object(under), Value::Object(over)) = (&mut under, over) {
        for (key, value) in over {
            let below = under.remove(key).unwrap_or(Value::Null);
            let value = if below.is_object() && value.is_object() { merged(below, value) } else { value.clone() };
            under.insert(key.clone(), value);
        }
    }
    under
}

/// A request to port 8080 from service account `foo/a`; `over` wins.
fn call(over: &Value) -> Value {
    let case = json!({
        "proxy": {"namespace": "foo", "name": "web-0"},
        "source": {"ip": "10.1.2.3", "identity": "spiffe://new.example/ns/foo/sa/a"},
        "destination": {"ip": "10.0.0.9", "port": 8080},
        "http": {"method": "GET", "authority": "web.foo:80", "path": "/a/b"},
    });
    merged(case, over)
}

/// The same as opaque bytes to the declared TCP port.
fn bytes(over: &Value) -> Value {
    let mut case = call(&merged(json!({"destination": {"port": 9000}}), over));
    case.as_object_mut().unwrap().remove("http");
    case
}

fn plaintext(over: &Value) -> Value {
    let mut case = call(over);
    case["source"].as_object_mut().unwrap().remove("identity");
    case
}

fn decisions(answers: &[Value]) -> Vec<bool> {
    answers.iter().map(|answer| answer["authz"]["decision"] == "allow").collect()
}

/// Rows of a field's value, a case, and whether the field holds. Each is asked of ALLOW and of DENY, and negated.
fn check_field(place: &str, rows: &[(Value, Value, bool)]) {
    for (values, case, holds) in rows {
        let (list, field) = place.split_once('.').unwrap();
        let not = format!("not{}{}", field[..1].to_uppercase(), &field[1..]);
        let inner = if list == "from" { "source" } else { "operation" };
        let rule = |field: &str| json!([{list: [{inner: {field: values}}]}]);
        let allow = policy(&json!({"rules": rule(field)}));
        assert_eq!(decisions(&eval(&allow, std::slice::from_ref(case))), [*holds], "ALLOW {field} {values} {case}");
        let deny = policy(&json!({"action": "DENY", "rules": rule(&not)}));
        assert_eq!(decisions(&eval(&deny, std::slice::from_ref(case))), [*holds], "DENY {not} {values} {case}");
    }
}

#[test]
fn empty_forms_mean_what_istio_says() {
    let cases = [call(&json!({})), bytes(&json!({}))];
    for (spec, allowed) in [
        (json!({}), false),
        (json!({"rules": []}), false),
        (json!({"rules": [{}]}), true),
        (json!({"action": "DENY", "rules": [{}]}), false),
        (json!({"action": "DENY"}), true),
        (json!({"action": "DENY", "rules": []}), true),
        (json!({"action": "DENY", "rules": [null]}), true),
        (json!({"rules": [null]}), false),
        (json!({"action": "AUDIT", "rules": [{}]}), true),
    ] {
        assert_eq!(decisions(&eval(&policy(&spec), &cases)), [allowed; 2], "{spec}");
    }
}

#[test]
fn peers_are_told_by_their_certificates() {
    let me = |identity: &str| call(&json!({"source": {"identity": identity}}));
    let own = me("spiffe://new.example/ns/foo/sa/a");
    check_field(
        "from.principals",
        &[
            (json!(["new.example/ns/foo/sa/a"]), own.clone(), true),
            (json!(["NEW.example/ns/foo/sa/a"]), own.clone(), false),
            // Aliases, and `cluster.local` always, stand for the mesh's own domain.
            (json!(["old.example/ns/foo/sa/a"]), own.clone(), true),
            (json!(["cluster.local/ns/foo/sa/a"]), own.clone(), true),
            (json!(["other.example/ns/foo/sa/a"]), own.clone(), false),
            (json!(["new.example/ns/foo/sa/a"]), me("spiffe://old.example/ns/foo/sa/a"), true),
            (json!(["*"]), own.clone(), true),
            (json!(["*"]), plaintext(&json!({})), false),
            (json!(["new.example/ns/foo/*"]), own.clone(), true),
            (json!(["*/sa/a"]), own.clone(), true),
            (json!(["new.*/sa/a"]), own.clone(), false),
            (json!(["spiffe://new.example/ns/foo/sa/a"]), own.clone(), false),
        ],
    );
    check_field(
        "from.namespaces",
        &[
            (json!(["foo"]), own.clone(), true),
            (json!(["fo"]), own.clone(), false),
            (json!(["f*"]), own.clone(), true),
            (json!(["*o"]), own.clone(), true),
            (json!(["f*o"]), own.clone(), true),
            (json!(["f.o"]), own.clone(), false),
            (json!(["foo"]), plaintext(&json!({})), false),
        ],
    );
    check_field(
        "from.serviceAccounts",
        &[
            (json!(["foo/a"]), own.clone(), true),
            (json!(["a"]), own.clone(), true),
            (json!(["bar/a"]), own.clone(), false),
            (json!(["a"]), me("spiffe://new.example/ns/bar/sa/a"), false),
            (json!(["foo/a"]), me("spiffe://old.example/ns/foo/sa/a"), true),
            (json!(["foo/a"]), plaintext(&json!({})), false),
        ],
    );
    check_field(
        "from.trustDomains",
        &[
            (json!(["new.example"]), own.clone(), true),
            (json!(["old.example"]), own.clone(), true),
            (json!(["*.example"]), own.clone(), true),
            (json!(["new*"]), own.clone(), true),
            (json!(["*"]), own.clone(), true),
            (json!(["cluster.local"]), own.clone(), false),
            (json!(["new.example"]), plaintext(&json!({})), false),
        ],
    );
}

#[test]
fn addresses_are_compared_as_blocks_however_they_are_written() {
    let from = |ip: &str| call(&json!({"source": {"ip": ip}}));
    check_field(
        "from.ipBlocks",
        &[
            (json!(["10.1.2.3"]), from("10.1.2.3"), true),
            (json!(["10.1.0.0/16"]), from("10.1.2.3"), true),
            (json!(["10.2.0.0/16"]), from("10.1.2.3"), false),
            (json!(["10.1.0.0/16"]), from("::ffff:10.1.2.3"), true),
            (json!(["fd00::/8"]), from("fd00::5"), true),
            (json!(["0.0.0.0/0"]), from("fd00::5"), false),
        ],
    );
    // At a sidecar the rightmost X-Forwarded-For entry, where there is one.
    let forwarded = |lines: &str| call(&json!({"http": {"headers": [["x-forwarded-for", lines]]}}));
    check_field(
        "from.remoteIpBlocks",
        &[
            (json!(["203.0.113.0/24"]), forwarded("198.51.100.1, 203.0.113.7"), true),
            (json!(["198.51.100.1"]), forwarded("198.51.100.1, 203.0.113.7"), false),
            (json!(["10.1.2.3"]), call(&json!({})), true),
        ],
    );
    // Four hundred and sixty-eight and more blocks in a row deny all the same.
    let blocks: Vec<String> = (0..600).map(|n| format!("10.{}.{}.0/24", n / 256 + 1, n % 256)).collect();
    let deny = policy(&json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": blocks}}]}]}));
    let cases = [from("10.1.2.3"), from("10.3.87.9"), from("10.9.0.1"), bytes(&json!({}))];
    assert_eq!(decisions(&eval(&deny, &cases)), [false, false, true, false]);
}

#[test]
fn operations_are_compared_as_istio_compares_them() {
    let http = |http: Value| call(&json!({ "http": http }));
    check_field(
        "to.hosts",
        &[
            (json!(["web.foo"]), http(json!({"authority": "web.foo:80"})), false),
            (json!(["web.foo:*"]), http(json!({"authority": "web.foo:80"})), true),
            (json!(["WEB.foo"]), http(json!({"authority": "web.FOO"})), true),
            (json!(["*.foo"]), http(json!({"authority": "web.foo"})), true),
            (json!(["web.*"]), http(json!({"authority": "web.foo:80"})), true),
            (json!(["web.foo"]), http(json!({"authority": "web.foo."})), false),
        ],
    );
    check_field(
        "to.methods",
        &[
            (json!(["GET"]), call(&json!({})), true),
            (json!(["get"]), call(&json!({})), false),
            (json!(["G*"]), call(&json!({})), true),
            (json!(["*ET"]), call(&json!({})), true),
            (json!(["POST", "GET"]), call(&json!({})), true),
        ],
    );
    let path = |path: &str| http(json!({"path": path}));
    check_field(
        "to.paths",
        &[
            (json!(["/a/b"]), path("/a/b?x=1"), true),
            (json!(["/a/b"]), path("/a/b#x"), true),
            (json!(["/a/b"]), path("/a/./c/../b"), true),
            (json!(["/a/b"]), path("/a/%62"), true),
            (json!(["/a/b"]), path("/A/b"), false),
            (json!(["/a/*"]), path("/a/b/c"), true),
            (json!(["*/b"]), path("/a/b"), true),
            (json!(["/a/{*}"]), path("/a/b"), true),
            (json!(["/a/{*}"]), path("/a/b/c"), false),
            (json!(["/a/{**}"]), path("/a/"), true),
            (json!(["/a/{**}"]), path("/a"), false),
            (json!(["/foo/{*}/bar/{**}"]), path("/foo/x/bar/y/z"), true),
            (json!(["/foo/{*}/bar/{**}"]), path("/foo//bar/x"), false),
            (json!(["/store/{**}/cart"]), path("/store//cart"), true),
            (json!(["/store/{**}/cart"]), path("/store/cart"), false),
            (json!(["/anything/{**}"]), path("/anything/*abc"), true),
            (json!(["/a*b"]), path("/axb"), false),
        ],
    );
    check_field(
        "to.ports",
        &[
            (json!(["8080"]), call(&json!({})), true),
            // Never the Service's port.
            (json!(["80"]), call(&json!({})), false),
            (json!(["80", "8080"]), call(&json!({})), true),
            (json!(["9000"]), bytes(&json!({})), true),
            (json!(["0"]), call(&json!({})), false),
        ],
    );
}

#[test]
fn conditions_look_at_what_their_keys_name() {
    let with = |headers: Value| call(&json!({"http": {"headers": headers}}));
    let claims = |claims: Value| call(&json!({"http": {"claims": claims}}));
    let sni = call(&json!({"tls": {"sni": "a.example.com", "mesh": true}}));
    let rows: Vec<(&str, Value, Value, bool)> = vec![
        ("request.headers[X-Role]", json!(["admin"]), with(json!([["x-role", "admin"]])), true),
        // Each line by itself; a comma makes no second value.
        ("request.headers[x-role]", json!(["admin"]), with(json!([["x-role", "user"], ["x-role", "admin"]])), true),
        ("request.headers[x-role]", json!(["admin"]), with(json!([["x-role", "user,admin"]])), false),
        (
            "request.headers[x-role]",
            json!(["user,admin"]),
            with(json!([["x-role", "user"], ["x-role", "admin"]])),
            false,
        ),
        ("request.headers[x-role]", json!(["*"]), with(json!([["x-role", ""]])), true),
        ("request.headers[x-role]", json!(["*"]), call(&json!({})), false),
        ("request.headers[x-role]", json!(["adm*"]), with(json!([["x-role", "admin"]])), true),
        ("request.headers[x-role]", json!(["admin"]), with(json!([["x-role", {"b64": "/w=="}]])), false),
        ("source.ip", json!(["10.1.0.0/16"]), call(&json!({})), true),
        ("remote.ip", json!(["10.1.2.3"]), call(&json!({})), true),
        ("source.namespace", json!(["foo"]), call(&json!({})), true),
        ("source.principal", json!(["cluster.local/ns/foo/sa/a"]), call(&json!({})), true),
        ("source.serviceAccount", json!(["foo/a"]), call(&json!({})), true),
        ("source.trustDomain", json!(["new.example"]), call(&json!({})), true),
        ("destination.ip", json!(["10.0.0.9"]), call(&json!({})), true),
        ("destination.ip", json!(["10.0.0.9"]), call(&json!({"destination": {"ip": "::ffff:10.0.0.9"}})), true),
        ("destination.port", json!(["8080"]), call(&json!({})), true),
        ("connection.sni", json!(["a.example.com"]), sni.clone(), true),
        ("connection.sni", json!(["*.example.com"]), sni.clone(), true),
        ("connection.sni", json!(["*"]), call(&json!({})), false),
        ("request.auth.principal", json!(["https://i/s"]), claims(json!({"iss": "https://i", "sub": "s"})), true),
        ("request.auth.principal", json!(["https://i/*"]), claims(json!({"iss": "https://i", "sub": "s"})), true),
        ("request.auth.principal", json!(["*/s"]), claims(json!({"iss": "https://i", "sub": "s"})), true),
        ("request.auth.principal", json!(["*"]), claims(json!({"iss": "https://i", "sub": "s"})), true),
        ("request.auth.principal", json!(["*"]), call(&json!({})), false),
        ("request.auth.audiences", json!(["b"]), claims(json!({"iss": "i", "sub": "s", "aud": ["a", "b"]})), true),
        ("request.auth.presenter", json!(["c"]), claims(json!({"iss": "i", "sub": "s", "azp": "c"})), true),
        (
            "request.auth.claims[realm][roles]",
            json!(["r"]),
            claims(json!({"iss": "i", "realm": {"roles": ["q", "r"]}})),
            true,
        ),
        ("request.auth.claims[a.b]", json!(["v"]), claims(json!({"iss": "i", "a.b": "v"})), true),
        ("request.auth.claims[a.b]", json!(["v"]), claims(json!({"iss": "i", "a": {"b": "v"}})), false),
        ("request.auth.claims[scope]", json!(["write"]), claims(json!({"iss": "i", "scope": "read write"})), true),
        ("request.auth.claims[note]", json!(["write"]), claims(json!({"iss": "i", "note": "read write"})), false),
        ("request.auth.claims[n]", json!(["1"]), claims(json!({"iss": "i", "n": 1})), false),
        ("request.auth.claims[group]", json!(["eng-*"]), claims(json!({"iss": "i", "group": "eng-a"})), true),
    ];
    for (key, values, case, holds) in rows {
        let allow = policy(&json!({"rules": [{"when": [{"key": key, "values": values}]}]}));
        assert_eq!(decisions(&eval(&allow, std::slice::from_ref(&case))), [holds], "ALLOW {key} {values} {case}");
        let deny = policy(&json!({"action": "DENY", "rules": [{"when": [{"key": key, "notValues": values}]}]}));
        assert_eq!(decisions(&eval(&deny, std::slice::from_ref(&case))), [holds], "DENY {key} not {values} {case}");
    }
}

#[test]
fn http_fields_vanish_on_tcp_chains_as_istio_makes_them() {
    let paths = json!([{"to": [{"operation": {"paths": ["/a/b"]}}]}]);
    let both = json!([{"from": [{"source": {"namespaces": ["foo"]}}], "to": [{"operation": {"methods": ["POST"]}}]}]);
    let auto_http = call(&json!({"destination": {"port": 9100}, "tls": {"mesh": true}}));
    let mut auto_tcp = bytes(&json!({"destination": {"port": 9100}}));
    auto_tcp["destination"]["port"] = json!(9100);
    for (spec, expected) in [
        // HTTP port, TCP port, auto-detected HTTP, auto-detected bytes.
        (json!({"rules": paths}), [true, false, true, false]),
        (json!({"action": "DENY", "rules": paths}), [false, false, false, false]),
        (json!({"rules": both}), [false, false, false, false]),
        (json!({"action": "DENY", "rules": both}), [true, false, true, false]),
        (
            json!({"action": "DENY", "rules": [{"to": [{"operation": {"notPaths": ["/x"]}}]}]}),
            [false, false, false, false],
        ),
        (json!({"action": "AUDIT", "rules": paths}), [true, true, true, true]),
    ] {
        let cases = [call(&json!({})), bytes(&json!({})), auto_http.clone(), auto_tcp.clone()];
        assert_eq!(decisions(&eval(&policy(&spec), &cases)), expected, "{spec}");
    }
}

#[test]
fn scopes_reach_whom_istio_says() {
    let deny = |more: Value| merged(json!({"action": "DENY", "rules": [{}]}), &more);
    let gateway_ref =
        json!({"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]});
    let service_ref = json!({"targetRefs": [{"kind": "Service", "group": "", "name": "web"}]});
    let web = json!({"selector": {"matchLabels": {"app": "web"}}});
    let sidecar = call(&json!({}));
    let api_gateway = json!({"proxy": {"gateway": "foo/edge", "labels": {"gateway.networking.k8s.io/gateway-name": "edge"}},
        "destination": {"port": 80}, "http": {"authority": "a", "path": "/"}});
    let istio_gateway = json!({"proxy": {"kind": "gateway", "namespace": "foo", "name": "front-0", "labels": {"istio": "front"}},
        "destination": {"port": 80}, "http": {"authority": "a", "path": "/"}});
    let cases = [sidecar, api_gateway, istio_gateway];
    for (namespace, spec, expected) in [
        ("foo", deny(json!({})), [false, false, false]),
        ("istio-system", deny(json!({})), [false, false, false]),
        ("bar", deny(json!({})), [true, true, true]),
        ("foo", deny(web.clone()), [false, true, true]),
        ("istio-system", deny(web.clone()), [false, true, true]),
        ("bar", deny(web), [true, true, true]),
        ("foo", deny(gateway_ref.clone()), [true, false, true]),
        ("istio-system", deny(gateway_ref), [true, true, true]),
        ("foo", deny(service_ref), [true, true, true]),
        ("foo", deny(json!({"selector": {"matchLabels": {"istio": "front"}}})), [true, true, false]),
        (
            "foo",
            deny(json!({"selector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "edge"}}})),
            [true, false, true],
        ),
    ] {
        let answers = eval(&policy_in(namespace, "p", &spec), &cases);
        assert_eq!(decisions(&answers), expected, "{namespace} {spec} {answers:?}");
    }
}

#[test]
fn broken_policies_fail_closed_as_the_table_says() {
    let good = json!({"to": [{"operation": {"methods": ["GET"]}}]});
    let post = call(&json!({"http": {"method": "POST"}}));
    let cases = [call(&json!({})), post];
    for bad in [
        json!({"when": [{"key": "no.such", "values": ["x"]}]}),
        json!({"when": [{"key": "request.headers", "values": ["x"]}]}),
        json!({"from": [{"source": {}}]}),
        json!({"from": [{"source": {"princpals": ["x"]}}]}),
        json!({"from": [{"source": {"ipBlocks": ["10.0.0.0/99"]}}]}),
        json!({"from": [{"source": {"notIpBlocks": ["nonsense"]}}]}),
        json!({"to": [{"operation": {}}]}),
        json!({"to": [{"operation": {"ports": ["http"]}}]}),
        json!({"to": [{"operation": {"paths": ["/{**}/{*}"]}}]}),
        json!({"from": []}),
        json!({"when": [{"key": "source.ip"}]}),
        json!({"when": [{"key": "experimental.envoy.filters.a.b[c]", "values": ["x"]}]}),
    ] {
        // The rest of an ALLOW policy still counts.
        let allow = policy(&json!({"rules": [bad, good]}));
        assert_eq!(decisions(&eval(&allow, &cases)), [true, false], "ALLOW {bad}");
        let deny = policy(&json!({"action": "DENY", "rules": [bad]}));
        assert_eq!(decisions(&eval(&deny, &cases)), [false, false], "DENY {bad}");
        let audit = policy(&json!({"action": "AUDIT", "rules": [bad]}));
        assert_eq!(decisions(&eval(&audit, &cases)), [true, true], "AUDIT {bad}");
    }
    for spec in [
        json!({"action": "SOMETIMES", "rules": [{}]}),
        json!({"selector": {"matchLabels": {"app": "web"}}, "targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "edge"}]}),
        json!({"rules": "all"}),
        json!({"selector": {"matchLabels": "app"}, "rules": [{}]}),
    ] {
        assert_eq!(decisions(&eval(&policy(&spec), &cases)), [false, false], "{spec}");
    }
}
