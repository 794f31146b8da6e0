//! Steps about routing: a canary, a header match, and edits under load.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};

use super::Narrator;
use crate::{
    checkout,
    http::{Client, text},
    load::Load,
    mesh::Mesh,
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);

/// Requests of the counted canary.
const REQUESTS: u32 = 1_000;

/// Edits under load.
const EDITS: u32 = 20;

const FILE: &str = "virtual-service-reviews.yaml";

pub(super) async fn canary(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("A canary: 90 % of reviews v1, 10 % v3, counted over 1,000 requests");
    narrator.does("edit virtual-service-reviews.yaml: weights 90 and 10");
    mesh.write(FILE, &checkout::demo_step("virtual-service-reviews-canary.yaml")?)?;
    let mut client = Client::new(edge);
    settled(&mut client, "v2", &[]).await?;
    let mut versions = BTreeMap::new();
    for _ in 0..REQUESTS {
        *versions.entry(version(&mut client, &[]).await?).or_insert(0_u32) += 1;
    }
    narrator.shows(&format!("{versions:?}"));
    let canary = versions.get("v3").copied().unwrap_or(0);
    ensure!(versions.get("v1").copied().unwrap_or(0) + canary == REQUESTS, "another version answered: {versions:?}");
    // Ten standard deviations of a binomial(1000, 0.1) around its mean: 100 ± 95.
    ensure!((5..=195).contains(&canary), "{canary} of {REQUESTS} is not one in ten");
    narrator.holds("one in ten went to the canary, the rest to v1");
    Ok(())
}

pub(super) async fn jason(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("A user of one's own: `end-user: jason` gets reviews v2, everyone else v1");
    narrator.does("edit virtual-service-reviews.yaml: match header end-user exact jason");
    mesh.write(FILE, &checkout::demo_step("virtual-service-reviews-jason.yaml")?)?;
    let mut client = Client::new(edge);
    let jason = [("cookie", "user=jason"), ("end-user", "jason")];
    until("jason's version", SOON, async || {
        let mut client = Client::new(edge);
        let seen = version(&mut client, &jason).await?;
        ensure!(seen == "v2", "still {seen}");
        Ok(())
    })
    .await?;
    for _ in 0..100 {
        ensure!(version(&mut client, &jason).await? == "v2", "jason got another version");
        ensure!(version(&mut client, &[]).await? == "v1", "someone else got another version");
    }
    narrator.holds("100 of 100 each");
    Ok(())
}

pub(super) async fn edits(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("20 edits under load: no request fails, each edit is live");
    let load = Load::start(edge, "/api/v1/products/0/reviews", &[], 4);
    let mut client = Client::new(edge);
    let mut slowest = Duration::ZERO;
    for edit in 0..EDITS {
        let wanted = if edit % 2 == 0 { "v3" } else { "v1" };
        mesh.write(FILE, &all_to(wanted))?;
        let begin = std::time::Instant::now();
        until(&format!("edit {edit}"), SOON, async || {
            let seen = version(&mut Client::new(edge), &[]).await?;
            ensure!(seen == wanted, "still {seen}");
            Ok(())
        })
        .await?;
        slowest = slowest.max(begin.elapsed());
        ensure!(version(&mut client, &[]).await? == wanted, "edit {edit} came and went");
    }
    let count = load.stop().await?;
    narrator
        .shows(&format!("{} requests, statuses {:?}, without answer {}", count.total, count.statuses, count.failed));
    narrator.shows(&format!("slowest edit, from the write to the first answer by the new version: {slowest:.1?}"));
    ensure!(count.not_ok() == 0, "{} requests failed: {:?}", count.not_ok(), count.examples);
    narrator.holds("0 failed requests");
    Ok(())
}

/// Waits until no request is answered by `gone` any more.
async fn settled(client: &mut Client, gone: &str, headers: &[(&str, &str)]) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + SOON;
    while version(client, headers).await? == gone {
        ensure!(tokio::time::Instant::now() < deadline, "reviews {gone} still answers after {SOON:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Which version of reviews answered.
async fn version(client: &mut Client, headers: &[(&str, &str)]) -> anyhow::Result<String> {
    let answer = client.get("/api/v1/products/0/reviews", headers).await?;
    ensure!(answer.status() == 200, "status {}: {}", answer.status(), text(&answer));
    let value: serde_json::Value = serde_json::from_slice(answer.body())?;
    let pod = value["podname"].as_str().with_context(|| format!("no podname in {value}"))?;
    let version = pod.strip_prefix("reviews-").and_then(|rest| rest.split('-').next());
    Ok(version.with_context(|| format!("`{pod}` is not a reviews pod"))?.to_owned())
}

fn all_to(version: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: bookinfo
spec:
  hosts:
  - reviews
  http:
  - route:
    - destination:
        host: reviews
        subset: {version}
"
    )
}
