//! A step about a circuit breaker: it opens under load, answers at once, and closes with the load's end.

use std::time::Duration;

use anyhow::ensure;

use super::Narrator;
use crate::{
    checkout,
    http::{Client, text},
    load::Load,
    mesh::Mesh,
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);

const FILE: &str = "breaker.yaml";

pub(super) async fn opens_and_closes(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("A circuit breaker opens and closes");
    narrator.does("add breaker.yaml: one request to productpage at a time; then eight clients at once");
    mesh.write(FILE, &checkout::demo_step(FILE)?)?;
    let load = Load::start(edge, "/productpage", &[], 8);
    let opened = until("an overflow", SOON, async || {
        let lines = mesh.access_log("bookinfo", "edge-palisade")?;
        let overflows = lines.iter().filter(|line| line["reason"] == "overflow").count();
        ensure!(overflows > 0, "no overflow yet");
        Ok(overflows)
    })
    .await?;
    let count = load.stop().await?;
    narrator.shows(&format!("{} requests, statuses {:?}; first seen: {opened} overflows", count.total, count.statuses));
    ensure!(count.failed == 0, "connections broke: {:?}", count.examples);
    ensure!(count.statuses.keys().all(|status| matches!(status, 200 | 503)), "{:?}", count.statuses);
    ensure!(count.statuses.get(&200).is_some_and(|answered| *answered > 0), "nothing passed: {:?}", count.statuses);

    narrator.does("one client again");
    let mut client = Client::new(edge);
    for _ in 0..50 {
        let answer = client.get("/productpage", &[]).await?;
        ensure!(answer.status() == 200, "still open: {} {}", answer.status(), text(&answer));
    }
    mesh.remove(FILE)?;
    narrator.holds("what was too much got 503 at once; 50 of 50 pages afterwards");
    Ok(())
}
