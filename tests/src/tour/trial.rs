//! Steps about policies before they count: a unit test, and a dry run that says what it would deny.

use std::{path::Path, process::Output, time::Duration};

use anyhow::{Context, ensure};
use tokio::process::Command;

use super::Narrator;
use crate::{
    checkout,
    http::{Client, text},
    mesh::Mesh,
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);

/// Pages asked for during the dry run.
const PAGES: u32 = 20;

pub(super) async fn unit_tests(narrator: &Narrator, mesh: &Mesh) -> anyhow::Result<()> {
    narrator.step("Policies have unit tests: run, broken, mended");
    let documents = mesh.folder().join("documents");
    let before = mesh.read("policy-details.yaml")?;
    narrator.does("palisade policy test -f documents/ deploy/demo/policy-tests/");
    let passed = policy_test(&documents).await?;
    narrator.shows(&String::from_utf8_lossy(&passed.stdout));
    ensure!(passed.status.success(), "the tests fail: {}", String::from_utf8_lossy(&passed.stderr));

    narrator.does("edit policy-details.yaml: methods [GET] becomes [HEAD]; test again");
    mesh.write("policy-details.yaml", &checkout::demo_step("policy-details-head-only.yaml")?)?;
    let failed = policy_test(&documents).await?;
    let said = String::from_utf8_lossy(&failed.stdout).into_owned();
    narrator.shows(&said);
    ensure!(failed.status.code() == Some(1), "a broken policy passes its tests: {said}");
    ensure!(said.contains("the page reads details"), "the failed case is not named: {said}");

    narrator.does("undo the edit; test again");
    mesh.write("policy-details.yaml", &before)?;
    ensure!(policy_test(&documents).await?.status.success(), "the tests fail after the edit was undone");
    narrator.holds("the case that a bad edit breaks is named before anybody ships it");
    Ok(())
}

async fn policy_test(documents: &Path) -> anyhow::Result<Output> {
    Ok(Command::new(checkout::binary("palisade")?)
        .args(["policy", "test", "-f"])
        .arg(documents)
        .arg(checkout::root().join("deploy/demo/policy-tests"))
        .output()
        .await?)
}

pub(super) async fn dry_run(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("A dry run counts what a policy would deny, and denies nothing");
    narrator.does("add policy-reviews-dry-run.yaml: DENY /reviews/*, istio.io/dry-run");
    mesh.write("policy-reviews-dry-run.yaml", &checkout::demo_step("policy-reviews-dry-run.yaml")?)?;
    let mut client = Client::new(edge);
    let counted = until("counted requests", SOON, async || {
        for _ in 0..PAGES {
            let answer = client.get("/api/v1/products/0/reviews", &[]).await?;
            ensure!(answer.status() == 200, "the dry run denied: {} {}", answer.status(), text(&answer));
        }
        let would_change = changes(mesh).await?;
        ensure!(would_change >= u64::from(PAGES), "{would_change} counted");
        Ok(would_change)
    })
    .await?;
    narrator.shows(&format!("palisade_policy_recorded_changes_total of bookinfo/reviews-closed: {counted}"));
    mesh.remove("policy-reviews-dry-run.yaml")?;
    narrator.holds("every page came; the sidecars know how many would not have");
    Ok(())
}

/// How many answers of reviews the dry run would have changed, over all its pods.
async fn changes(mesh: &Mesh) -> anyhow::Result<u64> {
    let ready = mesh.read_ready()?;
    let mut sum = 0;
    for pod in ready.pods.iter().filter(|pod| pod.name.starts_with("reviews-")) {
        let metrics = pod.metrics.as_deref().context("a sidecar without metrics")?;
        let address = metrics.trim_start_matches("http://").trim_end_matches('/');
        let page = text(&Client::new(address).get("/metrics", &[]).await?);
        let lines = page.lines().filter(|line| line.starts_with("palisade_policy_recorded_changes_total"));
        for line in lines.filter(|line| line.contains("reviews-closed")) {
            sum += line.rsplit(' ').next().unwrap_or_default().parse::<u64>().with_context(|| line.to_owned())?;
        }
    }
    Ok(sum)
}
