//! Routes at Services (GAMMA) with what the conformance suite does not look at: whose routes count, that calls are mutual TLS, and
//! that the policies behind them see the caller.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null, it does not panic")]

use std::time::Duration;

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    mesh::{Mesh, Options},
    wait::until,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// A call from a pod: what `bookinfo call` prints, and what the echo behind says.
async fn call(mesh: &Mesh, from: (&str, &str), arguments: &[&str]) -> anyhow::Result<(Value, Value)> {
    let pod = mesh.pod(from.0, from.1)?;
    let output = mesh.exec(pod, &[&["bookinfo", "call"], arguments].concat()).await?;
    let line: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let body = line["body"].as_str().unwrap_or_default();
    let echo = serde_json::from_str(body).unwrap_or_else(|_| line["body"].clone());
    Ok((line, echo))
}

#[tokio::test]
async fn routes_at_services_carry_identities_to_the_policies_behind_them() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let root = checkout::root();
    let mesh = Mesh::start(Options {
        documents: vec![root.join("tests/tests/producer_routes/documents.yaml")],
        images: root.join("tests/tests/envoy/images.yaml"),
        ..Options::default()
    })
    .await?;
    const URL: &str = "http://reviews.shop:9080";
    let (web, client, guest) = (("shop", "web-0"), ("consumers", "client-0"), ("other", "guest-0"));
    until("the first answer", SOON, async || {
        let (line, _) = call(&mesh, web, &[URL]).await?;
        ensure!(line["status"] == 200, "{line}");
        Ok(())
    })
    .await?;

    // The owner's route is everyone's; whose caller it is, the application is told by a certificate, not by a header.
    for (from, account, path) in [(web, "shop/sa/web", "/any"), (guest, "other/sa/guest", "/public")] {
        let forged = "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/admin";
        let (line, echo) = call(&mesh, from, &["-H", forged, &format!("{URL}{path}")]).await?;
        ensure!(line["status"] == 200 && echo["pod"] == "reviews-v1", "{from:?}: {line}");
        ensure!(echo["headers"]["x-routed"][0] == "plain", "{from:?}: {echo}");
        let shown = echo["headers"]["x-forwarded-client-cert"].to_string();
        ensure!(shown.contains(&format!("URI=spiffe://cluster.local/ns/{account}")), "{from:?}: {shown}");
    }
    // A namespace's own route comes before it, there and nowhere else.
    let (line, echo) = call(&mesh, client, &[&format!("{URL}/any")]).await?;
    ensure!(line["status"] == 200 && echo["headers"]["x-routed"][0] == "consumer", "{line}");
    let (line, echo) = call(&mesh, client, &["-H", "x-preview: 1", &format!("{URL}/any")]).await?;
    ensure!(line["status"] == 200 && echo["pod"] == "reviews-v1", "the consumer's route knows no preview: {line}");

    // A route leads to other workloads, and theirs are the policies that count.
    let (line, echo) = call(&mesh, web, &["-H", "x-preview: 1", &format!("{URL}/any")]).await?;
    ensure!(line["status"] == 200 && echo["pod"] == "reviews-v2", "{line}");
    ensure!(echo["headers"]["x-routed"][0] == "preview", "{echo}");
    let (line, _) = call(&mesh, guest, &["-H", "x-preview: 1", &format!("{URL}/public")]).await?;
    ensure!(line["status"] == 403, "the preview is not the guest's: {line}");
    let (line, _) = call(&mesh, guest, &[&format!("{URL}/private")]).await?;
    ensure!(line["status"] == 403, "the guest may see /public alone: {line}");
    let (line, _) = call(&mesh, web, &["-X", "DELETE", &format!("{URL}/any")]).await?;
    ensure!(line["status"] == 403, "GET alone is allowed: {line}");
    let (line, _) = call(&mesh, web, &[&format!("{URL}/closed")]).await?;
    ensure!(line["status"] == 302, "the caller's sidecar answers a redirect: {line}");

    // Who has no certificate is not heard, whatever the route.
    let pod = mesh.pod("shop", "reviews-v1")?.ip.clone();
    for url in [URL.to_owned(), format!("http://{pod}:9080")] {
        let (line, _) = call(&mesh, ("other", "outside-0"), &[&url]).await?;
        ensure!(line["status"].is_null(), "without a certificate: {line}");
    }

    // Both sides' logs agree about who called, by which route, and which policy let him.
    let is_preview = |line: &&Value| line["path"] == "/any" && line["status"] == 200;
    let log = mesh.access_log("shop", "web-0")?;
    let outbound = log.iter().rfind(|line| is_preview(line)).context("no line of the caller")?;
    ensure!(outbound["route"].to_string().contains("HTTPRoute shop/producer"), "{outbound}");
    ensure!(outbound["cluster"] == "outbound|9080||reviews-v2.shop.svc.cluster.local", "{outbound}");
    let log = mesh.access_log("shop", "reviews-v2")?;
    let inbound = log.iter().rfind(is_preview).context("no line of the server")?;
    ensure!(inbound["source"].to_string().contains("spiffe://cluster.local/ns/shop/sa/web"), "{inbound}");
    ensure!(inbound["policies"].to_string().contains("preview"), "{inbound}");
    mesh.stop().await
}
