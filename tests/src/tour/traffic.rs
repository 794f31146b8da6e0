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

/// The pod of the edge gateway.
const EDGE_POD: &str = "edge-palisade";

/// Pods that the page's request passes behind the edge, and what the hops are called.
const HOPS: [(&str, &str); 3] = [
    ("productpage-v1", "edge gateway → productpage"),
    ("reviews-v2", "productpage → reviews v2"),
    ("ratings-v1", "reviews v2 → ratings"),
];

pub(super) async fn page(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("The page through the edge: four hops, each with the identity that mutual TLS proved");
    narrator.does(&format!("curl http://{edge}/productpage"));
    let answer = Client::new(edge).get("/productpage", &[]).await?;
    ensure!(answer.status() == 200, "status {}: {}", answer.status(), text(&answer));
    ensure!(text(&answer).contains("The Comedy of Errors"), "not the page: {}", text(&answer));
    narrator.shows(&format!("{} {} bytes", answer.status(), answer.body().len()));
    let field = |line: &Value, name: &str| line.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let shows = |hop: &str, line: &Value| {
        narrator.shows(&format!(
            "{hop}: from {} ({}, {})",
            field(line, "source"),
            field(line, "connection"),
            field(line, "reason")
        ));
    };
    let is_page = |line: &Value| line["path"] == "/productpage";
    let line = until("the edge's log", SOON, async || inbound(mesh, EDGE_POD, is_page)).await?;
    shows("client → edge gateway", &line);
    // The edge gave the request its id; it is the same at every hop.
    let request = field(&line, "request_id");
    ensure!(request != "-", "the edge logged no request id: {line}");
    for (pod, hop) in HOPS {
        let pod = &mesh.pod("bookinfo", pod)?.name;
        let line = until(hop, SOON, async || inbound(mesh, pod, |line| line["request_id"] == *request)).await?;
        shows(hop, &line);
        ensure!(field(&line, "source").starts_with("spiffe://cluster.local/ns/bookinfo/sa/"), "no identity: {line}");
        ensure!(field(&line, "connection") == "mtls", "not mutual TLS: {line}");
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

/// The first inbound access log line of a pod or gateway that is the wanted one.
fn inbound(mesh: &Mesh, pod: &str, is_wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let lines = mesh.access_log("bookinfo", pod)?;
    lines.into_iter().find(|line| line["direction"] == "inbound" && is_wanted(line)).context("no such line yet")
}
