//! Watching a running mesh: `palisade dev requests` and `palisade dev calls` over the demo.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    http::Client,
    mesh::{Mesh, Options},
};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// Lines of one call for a product: edge, productpage, details.
const LINES: usize = 3;

#[tokio::test]
async fn each_request_is_a_line_and_each_pair_a_row() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let demo = checkout::root().join("deploy/demo");
    let mesh = Mesh::start(Options {
        documents: vec![demo.join("documents")],
        images: demo.join("images.yaml"),
        ..Options::default()
    })
    .await?;
    let edge = mesh.gateway("bookinfo/edge", 80)?.to_owned();
    let answer = Client::new(&edge).get("/api/v1/products/0", &[]).await?;
    ensure!(answer.status() == 200, "{}", answer.status());

    let lines = watch(&mesh, &["requests", "--from-start", "--count=3"]).await?;
    ensure!(lines.len() == LINES, "{lines:#?}");
    for hop in ["→ bookinfo/edge-palisade", "bookinfo/edge-palisade → bookinfo/productpage", "→ bookinfo/details"]
    {
        ensure!(lines.iter().any(|line| line.contains(hop)), "no line has `{hop}`: {lines:#?}");
    }
    ensure!(lines.iter().all(|line| line.contains("200 ok")), "{lines:#?}");

    let rows = watch(&mesh, &["calls", "--from-start", "--interval=1", "--count=1", "-o", "jsonl"]).await?;
    let rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row)).collect::<Result<_, _>>()?;
    let is_page = |row: &&Value| {
        row["from"].as_str().is_some_and(|from| from.starts_with("bookinfo/edge-palisade"))
            && row["to"].as_str().is_some_and(|to| to.starts_with("bookinfo/productpage"))
    };
    let page = rows.iter().find(is_page).with_context(|| format!("no row of the edge's calls: {rows:#?}"))?;
    ensure!(page["calls"] == 1 && page["denied"] == 0 && page["failed"] == 0, "{page}");
    mesh.stop().await
}

async fn watch(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let (command, rest) = arguments.split_first().context("no subcommand")?;
    let run = Command::new(checkout::binary("palisade")?)
        .args(["dev", command, "--name", mesh.name()])
        .args(rest)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(30), run).await.context("no answer within 30 s")??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}
