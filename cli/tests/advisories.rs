//! Advisories and reports of meshes whose policies, once translated, let in whom they were to keep out: documents, and the requests that
//! passed. `docs/reference/advisories.md` lists them all.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use serde_json::{Value, json};

const WORKLOAD: &str = "
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
---
";

/// A gateway with two HTTPS hosts: one for everybody, one for those with a certificate.
const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: edge}
  servers:
  - port: {name: open, number: 443, protocol: HTTPS}
    hosts: [open.example]
    tls: {mode: SIMPLE, credentialName: open}
  - port: {name: closed, number: 443, protocol: HTTPS}
    hosts: [closed.example]
    tls: {mode: MUTUAL, credentialName: closed}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: istio-system}
spec:
  hosts: [open.example, closed.example]
  gateways: [edge]
  http: [{route: [{destination: {host: web.foo.svc.cluster.local, port: {number: 80}}}]}]
---
";

fn policy(name: &str, spec: Value) -> String {
    let metadata = json!({"name": name, "namespace": "foo"});
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec,
    });
    format!("{document}\n---\n")
}

fn answers(documents: &str, cases: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("documents.yaml");
    std::fs::write(&file, format!("{WORKLOAD}{documents}")).unwrap();
    command::answers_over(&file, cases, &[])
}

fn request(identity: &str, path: &str) -> Value {
    json!({
        "proxy": {"namespace": "foo", "name": "web-0"},
        "source": {"ip": "10.1.2.3", "identity": identity},
        "destination": {"port": 8080},
        "http": {"method": "GET", "authority": "web.foo", "path": path},
    })
}

fn caller(namespace: &str, account: &str, path: &str) -> Value {
    request(&format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"), path)
}

/// Asks one policy of each row about one caller and path.
fn decides(documents: &str, rows: &[(&str, Value, bool)]) {
    let cases: Vec<Value> = rows.iter().map(|(_, case, _)| case.clone()).collect();
    for ((name, _, is_allowed), answer) in rows.iter().zip(answers(documents, &cases)) {
        assert_eq!(answer["outcome"] == "forward", *is_allowed, "{name}: {answer}");
    }
}

#[test]
fn istio_59992_metacharacters_of_regular_expressions_are_plain_characters() {
    let allow = |source: Value| json!({"action": "ALLOW", "rules": [{"from": [{"source": source}]}]});
    for (name, source, good, bad) in [
        ("namespace", json!({"namespaces": ["a.c"]}), ("a.c", "x"), ("abc", "x")),
        ("namespace, alternatives", json!({"namespaces": ["a|b"]}), ("a|b", "x"), ("b", "x")),
        ("namespace, repetition", json!({"namespaces": ["ab+"]}), ("ab+", "x"), ("abb", "x")),
        ("principal", json!({"principals": ["cluster.local/ns/a/sa/b.d"]}), ("a", "b.d"), ("a", "bcd")),
        ("principal, suffix", json!({"principals": ["*/sa/b.d"]}), ("z", "b.d"), ("z", "bcd")),
        ("principal, prefix", json!({"principals": ["cluster.local/ns/a.c/*"]}), ("a.c", "x"), ("abc", "x")),
        ("service account", json!({"serviceAccounts": ["a/b.d"]}), ("a", "b.d"), ("a", "bcd")),
        ("trust domain", json!({"trustDomains": ["cluster.local"]}), ("a", "b"), ("", "")),
    ] {
        let bad = match bad {
            ("", "") => request("spiffe://clusterXlocal/ns/a/sa/b", "/"),
            (namespace, account) => caller(namespace, account, "/"),
        };
        let rows = [("good", caller(good.0, good.1, "/"), true), ("bad", bad, false)];
        let rows = rows.map(|(kind, case, allowed)| (kind, case, allowed));
        println!("{name}");
        decides(&policy("p", allow(source)), &rows);
    }
}

#[test]
fn consul_10536_and_10753_a_denied_path_denies_that_path_and_cancels_no_default() {
    let deny = policy("deny", json!({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/health"]}}]}]}));
    decides(
        &deny,
        &[("the path", caller("foo", "a", "/health"), false), ("another path", caller("foo", "a", "/other"), true)],
    );
    // Beside a policy that allows nothing, it opens nothing (CVE-2021-36213).
    let both = format!("{deny}{}", policy("nobody", json!({})));
    decides(
        &both,
        &[
            ("the path", caller("foo", "a", "/health"), false),
            ("another path", caller("foo", "a", "/other"), false),
            (
                "opaque bytes",
                json!({
                    "proxy": {"namespace": "foo", "name": "web-0"}, "destination": {"port": 9000},
                    "source": {"ip": "10.1.2.3", "identity": "spiffe://cluster.local/ns/foo/sa/a"},
                }),
                false,
            ),
        ],
    );
}

#[test]
fn consul_10699_an_exact_path_allows_that_path_alone() {
    let allow = policy("allow", json!({"rules": [{"to": [{"operation": {"paths": ["/health"]}}]}]}));
    decides(
        &allow,
        &[
            ("the path", caller("foo", "a", "/health"), true),
            ("more than the path", caller("foo", "a", "/health/"), false),
            ("another path", caller("foo", "a", "/"), false),
        ],
    );
}

#[test]
fn kuma_16873_a_narrow_denial_beats_a_broad_permit_whoever_came_first() {
    let allow = policy("a-allow", json!({"rules": [{}]}));
    let deny = policy("z-deny", json!({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["bar"]}}]}]}));
    for documents in [format!("{allow}{deny}"), format!("{deny}{allow}")] {
        decides(&documents, &[("bar", caller("bar", "a", "/"), false), ("foo", caller("foo", "a", "/"), true)]);
    }
}

#[test]
fn agentgateway_1058_denials_alone_deny_nothing_else() {
    let deny = policy(
        "deny",
        json!({"action": "DENY", "rules": [{"when": [{"key": "request.headers[x-block]", "values": ["yes"]}]}]}),
    );
    let mut blocked = caller("foo", "a", "/");
    blocked["http"]["headers"] = json!([["x-block", "yes"]]);
    decides(&deny, &[("without the header", caller("foo", "a", "/"), true), ("with it", blocked, false)]);
}

/// Gateways judge the same bytes as sidecars (CVE-2024-10005 was fixed for the latter alone at first).
#[test]
fn consul_23534_gateways_normalise_before_they_judge() {
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-admin", "namespace": "istio-system"},
        "spec": {"selector": {"matchLabels": {"istio": "edge"}}, "action": "DENY",
                 "rules": [{"to": [{"operation": {"paths": ["/admin*"]}}]}]},
    });
    // The same servers in plaintext.
    let plain = GATEWAY.replace("protocol: HTTPS", "protocol: HTTP").replace("443", "80");
    let plain: String =
        plain.lines().filter(|line| !line.contains("tls: {mode")).map(|line| format!("{line}\n")).collect();
    let documents = format!("{plain}{document}\n");
    let case = |path: &str| {
        json!({
            "proxy": {"kind": "gateway", "namespace": "istio-system", "name": "edge-0", "labels": {"istio": "edge"}},
            "source": {"ip": "203.0.113.9"}, "destination": {"port": 80},
            "http": {"method": "GET", "authority": "open.example", "path": path},
        })
    };
    decides(
        &documents,
        &[
            ("dot segments", case("/x/../admin"), false),
            ("encoded", case("/x/%2e%2e/%61dmin"), false),
            ("backslash", case("/x\\..\\admin"), false),
            ("fragment", case("/admin#x"), false),
            ("another path", case("/public"), true),
        ],
    );
}

#[test]
fn cve_2019_20894_another_hosts_server_name_opens_no_host() {
    let case = |sni: &str, authority: &str| {
        json!({
            "proxy": {"kind": "gateway", "namespace": "istio-system", "name": "edge-0", "labels": {"istio": "edge"}},
            "source": {"ip": "203.0.113.9"}, "destination": {"port": 443},
            "tls": {"sni": sni, "alpn": ["h2"]},
            "http": {"method": "GET", "authority": authority, "path": "/", "version": "2"},
        })
    };
    let cases = [
        case("open.example", "open.example"),
        case("open.example", "closed.example"),
        case("closed.example", "closed.example"),
        case("open.example", "CLOSED.example:443"),
    ];
    let secret = |name: &str| {
        let metadata = json!({"name": name, "namespace": "istio-system"});
        let pem = "Y2VydGlmaWNhdGU=";
        let data = json!({"tls.crt": pem, "tls.key": pem, "ca.crt": pem});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data, "type": "kubernetes.io/tls"})
    };
    let documents = format!("{GATEWAY}{}\n---\n{}\n", secret("open"), secret("closed"));
    let answers = answers(&documents, &cases);
    let outcomes: Vec<&Value> = answers.iter().map(|answer| &answer["outcome"]).collect();
    assert_eq!(outcomes[0], "forward", "{}", answers[0]);
    for fronted in [1, 3] {
        assert_eq!(outcomes[fronted], "respond", "{}", answers[fronted]);
        assert!([404, 421].contains(&answers[fronted]["status"].as_u64().unwrap()), "{}", answers[fronted]);
    }
    assert_eq!(outcomes[2], "reset", "no certificate: {}", answers[2]);
}

#[test]
fn cve_2021_34824_a_credential_is_taken_from_the_gateways_own_namespace_alone() {
    let secret = |namespace: &str| {
        let metadata = json!({"name": "open", "namespace": namespace});
        let data = json!({"tls.crt": "Y2VydGlmaWNhdGU=", "tls.key": "a2V5"});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data, "type": "kubernetes.io/tls"})
    };
    let case = json!({
        "proxy": {"kind": "gateway", "namespace": "istio-system", "name": "edge-0", "labels": {"istio": "edge"}},
        "source": {"ip": "203.0.113.9"}, "destination": {"port": 443}, "tls": {"sni": "open.example"},
        "http": {"method": "GET", "authority": "open.example", "path": "/"},
    });
    // The Gateway lies in the namespace of the secret, its pod does not.
    let elsewhere = GATEWAY.replace("{name: edge, namespace: istio-system}", "{name: edge, namespace: foo}");
    let elsewhere = elsewhere.replace("gateways: [edge]", "gateways: [foo/edge]");
    for (name, namespace, outcome) in [("its own", "istio-system", "forward"), ("another", "foo", "reset")] {
        let answers = answers(&format!("{elsewhere}{}\n", secret(namespace)), std::slice::from_ref(&case));
        assert_eq!(answers[0]["outcome"], outcome, "{name}: {}", answers[0]);
    }
}
