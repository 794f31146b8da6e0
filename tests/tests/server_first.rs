//! Protocols in which the server speaks first, ports that nothing declares, and many connections that stay.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use palisade_tests::{
    bench::process::anonymous_memory,
    checkout,
    mesh::{Mesh, Options, Pod},
    wait::until,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const GREETED: &str = "5.7.0 ready SELECT 1";
const SOON: Duration = Duration::from_secs(30);
/// Connections that stay open at once, or as many as the machine's limit of descriptors allows.
const MANY: u64 = 10_000;
/// What a connection through a sidecar may cost it, mutual TLS on one side included.
const BYTES_EACH: u64 = 40 * 1024;

fn here() -> PathBuf {
    checkout::root().join("tests/tests/server_first")
}

async fn mesh(folder: &std::path::Path) -> anyhow::Result<Mesh> {
    let images = folder.join("images.yaml");
    let server = here().join("server.py");
    let command = format!("[python3, {}, \"3306\", \"7000\", \"7001\", \"7002\", \"7100+echo\"]", server.display());
    std::fs::write(&images, format!("\"palisade.dev/db:*\": {command}\n\"*\": [sleep, infinity]\n"))?;
    let documents = vec![here().join("documents.yaml")];
    Mesh::start(Options { documents, images, ..Options::default() }).await
}

async fn talk(mesh: &Mesh, from: &Pod, host: &str, port: u16) -> anyhow::Result<String> {
    let script = here().join("client.py").display().to_string();
    let output = mesh.exec(from, &["python3", &script, host, &port.to_string()]).await?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_on_every_kind_of_port() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mesh = mesh(folder.path()).await?;
    let pod = |name: &str| Ok::<_, anyhow::Error>(mesh.pod("data", name)?.clone());
    let (db, caller, outside) = (pod("db-0")?, pod("caller-0")?, pod("outside-0")?);
    until("the database", SOON, async || {
        let answer = talk(&mesh, &caller, "db", 3306).await?;
        ensure!(answer == GREETED, "{answer}");
        Ok(())
    })
    .await?;
    // By Service and by address; 7002 is a port that no Service has.
    let ip = db.ip.as_str();
    let rows = [("db", 3306), ("db", 7000), ("db", 7001), (ip, 3306), (ip, 7000), (ip, 7001), (ip, 7002)];
    // Without a certificate, as long as the mode is PERMISSIVE: nobody knows whether a client that is silent means TLS.
    let ports = [3306, 7000, 7001, 7002].map(|port| (db.ip.as_str(), port));
    // Where something is detected each side waits for a while, so all at once.
    let all = |from: Pod, rows: Vec<(String, u16)>| {
        let mesh = &mesh;
        try_join_all(rows.into_iter().map(move |(host, port)| {
            let from = from.clone();
            async move {
                let answer = talk(mesh, &from, &host, port).await?;
                anyhow::Ok((format!("from {} to {host}:{port}: {answer}", from.name), answer))
            }
        }))
    };
    let owned = |rows: &[(&str, u16)]| rows.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect::<Vec<_>>();
    let (inside, plain) = tokio::try_join!(all(caller.clone(), owned(&rows)), all(outside.clone(), owned(&ports)))?;
    for (what, answer) in inside.into_iter().chain(plain) {
        ensure!(answer == GREETED, "{what}");
    }
    mesh.write(
        "strict.yaml",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\n\
         spec: {mtls: {mode: STRICT}}\n",
    )?;
    until("STRICT", SOON, async || {
        let answer = talk(&mesh, &outside, &db.ip, 3306).await?;
        ensure!(answer.starts_with("failed"), "{answer}");
        Ok(())
    })
    .await?;
    let (inside, plain) = tokio::try_join!(all(caller.clone(), owned(&rows)), all(outside.clone(), owned(&ports)))?;
    // By its own address a pod is dialled past its Service, in the clear, as in Istio.
    for ((what, answer), (host, _)) in inside.into_iter().zip(rows) {
        ensure!(if host == "db" { answer == GREETED } else { answer.starts_with("failed") }, "under STRICT {what}");
    }
    for (what, answer) in plain {
        ensure!(answer.starts_with("failed"), "under STRICT {what}");
    }
    mesh.stop().await
}

/// Raises this process's limit of descriptors as far as it goes.
fn most_descriptors() -> anyhow::Result<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit")?;
    let most: u64 = line.split_whitespace().nth(4).context("no hard limit")?.parse()?;
    let limit = format!("--nofile={most}:{most}");
    let raised =
        std::process::Command::new("prlimit").args(["--pid", &std::process::id().to_string(), &limit]).status()?;
    ensure!(raised.success(), "prlimit {limit}");
    Ok(most)
}

#[tokio::test]
async fn ten_thousand_connections_stay_and_memory_is_bounded() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    // Two descriptors for each connection in each sidecar, which inherit the limit from here.
    let most = most_descriptors()?;
    let many = MANY.min(most.saturating_sub(400) / 2);
    println!("{many} connections; this machine allows a process {most} descriptors");
    let folder = tempfile::tempdir()?;
    let mesh = mesh(folder.path()).await?;
    let (db, caller) = (mesh.pod("data", "db-0")?.clone(), mesh.pod("data", "caller-0")?.clone());
    let pids: Vec<u32> = [&caller, &db].into_iter().filter_map(|pod| u32::try_from(pod.pid?).ok()).collect();
    ensure!(pids.len() == 2, "no sidecars");
    until("the database", SOON, async || {
        let answer = talk(&mesh, &caller, "db", 3306).await?;
        ensure!(answer == GREETED, "{answer}");
        Ok(())
    })
    .await?;
    let before = pids.iter().map(|pid| anonymous_memory(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut child = mesh
        .command(&caller)?
        .arg("python3")
        .arg(here().join("many.py"))
        .args(["db", "7100", &many.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let opened = lines.next_line().await?.context("no answer")?;
    ensure!(opened.trim() == many.to_string(), "opened: {opened}");
    for ((pid, before), name) in pids.iter().zip(&before).zip(["the caller's", "the server's"]) {
        let each = anonymous_memory(*pid)?.saturating_sub(*before) * 1024 / many;
        eprintln!("{name} sidecar: {each} bytes for a connection");
        ensure!(each <= BYTES_EACH, "{name} sidecar holds {each} bytes for a connection");
    }
    // They all still carry, and others are taken beside them.
    input.write_all(b"\n").await?;
    let again = lines.next_line().await?.context("no answer")?;
    ensure!(again.trim() == many.to_string(), "again: {again}");
    ensure!(talk(&mesh, &caller, "db", 7000).await? == GREETED, "another connection");
    drop(input);
    ensure!(child.wait().await?.success(), "the client failed");
    // All are let go, in both sidecars.
    for pid in &pids {
        until("the descriptors", SOON, async || {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            ensure!(open < 200, "{open} descriptors");
            Ok(())
        })
        .await?;
    }
    mesh.stop().await
}
