//! Steps about traffic: the page with its hops, and a caller from outside the mesh.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Narrator;
use crate::{
    http::{Client, text},
    mesh::Mesh,
    wait::until,
};

/// How long an edit or a log line may take to be seen.
const SOON: Duration = Duration::from_secs(10);

/// A pod that the page's request passes, the proxy's direction there, and what the hop is called.
const HOPS: [(&str, &str); 4] = [
    ("edge", "client → edge gateway"),
    ("productpage-v1", "edge gateway → productpage"),
    ("reviews-v2", "productpage → reviews v2"),
    ("ratings-v1", "reviews v2 → ratings"),
];

pub(super) async fn page(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("The page through the edge: four hops, each with the identity that mutual TLS proved");
    narrator.does(&format!("curl http://{edge}/productpage"));
    let answer = Client::new(edge).get("/productpage", &[("x-request-id", "tour-page")]).await?;
    ensure!(answer.status() == 200, "status {}: {}", answer.status(), text(&answer));
    ensure!(text(&answer).contains("The Comedy of Errors"), "not the page: {}", text(&answer));
    narrator.shows(&format!("{} {} bytes", answer.status(), answer.body().len()));
    for (pod, hop) in HOPS {
        let line = until(hop, SOON, async || inbound(mesh, pod, "tour-page")).await?;
        let field = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        narrator.shows(&format!("{hop}: from {} ({}, {})", field("source"), field("connection"), field("reason")));
        if pod != "edge" {
            ensure!(field("source").starts_with("spiffe://cluster.local/ns/bookinfo/sa/"), "no identity: {line}");
            ensure!(field("connection") == "mtls", "not mutual TLS: {line}");
        }
    }
    narrator.holds("every hop between sidecars is mutual TLS with the caller's own identity");
    Ok(())
}

pub(super) async fn stranger(narrator: &Narrator, mesh: &Mesh) -> anyhow::Result<()> {
    narrator.step("A plaintext call from a pod outside the mesh is refused");
    let pod = mesh.pod("outside", "stranger")?;
    let url = "http://productpage.bookinfo.svc.cluster.local:9080/productpage";
    narrator.does(&format!("palisade dev exec outside/{} -- bookinfo call {url}", pod.name));
    let output = mesh.exec(pod, &["bookinfo", "call", url]).await?;
    let line: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(line.get("status") == Some(&Value::Null), "the stranger was answered: {line}");
    narrator.shows(line.get("error").and_then(Value::as_str).unwrap_or("no answer"));
    let refused = until("the refusal in productpage's log", SOON, async || {
        let lines = mesh.access_log("bookinfo", &mesh.pod("bookinfo", "productpage-v1")?.name)?;
        lines.into_iter().rev().find(|line| line["reason"] == "peer-refused").context("no such line")
    })
    .await?;
    narrator.shows(&format!("productpage's sidecar: reason {}", refused["reason"]));
    narrator.holds("STRICT takes no plaintext: the connection is closed before a byte of HTTP");
    Ok(())
}

/// The inbound access log line of a request at a pod or gateway.
fn inbound(mesh: &Mesh, pod: &str, request: &str) -> anyhow::Result<Value> {
    let name = mesh.pod("bookinfo", pod).map_or_else(|_| pod.to_owned(), |pod| pod.name.clone());
    let is_it = |line: &Value| line["request_id"] == request && line["direction"] == "inbound";
    mesh.access_log("bookinfo", &name)?.into_iter().find(is_it).context("no such line yet")
}
