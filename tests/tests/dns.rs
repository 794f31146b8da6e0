//! Names as a pod resolves them: through real redirection, its sidecar, and what the control plane tells that when asked.

use std::{collections::BTreeSet, process::Stdio};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    mesh::{Mesh, Options, Pod},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const OK: u64 = 0;
const NO_SUCH_NAME: u64 = 3;

/// Answers to `NAME TYPE [tcp]`, in order.
async fn ask(mesh: &Mesh, pod: &Pod, questions: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut child = mesh
        .command(pod)?
        .arg("python3")
        .arg(checkout::root().join("tests/tests/dns/ask.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    input.write_all((questions.join("\n") + "\n").as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    let text = String::from_utf8(output.stdout)?;
    let answers: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(answers.len() == questions.len(), "{text}");
    Ok(answers)
}

fn values(answer: &Value) -> BTreeSet<String> {
    let records = answer["records"].as_array().into_iter().flatten();
    records
        .filter(|record| record[1] != "CNAME")
        .map(|record| record[2].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test]
async fn a_pod_resolves_every_kind_of_name() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let here = checkout::root().join("tests/tests/dns");
    let images = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(images.path(), "\"*\": [sleep, infinity]\n")?;
    let mesh = Mesh::start(Options {
        documents: vec![here.join("documents.yaml")],
        images: images.path().to_owned(),
        ..Options::default()
    })
    .await?;
    let client = mesh.pod("names", "client-0")?.clone();
    let pods: Vec<String> =
        (0..3).map(|i| Ok(mesh.pod("data", &format!("db-{i}"))?.ip.clone())).collect::<anyhow::Result<_>>()?;
    let of = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();

    let (third, every) = (of(&[&pods[2]]), pods.iter().cloned().collect::<BTreeSet<_>>());
    let rows: Vec<(&str, u64, BTreeSet<String>)> = vec![
        ("reviews.names.svc.cluster.local A", OK, of(&["10.96.80.1"])),
        ("ReViEwS.names A", OK, of(&["10.96.80.1"])),
        ("reviews A", OK, of(&["10.96.80.1"])),
        ("reviews.names.svc.cluster.local AAAA", OK, of(&[])),
        ("reviews.names.svc.cluster.local A tcp", OK, of(&["10.96.80.1"])),
        ("renamed.names.svc.cluster.local A", OK, of(&["10.96.80.1"])),
        ("db.data.svc.cluster.local A", OK, every.clone()),
        ("db.data.svc.cluster.local A tcp", OK, every),
        ("db-2.db.data.svc.cluster.local A", OK, third.clone()),
        ("db-2.db.data A", OK, third),
        ("db-3.db.data.svc.cluster.local A", NO_SUCH_NAME, of(&[])),
        ("empty.data.svc.cluster.local A", OK, of(&[])),
        ("anything.wild.example.com A", OK, of(&["192.0.2.7"])),
        ("a.b.wild.example.com A", OK, of(&["192.0.2.7"])),
        ("wild.example.com A", NO_SUCH_NAME, of(&[])),
        ("hidden.example.com A", NO_SUCH_NAME, of(&[])),
        ("nobody.names.svc.cluster.local A", NO_SUCH_NAME, of(&[])),
        ("www.example.org A", NO_SUCH_NAME, of(&[])),
        ("www.example.org.names.svc.cluster.local A", NO_SUCH_NAME, of(&[])),
        ("www.example.com MX", OK, of(&[])),
        ("1.80.96.10.in-addr.arpa PTR", OK, of(&["reviews.names.svc.cluster.local"])),
    ];
    let questions: Vec<&str> = rows.iter().map(|(question, ..)| *question).collect();
    let answers = ask(&mesh, &client, &questions).await?;
    for ((question, code, expected), answer) in rows.iter().zip(&answers) {
        ensure!(answer["code"] == *code && values(answer) == *expected, "{question}: {answer}, not {expected:?}");
    }

    // An outside host has an address of its own, the same however it is asked for, and that address has its name.
    let outside = ["www.example.com A", "www.example.com.names.svc.cluster.local A", "api.example.com A"];
    let answers = ask(&mesh, &client, &outside).await?;
    let [whole, completed, other] = answers.as_slice() else { anyhow::bail!("{answers:?}") };
    let address = values(whole).pop_first().context("no address")?;
    ensure!(address.starts_with("240.240.") && values(completed) == of(&[&address]), "{whole} {completed}");
    ensure!(!values(other).contains(&address), "two hosts share an address: {other}");
    let alias = json!(["www.example.com.names.svc.cluster.local", "CNAME", "www.example.com"]);
    ensure!(completed["records"][0] == alias, "{completed}");
    let reversed: Vec<&str> = address.rsplit('.').collect();
    let question = format!("{}.in-addr.arpa PTR", reversed.join("."));
    let named = ask(&mesh, &client, &[&question]).await?;
    ensure!(values(&named[0]) == of(&["www.example.com"]), "{named:?}");
    mesh.stop().await
}
