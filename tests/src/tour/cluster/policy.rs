//! Steps about policy: what is enforced where, and a denial that explains itself.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{BOOKINFO, Narrator, call, document};
use crate::{
    checkout,
    http::{Client, text},
    kubernetes::{Exposed, Node},
    wait::until,
};

const SOON: Duration = Duration::from_secs(60);

pub(super) async fn is_enforced(narrator: &Narrator, node: &Node, page: &Exposed) -> anyhow::Result<()> {
    narrator.step("Mutual TLS everywhere, nothing allowed but what is written: enforced by whom it concerns");
    for file in ["policies.yaml", "policy-details.yaml"] {
        narrator.does(&format!("kubectl apply -f deploy/demo/documents/{file}"));
        node.apply(&document(&format!("documents/{file}"))?).await?;
    }
    let names =
        node.kubectl(&["get", "authorizationpolicies", "-n", BOOKINFO, "-o", "jsonpath={.items[*].metadata.name}"]);
    let names: Vec<String> = names.await?.split(' ').map(str::to_owned).collect();
    for name in &names {
        let path = "jsonpath={.status.conditions[?(@.type==\"Enforced\")].message}";
        let message = until("Enforced by all", SOON, async || {
            let said = node.kubectl(&["get", "authorizationpolicy", name, "-n", BOOKINFO, "-o", path]).await?;
            ensure!(all_of_all(&said), "{name}: `{said}`");
            Ok(said)
        })
        .await?;
        narrator.shows(&format!("{name:<14} {message}"));
    }
    let answer = Client::new(&page.address.to_string()).get("/productpage", &[]).await?;
    ensure!(answer.status() == 200, "the page is gone: {}", answer.status());
    node.apply(&document("kubernetes/around.yaml")?).await?;
    node.kubectl(&["wait", "-n", "around", "pod", "--all", "--for=condition=Ready", "--timeout=60s"]).await?;
    let stranger = call(narrator, node, "around", "stranger", "http://productpage.bookinfo:9080/productpage").await?;
    ensure!(stranger["status"].is_null(), "a pod without a sidecar was answered: {stranger}");
    narrator.holds("the page is whole, and a pod outside the mesh is not answered");
    Ok(())
}

/// `Enforced n/n`, of at least one.
fn all_of_all(message: &str) -> bool {
    let counts = message.strip_prefix("Enforced ").and_then(|rest| rest.split([':', ' ']).next());
    counts.and_then(|counts| counts.split_once('/')).is_some_and(|(some, all)| some == all && all != "0")
}

pub(super) async fn denial(narrator: &Narrator, node: &Node, page: &Exposed) -> anyhow::Result<()> {
    narrator.step("A policy edit denies a call, and the denial explains itself");
    narrator.does("edit policy details: methods [GET] becomes [HEAD]");
    node.apply(&checkout::demo_step("policy-details-head-only.yaml")?).await?;
    let mut client = Client::new(&page.address.to_string());
    let line = until("the denial", SOON, async || {
        let answer = client.get("/api/v1/products/0", &[]).await?;
        ensure!(answer.status() != 200, "still allowed");
        let lines = node.log_lines(BOOKINFO, "deployment/details-v1", "palisade-proxy").await?;
        lines.into_iter().rev().find(|line| line["reason"] == "authz-denied").context("no denial in the log")
    })
    .await?;
    narrator.shows(&format!(
        "details' sidecar: {} {} {} {} → {} {}",
        line["source"], line["method"], line["authority"], line["path"], line["status"], line["reason"]
    ));
    let decision = text_of(&line, "decision")?;
    narrator.does(&format!("palisade policy why {decision}"));
    let explanation = node.palisade(&["policy", "why", &decision]).await?;
    narrator.shows(&explanation);
    for part in ["bookinfo/details", "methods", "HEAD", "GET"] {
        ensure!(explanation.contains(part), "the explanation does not name `{part}`");
    }
    narrator.does("undo the edit");
    node.apply(&document("documents/policy-details.yaml")?).await?;
    until("the page is whole again", SOON, async || {
        let answer = client.get("/api/v1/products/0", &[]).await?;
        ensure!(answer.status() == 200, "{}: {}", answer.status(), text(&answer));
        Ok(())
    })
    .await?;
    narrator.holds("the nearest miss names the policy, the clause that failed, what it wanted and what came");
    Ok(())
}

fn text_of(line: &Value, field: &str) -> anyhow::Result<String> {
    Ok(line[field].as_str().with_context(|| format!("no {field} in {line}"))?.to_owned())
}
