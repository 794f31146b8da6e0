//! `palisade policy test` and `show`, and the traps that `analyze` warns of, over the demo's documents and small ones.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy/demo/documents")
}

fn palisade(arguments: &[&std::ffi::OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palisade")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const TESTS: &str = r#"
apiVersion: palisade.dev/v1alpha1
kind: PolicyTest
metadata: {name: details}
spec:
  defaults:
    proxy: {namespace: bookinfo, name: details-v1-0}
    destination: {port: 9080}
    http: {method: GET, authority: "details:9080", path: /details/0}
  cases:
  - name: the product page may read
    source: {identity: spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage}
    expect: {decision: allow, outcome: forward, reason: ok}
  - name: others may not
    expect: {decision: deny, reason: authz-denied, status: 403, policy: ""}
    rows:
    - {name: client, source: {identity: spiffe://cluster.local/ns/bookinfo/sa/client}}
    - {name: foreign, source: {identity: spiffe://cluster.local/ns/other/sa/bookinfo-productpage}}
"#;

fn test(tests: &str, more: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tests.yaml");
    fs::write(&file, tests).unwrap();
    let junit = folder.path().join("junit.xml");
    let demo = demo();
    let mut arguments: Vec<&std::ffi::OsStr> =
        vec!["policy".as_ref(), "test".as_ref(), "-f".as_ref(), demo.as_ref(), "--junit".as_ref(), junit.as_ref()];
    arguments.extend(more.iter().map(std::ffi::OsStr::new));
    arguments.push(file.as_ref());
    (palisade(&arguments), folder)
}

#[test]
fn tests_pass_and_say_what_they_covered() {
    let (output, folder) = test(TESTS, &["--coverage"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("3 passed, 0 failed"), "{}", text(&output));
    assert!(text(&output).contains("coverage: "), "{}", text(&output));
    let junit = fs::read_to_string(folder.path().join("junit.xml")).unwrap();
    assert!(junit.contains("tests=\"3\" failures=\"0\" errors=\"0\""), "{junit}");
    assert!(junit.contains("others may not / foreign"), "{junit}");
}

#[test]
fn a_failing_case_names_what_differs() {
    let (output, folder) = test(&TESTS.replace("decision: allow, outcome: forward", "decision: deny"), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("decision: expected deny, got allow"), "{}", text(&output));
    assert!(fs::read_to_string(folder.path().join("junit.xml")).unwrap().contains("<failure message="));
    let (output, _folder) = test(&TESTS.replace("port: 9080", "prot: 9080"), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn thousands_of_rows_are_judged_one_by_one() {
    let identity = "spiffe://cluster.local/ns/bookinfo/sa/client";
    let rows: Vec<Value> =
        (0..2_000).map(|n| json!({"name": format!("row {n}"), "source": {"identity": identity}})).collect();
    let (cases, _) = TESTS.split_once("    rows:\n").unwrap();
    let (output, _folder) = test(&format!("{cases}    rows: {}\n", json!(rows)), &["-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["passed"], &report["failed"]), (&json!(2_001), &json!(0)), "{}", text(&output));
}

#[test]
fn a_workload_shows_its_policies_who_reaches_it_and_whom_it_reaches() {
    let demo = demo();
    let arguments = ["policy", "show", "bookinfo/details-v1-0", "-o", "json", "-f"];
    let mut arguments: Vec<&std::ffi::OsStr> = arguments.iter().map(std::ffi::OsStr::new).collect();
    arguments.push(demo.as_ref());
    let output = palisade(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    let policies = view["policies"].as_array().unwrap();
    assert!(
        policies.iter().any(|p| p["mode"] == "enforce" && p["origin"].as_str().is_some_and(|o| o.contains("details")))
    );
    let port = view["reachedBy"].as_array().unwrap().iter().find(|port| port["port"] == 9080).unwrap();
    let of = |outlook: &str| -> String {
        let groups = port["outlooks"].as_array().unwrap().iter().filter(|o| o["outlook"] == outlook);
        groups.map(|o| o["callers"].to_string()).collect()
    };
    assert!(!of("denied").contains("bookinfo-productpage"), "{port}");
    assert!(!of("allowed").contains("client\""), "{port}");
    assert!(!view["reaches"].as_array().unwrap().is_empty());
    let missing =
        palisade(&["policy".as_ref(), "show".as_ref(), "nowhere/none".as_ref(), "-f".as_ref(), demo.as_ref()]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn traps_are_named_with_their_codes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("documents.yaml");
    let document = |name: &str, annotations: Value, spec: Value| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": "foo", "annotations": annotations}, "spec": spec,
        })
        .to_string()
    };
    let rows: Vec<(&str, Value, Value)> = vec![
        ("PLS0406", json!({}), json!({"selector": {"matchLabels": {"app": "nobody"}}})),
        (
            "PLS0406",
            json!({}),
            json!({"targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "none"}]}),
        ),
        ("PLS0407", json!({}), json!({"rules": [{"to": [{"operation": {"paths": ["/a"]}}]}]})),
        ("PLS0408", json!({}), json!({"rules": [{"from": [{"source": {"namespaces": ["chekout"]}}]}]})),
        (
            "PLS0408",
            json!({}),
            json!({"rules": [{"from": [{"source": {"principals": ["spiffe://cluster.local/ns/foo/sa/web"]}}]}]}),
        ),
        ("PLS0408", json!({}), json!({"rules": [{"from": [{"source": {"serviceAccounts": ["wbe"]}}]}]})),
        ("PLS0409", json!({}), json!({"rules": [{}, {"to": [{"operation": {"ports": ["1"]}}]}]})),
        ("PLS0410", json!({}), json!({"rules": [{"to": [{"operation": {"ports": ["1"], "notPorts": ["1"]}}]}]})),
        ("PLS0413", json!({}), json!({"rules": [{"to": [{"operation": {"hosts": ["a.com"], "ports": ["8080"]}}]}]})),
        ("PLS0414", json!({"istio.io/dryrun": "true"}), json!({"rules": [{}]})),
        ("PLS0403", json!({"istio.io/dry-run": "yes"}), json!({"rules": [{}]})),
    ];
    let workload = r"
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: foo, labels: {app: web}}
spec: {containers: [{name: c, image: x}], serviceAccountName: web}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
---
";
    let codes = |spec: &str| -> Vec<String> {
        fs::write(&file, format!("{workload}{spec}\n")).unwrap();
        let output = palisade(&["analyze".as_ref(), "-o".as_ref(), "jsonl".as_ref(), "-f".as_ref(), file.as_ref()]);
        let lines = String::from_utf8(output.stdout).unwrap();
        let parsed = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        parsed.map(|line| line["code"].as_str().unwrap().to_owned()).collect()
    };
    for (code, annotations, spec) in rows {
        let found = codes(&document("p", annotations, spec.clone()));
        assert!(found.contains(&code.to_owned()), "{code} {spec}: {found:?}");
    }
    let sound = json!({"rules": [{"from": [{"source": {"principals": ["cluster.local/ns/foo/sa/web"], "namespaces": ["foo"]}}]}]});
    assert_eq!(codes(&document("p", json!({}), sound)), Vec::<String>::new());
}
