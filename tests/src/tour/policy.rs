//! Steps about documents: a policy that denies and explains itself, and a document that breaks only itself.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::Narrator;
use crate::{
    checkout,
    http::{Client, text},
    mesh::Mesh,
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);

/// What the page shows for a star.
const STAR: &str = "★";

pub(super) async fn denial(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("A policy edit denies a call, and the denial explains itself");
    let before = mesh.read("policy-details.yaml")?;
    narrator.does("edit policy-details.yaml: methods [GET] becomes [HEAD]");
    mesh.write("policy-details.yaml", &checkout::demo_step("policy-details-head-only.yaml")?)?;
    let mut client = Client::new(edge);
    let details = mesh.pod("bookinfo", "details-v1")?.name.clone();
    let line = until("the denial", SOON, async || {
        let answer = client.get("/api/v1/products/0", &[]).await?;
        ensure!(answer.status() != 200, "still allowed");
        let lines = mesh.access_log("bookinfo", &details)?;
        lines.into_iter().rev().find(|line| line["reason"] == "authz-denied").context("no denial in the log")
    })
    .await?;
    narrator.shows(&format!(
        "details' sidecar: {} {} {} {} → {} {}",
        line["source"], line["method"], line["authority"], line["path"], line["status"], line["reason"]
    ));
    let decision = line["decision"].as_str().context("the denial has no decision id")?.to_owned();
    narrator.does(&format!("palisade policy why {decision}"));
    let admin = &mesh.read_ready()?.control.admin;
    let output = Command::new(checkout::binary("palisade")?)
        .args(["policy", "why", &decision, "--control", admin])
        .output()
        .await?;
    let explanation = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}{explanation}", String::from_utf8_lossy(&output.stderr));
    narrator.shows(&explanation);
    for part in ["bookinfo/details", "methods", "HEAD", "GET"] {
        ensure!(explanation.contains(part), "the explanation does not name `{part}`");
    }
    narrator.does("undo the edit");
    mesh.write("policy-details.yaml", &before)?;
    until("the page is whole again", SOON, async || {
        let answer = client.get("/api/v1/products/0", &[]).await?;
        ensure!(answer.status() == 200, "status {}", answer.status());
        Ok(())
    })
    .await?;
    narrator.holds("the nearest miss names the policy, the clause that failed, what it wanted and what came");
    Ok(())
}

pub(super) async fn broken(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("A broken document breaks only itself");
    // Version 2 of reviews asks ratings, so that the page shows whether ratings is routed well.
    let file = "virtual-service-reviews.yaml";
    mesh.write(file, &std::fs::read_to_string(checkout::root().join("deploy/demo/documents").join(file))?)?;
    let mut client = Client::new(edge);
    until("stars on the page", SOON, async || has_stars(&mut client).await).await?;
    narrator.does("add broken.yaml: a VirtualService for ratings whose weight is `many`");
    mesh.write("broken.yaml", &checkout::demo_step("broken.yaml")?)?;
    let output = Command::new(checkout::binary("palisade")?)
        .args(["analyze", "-o", "jsonl", "-f"])
        .arg(mesh.folder().join("documents"))
        .output()
        .await?;
    ensure!(output.status.code() == Some(1), "analyze ended with {}", output.status);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<anyhow::Result<Vec<Value>>>()?
        .into_iter()
        .filter(|line| line["severity"] == "error")
        .collect();
    for error in &errors {
        narrator.shows(&format!(
            "{} {}:{} {} {}: {}",
            error["code"], error["file"], error["line"], error["object"]["kind"], error["path"], error["message"]
        ));
    }
    ensure!(!errors.is_empty(), "no error in:\n{said}");
    ensure!(errors.iter().all(|error| error["object"]["name"] == "broken"), "other documents are blamed:\n{said}");
    for _ in 0..50 {
        has_stars(&mut client).await?;
    }
    mesh.remove("broken.yaml")?;
    narrator.holds("50 of 50 pages whole, stars from ratings included; the error names file, line and field");
    Ok(())
}

/// The page is whole, with the stars that ratings knows.
async fn has_stars(client: &mut Client) -> anyhow::Result<()> {
    let answer = client.get("/productpage", &[]).await?;
    let page = text(&answer);
    ensure!(answer.status() == 200 && page.contains(STAR), "{}, no stars: {page}", answer.status());
    Ok(())
}
