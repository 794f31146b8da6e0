//! A step about a circuit breaker: it opens under a crowd, and closes when the crowd is gone.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::Narrator;
use crate::{
    checkout,
    http::Client,
    load::{Count, Load},
    mesh::Mesh,
    wait::until,
};

const SOON: Duration = Duration::from_secs(20);

/// The pod of the edge gateway.
const EDGE_POD: &str = "edge-palisade";

const FILE: &str = "destination-rule-productpage-breaker.yaml";
const PATH: &str = "/api/v1/products/0";

/// Clients that ask at once: more than the one call and the one in the queue.
const CROWD: usize = 8;

/// Requests of the client that is alone.
const ALONE: usize = 50;

pub(super) async fn opens_and_closes(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("A circuit breaker opens under a crowd and closes behind it");
    narrator.does(&format!("add {FILE}: one call at a time to productpage, one may wait"));
    mesh.write(FILE, &checkout::demo_step(FILE)?)?;
    narrator.does(&format!("{CROWD} clients ask at once"));
    let mut all = Count::default();
    until("somebody turned away and somebody not", SOON, async || {
        let load = Load::start(edge, PATH, &[], CROWD);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let count = load.stop().await?;
        let is_open = count.statuses.contains_key(&503) && count.statuses.contains_key(&200);
        all.merge(count);
        ensure!(is_open, "the breaker does not open: {:?}", all.statuses);
        Ok(())
    })
    .await?;
    narrator.shows(&format!("{} requests, statuses {:?}, without answer {}", all.total, all.statuses, all.failed));
    answered(&all)?;
    let line = until("the log line", SOON, async || {
        let lines = mesh.access_log("bookinfo", EDGE_POD)?;
        lines.into_iter().rev().find(|line| line["reason"] == "overflow").context("no overflow in the edge's log")
    })
    .await?;
    narrator.shows(&format!("the edge: {} {} → {} {}", line["method"], line["path"], line["status"], line["reason"]));
    narrator.does("the crowd is gone, the document is not: one client asks");
    let mut client = Client::new(edge);
    let mut count = Count::default();
    for _ in 0..ALONE {
        count.add(client.get(PATH, &[]).await);
    }
    ensure!(count.not_ok() == 0, "{:?} {:?}", count.statuses, count.examples);
    mesh.remove(FILE)?;
    narrator.holds(&format!(
        "every request was answered, 200 or 503 at once; {ALONE} of {ALONE} once there was room again"
    ));
    Ok(())
}

/// Nothing but 200 and 503, and always an answer.
fn answered(count: &Count) -> anyhow::Result<()> {
    let is_known = count.statuses.keys().all(|status| [200, 503].contains(status));
    ensure!(
        count.failed == 0 && is_known,
        "without answer {}, {:?}: {:?}",
        count.failed,
        count.statuses,
        count.examples
    );
    Ok(())
}
