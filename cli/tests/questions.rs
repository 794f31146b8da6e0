//! `analyze`, `eval` and `policy why` as a person runs them, over the demo's documents.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

fn demo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy/demo").join(path)
}

fn palisade(arguments: &[&str], files: &[PathBuf], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args(arguments)
        .args(files.iter().flat_map(|file| ["-f".into(), file.clone().into_os_string()]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A call to details from a service account of the demo.
fn call(account: &str, method: &str) -> Value {
    json!({
        "id": format!("{account} {method}"),
        "proxy": {"namespace": "bookinfo", "name": "details-v1-0"},
        "source": {"identity": format!("spiffe://cluster.local/ns/bookinfo/sa/{account}")},
        "destination": {"port": 9080},
        "http": {"method": method, "authority": "details:9080", "path": "/details/0"},
        "random": 0,
    })
}

#[test]
fn every_document_of_the_demo_compiles_without_a_word() {
    let output = palisade(&["analyze", "-o", "jsonl"], &[demo("documents")], "");
    assert_eq!((output.status.code(), lines(&output)), (Some(0), Vec::new()));
    for step in ["policy-details-head-only", "virtual-service-reviews-canary", "virtual-service-reviews-jason"] {
        let output = palisade(&["analyze"], &[demo("documents"), demo(&format!("steps/{step}.yaml"))], "");
        assert_eq!(output.status.code(), Some(0), "{step}: {output:?}");
    }
}

#[test]
fn a_broken_document_is_named_by_file_line_and_field() {
    let output = palisade(&["analyze", "-o", "jsonl"], &[demo("documents"), demo("steps/broken.yaml")], "");
    assert_eq!(output.status.code(), Some(1));
    let diagnostics = lines(&output);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert_eq!(diagnostics[0]["path"], "spec.http[0].route[0].weight");
    assert_eq!((&diagnostics[0]["line"], &diagnostics[0]["object"]["name"]), (&json!(13), &json!("broken")));
}

#[test]
fn cases_are_judged_in_order_and_an_unreadable_one_gives_exit_code_2() {
    let cases = [
        call("bookinfo-productpage", "GET"),
        call("client", "GET"),
        json!({"id": "plaintext", "proxy": {"namespace": "bookinfo", "name": "details-v1-0"},
               "destination": {"port": 9080}, "http": {"authority": "details:9080"}}),
        json!({"id": "edge", "proxy": {"gateway": "bookinfo/edge"}, "destination": {"port": 80},
               "http": {"authority": "shop", "path": "/none"}}),
        json!({"id": "typo", "proxy": {}, "destinaton": {"port": 80}}),
    ];
    let input: String = cases.iter().map(|case| format!("{case}\n")).collect();
    let output = palisade(&["eval", "--cases", "-", "-o", "jsonl"], &[demo("documents")], &input);
    assert_eq!(output.status.code(), Some(2));
    let answers = lines(&output);
    let seen: Vec<(&str, &str, &Value)> = answers
        .iter()
        .map(|a| (a["id"].as_str().unwrap(), a["reason"].as_str().unwrap_or("error"), &a["status"]))
        .collect();
    assert_eq!(
        seen,
        [
            ("bookinfo-productpage GET", "ok", &Value::Null),
            ("client GET", "authz-denied", &json!(403)),
            ("plaintext", "peer-refused", &Value::Null),
            ("edge", "no-route", &json!(404)),
            ("typo", "error", &Value::Null),
        ]
    );
    assert_eq!(answers[0]["authz"]["policies"][0]["name"], "details");
    assert_eq!(answers[1]["authz"]["nearest"][0]["failed"][0]["field"], "from[0].source.principals");
}

#[test]
fn a_denial_is_explained_from_documents_alone() {
    let case = call("bookinfo-productpage", "DELETE").to_string();
    let output = palisade(&["policy", "why", "--case", &case], &[demo("documents")], "");
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("to[0].operation.methods wants [GET], got DELETE"), "{told}");
}

#[test]
fn asking_without_documents_is_an_error_of_usage() {
    assert_eq!(palisade(&["analyze"], &[], "").status.code(), Some(2));
    assert_eq!(palisade(&["analyze"], &[PathBuf::from("no/such/file.yaml")], "").status.code(), Some(2));
}
