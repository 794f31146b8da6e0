//! Authorization through `palisade eval`: documents as people write them, cases as suites ask them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use std::process::Command;

use serde_json::{Value, json};

/// A workload `foo/web-0` with HTTP, TCP and auto-detected ports, and a namespace beside it.
const WORKLOAD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: foo, labels: {app: web}}
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
  - {name: any, port: 9100, targetPort: 9100}
---
apiVersion: v1
kind: Namespace
metadata: {name: bar}
";

/// The workload and further documents, as a file.
fn file_of(documents: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), format!("{WORKLOAD}---\n{documents}")).unwrap();
    file
}

/// The answers to cases, over the workload and further documents.
fn eval(documents: &str, cases: &[Value]) -> Vec<Value> {
    command::answers_over(file_of(documents).path(), cases, &[])
}

fn analyze(documents: &str) -> Vec<Value> {
    let file = file_of(documents);
    let output = Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args(["analyze", "-o", "jsonl", "-f"])
        .arg(file.path())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A request to the workload's HTTP port from `NAMESPACE/ACCOUNT`; fields of `http` win.
fn http(caller: &str, http: Value) -> Value {
    let (namespace, account) = caller.split_once('/').unwrap();
    let mut request = json!({"method": "GET", "authority": "web.foo", "path": "/"});
    request.as_object_mut().unwrap().extend(http.as_object().unwrap().clone());
    json!({
        "proxy": {"namespace": "foo", "name": "web-0"},
        "source": {"ip": "10.1.2.3", "identity": format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")},
        "destination": {"port": 8080},
        "http": request,
    })
}

/// The same, as opaque bytes to the TCP port.
fn tcp(caller: &str) -> Value {
    let (namespace, account) = caller.split_once('/').unwrap();
    json!({
        "proxy": {"namespace": "foo", "name": "web-0"},
        "source": {"ip": "10.1.2.3", "identity": format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")},
        "destination": {"port": 9000},
    })
}

fn policy(name: &str, annotations: Value, spec: Value) -> String {
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "foo", "annotations": annotations}, "spec": spec,
    });
    format!("{document}\n")
}

fn decisions(answers: &[Value]) -> Vec<&str> {
    answers.iter().map(|answer| answer["authz"]["decision"].as_str().unwrap_or("none")).collect()
}

#[test]
fn dry_runs_are_decided_beside_the_enforced_set_and_change_nothing() {
    let documents = [
        policy(
            "deny-admin",
            json!({"istio.io/dry-run": "true"}),
            json!({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin*"]}}]}]}),
        ),
        policy(
            "allow-get",
            json!({"istio.io/dry-run": "T"}),
            json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
        ),
        policy(
            "watch",
            json!({}),
            json!({"action": "AUDIT", "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]}),
        ),
    ]
    .join("---\n");
    let answers = eval(
        &documents,
        &[http("bar/a", json!({"path": "/admin"})), http("bar/a", json!({"method": "POST"})), http("bar/a", json!({}))],
    );
    assert_eq!(decisions(&answers), ["allow"; 3]);
    let shadow = |answer: &Value| -> Vec<(String, bool, Option<String>)> {
        let entry = |e: &Value| {
            let decision = e.get("decision").map(|d| d.as_str().unwrap().to_owned());
            (e["name"].as_str().unwrap().to_owned(), e["matched"].as_bool().unwrap(), decision)
        };
        let mut entries: Vec<_> = answer["authz"]["shadow"].as_array().unwrap().iter().map(entry).collect();
        entries.sort();
        entries
    };
    let row = |name: &str, matched, decision: Option<&str>| (name.to_owned(), matched, decision.map(str::to_owned));
    assert_eq!(
        shadow(&answers[0]),
        [row("allow-get", true, Some("allow")), row("deny-admin", true, Some("deny")), row("watch", true, None)]
    );
    assert_eq!(answers[0]["authz"]["shadowAll"], "deny");
    assert_eq!(
        shadow(&answers[1]),
        [row("allow-get", false, Some("deny")), row("deny-admin", false, Some("allow")), row("watch", false, None)]
    );
    assert_eq!(answers[1]["authz"]["shadowAll"], "deny");
    assert_eq!(answers[2]["authz"]["shadowAll"], "allow");
    let warnings = analyze(&documents);
    assert!(warnings.iter().all(|w| !w["code"].as_str().unwrap().starts_with("PLS03")), "{warnings:?}");
}

#[test]
fn a_dry_run_that_would_close_everything_says_so() {
    let annotation = json!({"istio.io/dry-run": "1"});
    for spec in [
        json!({}),
        json!({"action": "ALLOW", "rules": []}),
        // Broken: enforced, it would deny its whole target.
        json!({"action": "DENY", "rules": [{"when": [{"key": "no.such.key", "values": ["x"]}]}]}),
        json!({"action": "DENY", "rules": [{"from": [{"source": {}}]}]}),
    ] {
        let answers = eval(&policy("p", annotation.clone(), spec.clone()), &[http("bar/a", json!({})), tcp("bar/a")]);
        assert_eq!(decisions(&answers), ["allow"; 2], "{spec}");
        for answer in &answers {
            assert_eq!(answer["authz"]["shadowAll"], "deny", "{spec} {answer}");
        }
    }
}

#[test]
fn the_annotation_is_read_as_go_reads_booleans() {
    let spec = json!({"action": "DENY", "rules": [{}]});
    for (written, is_dry_run) in [
        ("true", true),
        ("True", true),
        ("TRUE", true),
        ("t", true),
        ("T", true),
        ("1", true),
        ("false", false),
        ("0", false),
        ("yes", false),
        ("tRUE", false),
        ("", false),
        (" true", false),
    ] {
        let document = policy("p", json!({"istio.io/dry-run": written}), spec.clone());
        let answers = eval(&document, &[http("bar/a", json!({}))]);
        assert_eq!(decisions(&answers), [if is_dry_run { "allow" } else { "deny" }], "`{written}`");
        let is_unreadable = !is_dry_run && !["false", "0"].contains(&written);
        let codes: Vec<String> = analyze(&document).iter().map(|w| w["code"].as_str().unwrap().to_owned()).collect();
        assert_eq!(codes.contains(&"PLS0403".to_owned()), is_unreadable, "`{written}` {codes:?}");
    }
}

fn cedar(namespace: &str, name: &str, spec: Value) -> String {
    let document = json!({
        "apiVersion": "palisade.dev/v1alpha1", "kind": "CedarPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    format!("{document}\n")
}

#[test]
fn hand_written_cedar_stands_beside_istio_policies_and_forbid_wins() {
    let allow_bar = policy("allow-bar", json!({}), json!({"rules": [{"from": [{"source": {"namespaces": ["bar"]}}]}]}));
    let permit_baz = cedar(
        "foo",
        "baz",
        json!({"policies": r#"permit (principal in Mesh::Namespace::"baz", action, resource is Mesh::Workload);"#}),
    );
    let root = cedar(
        "istio-system",
        "never",
        json!({"policies": r#"forbid (principal, action in [Mesh::Action::"http", Mesh::Action::"grpc"], resource) when { context.http.path like "/admin*" };"#}),
    );
    let documents = [allow_bar, permit_baz, root].join("---\n");
    assert!(analyze(&documents).is_empty(), "{:?}", analyze(&documents));
    let answers = eval(
        &documents,
        &[
            http("bar/a", json!({})),
            http("baz/a", json!({})),
            http("qux/a", json!({})),
            http("bar/a", json!({"path": "/admin/x"})),
            tcp("baz/a"),
        ],
    );
    assert_eq!(decisions(&answers), ["allow", "allow", "deny", "deny", "allow"]);
    let decided = |answer: &Value| {
        (answer["authz"]["policies"][0]["kind"].clone(), answer["authz"]["policies"][0]["name"].clone())
    };
    assert_eq!(decided(&answers[1]), (json!("CedarPolicy"), json!("baz")));
    assert_eq!(decided(&answers[3]), (json!("CedarPolicy"), json!("never")));
}

#[test]
fn a_namespace_cannot_widen_access_to_anothers_workloads() {
    let closed = policy("closed", json!({}), json!({}));
    let elsewhere = cedar(
        "bar",
        "open",
        json!({"policies": "permit (principal, action, resource);\npermit (principal, action, resource in Mesh::Namespace::\"foo\");\n"}),
    );
    let answers = eval(&format!("{closed}---\n{elsewhere}"), &[http("bar/a", json!({})), tcp("bar/a")]);
    assert_eq!(decisions(&answers), ["deny"; 2]);
}

#[test]
fn broken_cedar_fails_closed_and_is_named_by_line() {
    let forbid = "apiVersion: palisade.dev/v1alpha1\nkind: CedarPolicy\nmetadata: {name: broken, namespace: foo}\nspec:\n  policies: |\n    // a comment\n    forbid (principal, action, resource)\n    when { context.htp.method == \"GET\" };\n";
    let answers = eval(forbid, &[http("bar/a", json!({})), tcp("bar/a")]);
    assert_eq!(decisions(&answers), ["deny"; 2]);
    let findings = analyze(forbid);
    assert_eq!((&findings[0]["code"], &findings[0]["severity"]), (&json!("PLS0404"), &json!("error")), "{findings:?}");
    assert!(findings[0]["message"].as_str().unwrap().starts_with("line 3, column "), "{findings:?}");
    // The workload's documents come first.
    let above = u64::try_from(WORKLOAD.lines().count() + 1).unwrap();
    assert_eq!(findings[0]["line"].as_u64().unwrap(), above + 5 + 3);
    let permit = cedar(
        "foo",
        "broken",
        json!({"policies": "permit (principal, action, resource is Mesh::Workload) when { context.nothing };"}),
    );
    assert_eq!(decisions(&eval(&permit, &[http("bar/a", json!({}))])), ["deny"]);
    let audit = cedar(
        "foo",
        "broken",
        json!({"mode": "Audit", "policies": "forbid (principal, action, resource) when { context.nothing };"}),
    );
    let answers = eval(&audit, &[http("bar/a", json!({}))]);
    assert_eq!(decisions(&answers), ["allow"]);
    assert_eq!(answers[0]["authz"]["shadowAll"], "deny");
}

#[test]
fn services_and_templates_are_targets_and_links() {
    let spec = json!({
        "targetRefs": [{"kind": "Service", "name": "web"}],
        "policies": "@id(\"from\")\npermit (principal in ?principal, action, resource is Mesh::Workload);",
        "links": [{"id": "bar", "template": "from", "principal": "Mesh::Namespace::\"bar\""}],
    });
    let answers = eval(&cedar("foo", "linked", spec), &[http("bar/a", json!({})), http("baz/a", json!({}))]);
    assert_eq!(decisions(&answers), ["allow", "deny"]);
    let spec = json!({"targetRefs": [{"kind": "Service", "name": "none"}], "policies": "forbid (principal, action, resource);"});
    let document = cedar("foo", "nowhere", spec);
    assert_eq!(decisions(&eval(&document, &[http("bar/a", json!({}))])), ["allow"]);
    assert_eq!(analyze(&document)[0]["code"], "PLS0406");
}

/// What the workload itself calls outside, by address.
fn egress(address: &str, authority: Option<&str>) -> Value {
    let mut case = json!({
        "proxy": {"namespace": "foo", "name": "web-0"}, "direction": "outbound",
        "source": {"ip": "10.1.2.3"}, "destination": {"ip": address, "port": 80},
    });
    if let Some(authority) = authority {
        case["http"] = json!({"method": "GET", "authority": authority, "path": "/"});
    }
    case
}

#[test]
fn egress_is_decided_beside_the_caller_and_only_where_a_policy_says_so() {
    let cases = [
        egress("203.0.113.7", Some("api.example.com")),
        egress("203.0.113.8", Some("api.example.com")),
        egress("203.0.113.7", None),
        egress("203.0.113.8", None),
    ];
    let outcomes = |documents: &str| -> Vec<String> {
        eval(documents, &cases)
            .iter()
            .map(|a| format!("{} {}", a["outcome"].as_str().unwrap(), a["reason"].as_str().unwrap()))
            .collect()
    };
    let permit = cedar(
        "foo",
        "out",
        json!({"policies": r#"permit (principal in Mesh::Namespace::"foo", action in Mesh::Action::"egress", resource == Mesh::ExternalHost::"203.0.113.7");"#}),
    );
    assert_eq!(outcomes(&permit), ["passthrough ok", "respond egress-denied", "passthrough ok", "reset egress-denied"]);
    // Inbound stays as it was, and what stays inside the mesh needs no permit.
    assert_eq!(decisions(&eval(&permit, &[http("bar/a", json!({}))])), ["allow"]);
    let inside = json!({
        "proxy": {"namespace": "foo", "name": "web-0"}, "direction": "outbound",
        "destination": {"port": 80}, "http": {"authority": "web.foo"},
    });
    assert_eq!(eval(&permit, &[inside])[0]["outcome"], "forward");
    // Another namespace's policy is not about this workload; a root forbid is, and cannot be undone below.
    let other =
        cedar("bar", "out", json!({"policies": r#"forbid (principal, action in Mesh::Action::"egress", resource);"#}));
    assert_eq!(outcomes(&other)[0], "passthrough ok");
    let root = cedar(
        "istio-system",
        "out",
        json!({"policies": r#"forbid (principal, action in Mesh::Action::"egress", resource) when { resource.host like "203.*" };"#}),
    );
    assert_eq!(outcomes(&format!("{permit}---\n{root}"))[0], "respond egress-denied");
    let answers = eval(&root, &cases);
    assert_eq!(answers[0]["status"], 403);
    assert_eq!(answers[0]["authz"]["policies"][0]["namespace"], "istio-system");
}

#[test]
fn policies_see_the_query() {
    let asks = |path: &str| http("bar/a", json!({"path": path}));
    let cases = [asks("/a"), asks("/a?x=1&debug=1"), asks("/a?"), asks("/a%3Fdebug=1")];
    let hand = r#"forbid (principal, action, resource) when { context has http && context.http has query && context.http.query like "*debug*" };"#;
    let answers = eval(&cedar("foo", "query", json!({"policies": hand})), &cases);
    assert_eq!(decisions(&answers), ["allow", "deny", "allow", "allow"], "{answers:?}");
    // As Envoy: `:path` is the whole target, `paths` is not.
    let written = |condition: Value| policy("query", json!({}), json!({"action": "DENY", "rules": [condition]}));
    let target = written(json!({"when": [{"key": "request.headers[:path]", "values": ["*debug=1"]}]}));
    assert_eq!(decisions(&eval(&target, &cases)), ["allow", "deny", "allow", "deny"]);
    let path = written(json!({"to": [{"operation": {"paths": ["*debug=1"]}}]}));
    assert_eq!(decisions(&eval(&path, &cases)), ["allow", "allow", "allow", "deny"]);
}

/// A request to an edge gateway of Istio's; `mesh`: the mesh configuration.
fn at_the_edge(mesh: &str, spec: &Value, headers: &Value) -> Value {
    let documents = [
        "{apiVersion: v1, kind: Pod, metadata: {name: edge-0, namespace: istio-system, labels: {app: edge}}, spec: {containers: [{name: c, image: x}]}}\n".to_owned(),
        "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: foo}, spec: {selector: {app: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}\n".to_owned(),
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: foo}, spec: {hosts: [a.test], gateways: [g], http: [
          {name: secure, match: [{headers: {x-forwarded-proto: {exact: https}}}], route: [{destination: {host: web, port: {number: 80}}}]},
          {name: plain, route: [{destination: {host: web, port: {number: 80}}}]}]}}\n".to_owned(),
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{mesh}\"}}\n"),
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "istio-system"}, "spec": spec}).to_string() + "\n",
    ]
    .join("---\n");
    let case = json!({"proxy": {"kind": "gateway", "namespace": "istio-system", "name": "edge-0"}, "source": {"ip": "10.9.9.9"},
                      "destination": {"port": 80}, "http": {"authority": "a.test", "headers": headers}});
    eval(&documents, &[case]).remove(0)
}

#[test]
fn policies_and_routes_see_what_the_edge_asserts_not_what_callers_claim() {
    let has = |header: &str, value: &str| json!({"selector": {"matchLabels": {"app": "edge"}}, "rules": [{"when": [{"key": format!("request.headers[{header}]"), "values": [value]}]}]});
    let trusting = "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}";
    for (mesh, header, value, sent, expected) in [
        ("", "x-forwarded-proto", "https", json!([["x-forwarded-proto", "https"]]), "deny"),
        ("", "x-forwarded-proto", "http", json!([["x-forwarded-proto", "https"]]), "allow"),
        ("", "x-forwarded-proto", "http", json!([]), "allow"),
        (trusting, "x-forwarded-proto", "https", json!([["x-forwarded-proto", "https"]]), "allow"),
        ("", "x-forwarded-client-cert", "*", json!([["x-forwarded-client-cert", "By=me"]]), "deny"),
        ("", "x-envoy-internal", "*", json!([["x-envoy-internal", "true"]]), "deny"),
        ("", "x-forwarded-for", "*10.9.9.9", json!([["x-forwarded-for", "1.1.1.1"]]), "allow"),
        ("", "x-forwarded-for", "1.1.1.1", json!([["x-forwarded-for", "1.1.1.1"]]), "deny"),
        ("", "x-other", "a", json!([["x-other", "a"]]), "allow"),
    ] {
        let answer = at_the_edge(mesh, &has(header, value), &sent);
        assert_eq!(decisions(&[answer]), [expected], "{mesh} {header}={value} {sent}");
    }
    let open = json!({"rules": [{}]});
    let forged = json!([["x-forwarded-proto", "https"]]);
    assert_eq!(at_the_edge("", &open, &forged)["route"]["name"], "plain");
    assert_eq!(at_the_edge(trusting, &open, &forged)["route"]["name"], "secure");
}

#[test]
fn http_inside_tls_that_nobody_terminates_is_no_http() {
    let disable = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo}, spec: {mtls: {mode: DISABLE}}}\n";
    let mut detected = http("bar/a", json!({}));
    detected["destination"]["port"] = json!(9100);
    let answers = eval(disable, &[http("bar/a", json!({})), detected]);
    assert_eq!((&answers[0]["status"], &answers[0]["reason"]), (&json!(400), &json!("bad-request")));
    assert_eq!(
        (&answers[1]["outcome"], &answers[1]["connection"]["mode"]),
        (&json!("forward"), &json!("tls-passthrough"))
    );
}

#[test]
fn clients_offer_no_mesh_tls_to_ports_that_take_none() {
    let strict = |ports: Value| {
        let spec =
            json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}, "portLevelMtls": ports});
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "p", "namespace": "foo"}, "spec": spec}).to_string() + "\n"
    };
    let call = |port: u16| {
        json!({"proxy": {"namespace": "bar", "name": "client", "ip": "10.3.3.3"}, "direction": "outbound",
               "destination": {"port": port}, "http": {"authority": format!("web.foo:{port}")}})
    };
    let tls = |documents: &str| -> Vec<String> {
        let answers = eval(documents, &[call(80), call(9100)]);
        answers.iter().map(|answer| answer["route"]["backends"][0]["tls"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(tls(&strict(json!({"8080": {"mode": "DISABLE"}}))), ["none", "mesh"]);
    assert_eq!(tls(&strict(json!({"8080": {"mode": "PERMISSIVE"}}))), ["mesh", "mesh"]);
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d, namespace: foo}, spec: {host: web.foo.svc.cluster.local, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}}\n";
    assert_eq!(
        tls(&(strict(json!({"8080": {"mode": "DISABLE"}})) + "---\n" + rule)),
        ["mesh", "mesh"],
        "what a rule says counts"
    );
}
