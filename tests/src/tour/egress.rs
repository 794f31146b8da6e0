//! A step about the way out: one host for one identity, through the egress gateway.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Narrator;
use crate::{
    checkout,
    mesh::{Mesh, Options},
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);

const URL: &str = "http://api.partner.example/orders";

/// A host that is there and that no document names.
const UNKNOWN: &str = "http://elsewhere.example/";

pub(super) async fn allowlist(narrator: &Narrator) -> anyhow::Result<()> {
    narrator.step("The way out: one host for one identity, through an egress gateway; everything else stays inside");
    let demo = checkout::root().join("deploy/demo");
    let outside = |host: &str| format!("--external={host}=bookinfo echo --port=80");
    let mesh = Mesh::start(Options {
        name: "demo-egress".to_owned(),
        documents: vec![demo.join("egress")],
        images: demo.join("images.yaml"),
        arguments: vec![outside("api.partner.example"), outside("elsewhere.example")],
    })
    .await?;
    let walk = async {
        let allowed = call(narrator, &mesh, "clerk", URL).await?;
        ensure!(allowed["status"] == 200, "clerk was not let out: {allowed}");
        let line = egress_line(&mesh, "ok").await?;
        narrator.shows(&format!(
            "egress gateway: from {} ({}) to {}, {}",
            line["source"], line["connection"], line["authority"], line["reason"]
        ));
        ensure!(line["source"] == "spiffe://cluster.local/ns/shop/sa/clerk", "another identity arrived: {line}");

        let refused = call(narrator, &mesh, "guest", URL).await?;
        ensure!(refused["status"] == 403, "guest was let out: {refused}");
        let line = egress_line(&mesh, "authz-denied").await?;
        narrator.shows(&format!("egress gateway: from {}, {}", line["source"], line["reason"]));

        let unknown = call(narrator, &mesh, "clerk", UNKNOWN).await?;
        ensure!(unknown["status"] == 502, "a host that no document names was reached: {unknown}");
        let line = until("the refusal in clerk's log", SOON, async || {
            let lines = mesh.access_log("shop", "clerk")?;
            lines.into_iter().rev().find(|line| line["status"] == 502).context("no line of the refusal")
        })
        .await?;
        narrator.shows(&format!("clerk's sidecar: {} is {}", line["authority"], line["reason"]));
        ensure!(line["reason"] == "egress-unknown-host", "{line}");
        Ok(())
    };
    let result: anyhow::Result<()> = walk.await;
    result.with_context(|| mesh.said())?;
    narrator.holds("allowed to one identity, refused to another, closed to hosts that no document names");
    mesh.stop().await
}

async fn call(narrator: &Narrator, mesh: &Mesh, pod: &str, url: &str) -> anyhow::Result<Value> {
    narrator.does(&format!("palisade dev exec shop/{pod} -- bookinfo call {url}"));
    let output = mesh.exec(mesh.pod("shop", pod)?, &["bookinfo", "call", url]).await?;
    let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let text = answer["body"].as_str().or(answer["error"].as_str()).unwrap_or_default();
    let shown = if answer["status"] == 200 { "" } else { text };
    narrator.shows(format!("{} {shown}", answer["status"]).trim_end());
    Ok(answer)
}

/// The egress gateway's line about the request that ended so.
async fn egress_line(mesh: &Mesh, reason: &str) -> anyhow::Result<Value> {
    until("the egress gateway's log line", SOON, async || {
        let lines = mesh.access_log("istio-system", "egressgateway")?;
        lines.into_iter().rev().find(|line| line["reason"] == reason).context("no such line yet")
    })
    .await
}
