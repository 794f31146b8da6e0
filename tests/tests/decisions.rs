//! Decisions in a running mesh: their explanation through the control plane, their records, dry runs that are edited while traffic
//! flows, and cached answers of an authorizer inside the mesh.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null, it does not panic")]

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    http::Client,
    mesh::{Mesh, Options},
    wait::until,
};
use serde_json::Value;
use tokio::process::Command;

/// How long the mesh may take to follow an edit or a listener.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn decisions_are_explained_recorded_and_tried_out() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let sources = checkout::root().join("tests/tests/decisions");
    let folder = tempfile::Builder::new().prefix("palisade-decisions-").tempdir()?;
    let server = sources.join("server.py").display().to_string();
    let documents = fs::read_to_string(sources.join("documents.yaml"))?.replace("SERVER", &server);
    fs::write(folder.path().join("mesh.yaml"), documents)?;
    fs::write(folder.path().join("images.yml"), "{}\n")?;
    let mesh = Mesh::start(Options {
        documents: vec![folder.path().join("mesh.yaml")],
        images: folder.path().join("images.yml"),
        ..Options::default()
    })
    .await?;
    // The applications start on their own.
    until("the application", LIMIT, async || {
        let answer = call(&mesh, "/", &[]).await?;
        ensure!(answer["status"] == 200, "{answer}");
        Ok(())
    })
    .await?;
    explained(&mesh).await?;
    recorded(&mesh).await?;
    tried_out(&mesh, &fs::read_to_string(sources.join("candidate.yaml"))?).await?;
    asked_once(&mesh).await?;
    mesh.stop().await
}

/// What the caller gets from the application behind its sidecar.
async fn call(mesh: &Mesh, path: &str, headers: &[&str]) -> anyhow::Result<Value> {
    let script = checkout::root().join("tests/tests/decisions/call.py").display().to_string();
    let url = format!("http://web.shop{path}");
    let output = mesh.exec(mesh.pod("shop", "caller")?, &[&["python3", &script, &url], headers].concat()).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).with_context(|| format!("{path}: {output:?}"))
}

fn policy(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(checkout::binary("palisade")?);
    command.arg("policy").args(arguments).env_remove("PALISADE_CONTROL").stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// A denial's id leads to its explanation, whichever way the control plane is named.
async fn explained(mesh: &Mesh) -> anyhow::Result<()> {
    let answer = call(mesh, "/admin", &["x-ext-user=alice"]).await?;
    ensure!(answer["status"] == 403, "{answer}");
    ensure!(answer["headers"]["x-palisade-policy"] == "shop/no-admin[0]", "{answer}");
    let id = answer["headers"]["x-palisade-decision"].as_str().context("a denial without an id")?.to_owned();
    let admin = mesh.read_ready()?.control.admin;
    let why = ["why", &id, "-o", "json"];
    let mut by_environment = policy(&why)?;
    by_environment.env("PALISADE_CONTROL", &admin);
    let by_flag = policy(&[&why[..], &["--control", &admin]].concat())?;
    let by_mesh = policy(&[&why[..], &["--name", mesh.name()]].concat())?;
    for (way, mut command) in [("--control", by_flag), ("$PALISADE_CONTROL", by_environment), ("--name", by_mesh)] {
        let output = command.output().await?;
        ensure!(output.status.success(), "{way}: {output:?}");
        let story: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(story["decision"] == id.as_str() && story["verdict"] == "deny", "{way}: {story}");
        ensure!(story["policies"][0]["name"] == "no-admin" && story["policies"][0]["rule"] == 0, "{way}: {story}");
        ensure!(story["source"] == "spiffe://cluster.local/ns/shop/sa/caller", "{way}: {story}");
    }
    let unknown = policy(&["why", "00000000-0000000000000", "--control", &admin])?.output().await?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    Ok(())
}

/// Whoever listens gets the records of denials, secrets hashed.
async fn recorded(mesh: &Mesh) -> anyhow::Result<()> {
    let arguments = ["records", "--name", mesh.name(), "--namespace", "shop", "--limit", "1"];
    let mut listening = policy(&arguments)?.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    // The proxies learn of the listener a moment after it: what they decide before that is not told.
    until("a record", LIMIT, async || {
        call(mesh, "/admin", &["x-password=hunter2"]).await?;
        listening.try_wait()?.context("still listening")
    })
    .await?;
    let output = listening.wait_with_output().await?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let record: Value = serde_json::from_str(text.trim())?;
    ensure!(record["v"] == 1 && record["verdict"] == "deny" && record["proxy"] == "shop/web", "{record}");
    ensure!(record["policies"][0] == "shop/no-admin[0]", "{record}");
    ensure!(!text.contains("hunter2") && record["http"]["headers"]["x-password"][0].is_string(), "{record}");
    Ok(())
}

/// A dry run that is edited while the mesh runs counts what it matches then.
async fn tried_out(mesh: &Mesh, candidate: &str) -> anyhow::Result<()> {
    let metrics = mesh.pod("shop", "web")?.metrics.clone().context("no metrics")?;
    let labels = "kind=\"AuthorizationPolicy\",namespace=\"shop\",name=\"candidate\",mode=\"dry-run\"";
    let line = format!("palisade_policy_recorded_changes_total{{{labels}}} ");
    // What is edited counts anew: it never gets near what was counted before.
    for (path, expected) in [("/tried", 5..1000), ("/edited", 1..5)] {
        mesh.write("candidate.yaml", &candidate.replace("PATH", path))?;
        until("the dry run to count", LIMIT, async || {
            let answer = call(mesh, path, &[]).await?;
            ensure!(answer["status"] == 200, "a dry run changes nothing: {answer}");
            let answer = Client::new(metrics.trim_start_matches("http://")).get("/metrics", &[]).await?;
            let text = String::from_utf8_lossy(answer.body()).into_owned();
            let found = text.lines().find_map(|it| it.strip_prefix(&line)).context("not known yet")?.to_owned();
            ensure!(expected.contains(&found.parse::<u64>()?), "{found}");
            Ok(())
        })
        .await?;
    }
    let log = mesh.access_log("shop", "web")?;
    let line = log.iter().rev().find(|line| line["path"] == "/edited" && line["decision"].is_string());
    let id = line.and_then(|line| line["decision"].as_str()).context("no request that it would change has an id")?;
    let output = policy(&["why", id, "-o", "json", "--name", mesh.name()])?.output().await?;
    let story: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(story["verdict"] == "allow" && story["shadow"][0]["decision"] == "deny", "{story}");
    mesh.remove("candidate.yaml")
}

/// An authorizer inside the mesh, behind STRICT mutual TLS, is asked once for equal requests.
async fn asked_once(mesh: &Mesh) -> anyhow::Result<()> {
    let count = async |path: &str, user: &str| -> anyhow::Result<(Value, Option<String>)> {
        let answer = call(mesh, path, &[&format!("x-ext-user={user}")]).await?;
        let seen: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default()).unwrap_or_default();
        Ok((answer["status"].clone(), seen["headers"]["x-count"].as_str().map(str::to_owned)))
    };
    let first = until("the authorizer", LIMIT, async || {
        let first = count("/reports/a", "alice").await?;
        ensure!(first.0 == 200, "{first:?}");
        Ok(first)
    })
    .await?;
    ensure!(first.1.is_some(), "{first:?}");
    for _ in 0..3 {
        ensure!(count("/reports/a", "alice").await? == first);
        ensure!(count("/reports/a?page=2", "alice").await? == first, "the query is not in the key");
    }
    let other = count("/reports/b", "alice").await?;
    ensure!(other.0 == 200 && other.1 != first.1, "{other:?}");
    ensure!(count("/reports/a", "mallory").await?.0 == 403);
    ensure!(count("/reports/a", "bob").await?.1 != first.1);
    Ok(())
}
