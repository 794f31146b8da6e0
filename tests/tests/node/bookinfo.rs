//! Istio's unmodified Bookinfo with our sidecars, under STRICT.

use anyhow::{Context, ensure};
use palisade_tests::{
    kubernetes::{Node, bookinfo_documents},
    wait::until,
};
use serde_json::Value;

use crate::support::{SOON, mesh, meshed_namespace};

const NAMESPACE: &str = "bookinfo";

/// Callers on both sides of the mesh's edge, and the policies: mutual TLS everywhere, and productpage alone may read details.
const DOCUMENTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: caller, namespace: bookinfo}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: bookinfo}
spec:
  serviceAccountName: caller
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: 'localhost/bookinfo:1', args: [client]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: bookinfo, labels: {sidecar.istio.io/inject: 'false'}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: 'localhost/bookinfo:1', args: [client]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: bookinfo}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: details, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: details}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/bookinfo/sa/bookinfo-productpage]}}]}]
";

const WORKLOADS: [&str; 6] = ["details-v1", "productpage-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3"];

/// The newest line of a sidecar's access log that passes.
async fn line(node: &Node, pod: &str, passes: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    until("a line of the access log", SOON, async || {
        let lines = node.log_lines(NAMESPACE, pod, "palisade-proxy").await?;
        lines.iter().rev().find(|line| passes(line)).cloned().with_context(|| format!("not among {lines:?}"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bookinfo_runs_unmodified_under_strict() -> anyhow::Result<()> {
    let Some(documents) = bookinfo_documents()? else {
        println!("skipped: ISTIO_SAMPLES is not set");
        return Ok(());
    };
    let Some(node) = mesh().await? else { return Ok(()) };
    meshed_namespace(node, NAMESPACE).await?;
    node.apply_to(NAMESPACE, &documents).await?;
    node.apply(DOCUMENTS).await?;
    for workload in WORKLOADS {
        node.rollout(NAMESPACE, &format!("deployment/{workload}")).await?;
    }
    node.kubectl(&["wait", "-n", NAMESPACE, "pod/caller", "pod/stranger", "--for=condition=Ready", "--timeout=60s"])
        .await?;
    node.palisade(&["wait", "AuthorizationPolicy/bookinfo/details", "PeerAuthentication/bookinfo/default"]).await?;

    // Through every service, each hop by the identity of the caller.
    let page = until("the page", SOON, async || {
        let answer = node.call(NAMESPACE, "caller", &["http://productpage:9080/productpage"]).await?;
        ensure!(answer["status"] == 200, "{answer}");
        let text = answer["body"].as_str().unwrap_or_default().to_owned();
        ensure!(text.contains("Comedy of Errors"), "{text}");
        Ok(text)
    });
    page.await?;
    let hop =
        line(node, "deployment/details-v1", |line| line["direction"] == "inbound" && line["reason"] == "ok").await?;
    ensure!(hop["source"] == "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage", "{hop}");

    // The policy lets nobody else in, and says why.
    let refused = node.call(NAMESPACE, "caller", &["http://details:9080/details/0"]).await?;
    ensure!(refused["status"] == 403, "{refused}");
    let denial = line(node, "deployment/details-v1", |line| line["reason"] == "authz-denied").await?;
    let decision = denial["decision"].as_str().context("a denial without decision")?;
    let why = node.palisade(&["policy", "why", decision]).await?;
    ensure!(why.contains("bookinfo/details") && why.contains("principals"), "{why}");

    // No mesh certificate, no answer.
    let outside = node.call(NAMESPACE, "stranger", &["http://productpage:9080/productpage"]).await?;
    ensure!(outside["status"].is_null(), "plaintext was answered under STRICT: {outside}");
    line(node, "deployment/productpage-v1", |line| line["reason"] == "peer-refused").await?;
    Ok(())
}
