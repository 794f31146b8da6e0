//! Two control planes of two revisions beside each other: each leads, reads, injects and says what is its own.

use anyhow::ensure;
use palisade_tests::{kubernetes::Cluster, wait::until};
use serde_json::Value;

use crate::{
    control::{Replica, SOON, Stand, condition},
    fleet::{Proxy, Service},
    istio::CRD,
};

/// A pod with our sidecar, of a revision.
fn pod(name: &str, revision: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: revisions, labels: {{app: {name}, palisade.dev/proxy: sidecar, istio.io/rev: {revision}}}}}
spec: {{nodeName: fake-0, containers: [{{name: app, image: 'app:1', ports: [{{containerPort: 8080}}]}}]}}
"
    )
}

/// A policy of a revision; of none where it is empty.
fn policy(name: &str, revision: &str) -> String {
    let labels = if revision.is_empty() { String::new() } else { format!(", labels: {{istio.io/rev: {revision}}}") };
    format!(
        "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: revisions{labels}}}
spec: {{rules: [{{from: [{{source: {{namespaces: [a]}}}}]}}]}}
"
    )
}

async fn object(stand: &Stand<'_>, name: &str) -> anyhow::Result<Value> {
    stand.get("security.istio.io/v1", "authorizationpolicies", "revisions", name).await
}

async fn becomes(stand: &Stand<'_>, replica: &Replica, name: &str, expected: &str) -> anyhow::Result<()> {
    until(expected, SOON, async || {
        let object = object(stand, name).await?;
        let (status, _, generation, message) = condition(&object["status"]["conditions"], "Enforced")?;
        ensure!(Some(generation) == object["metadata"]["generation"].as_i64(), "{object}");
        ensure!(format!("{status} {message}").starts_with(expected), "{name}: {status} {message} {}", replica.said());
        Ok(())
    })
    .await
}

/// Documents that the proxy of a pod is told about.
async fn told(stand: &Stand<'_>, replica: &Replica, pod: &str) -> anyhow::Result<String> {
    let shown = stand.palisade(replica, &["proxy", "config", &format!("revisions/{pod}"), "-o", "wide"]).await?;
    ensure!(shown.status.success(), "{shown:?}");
    Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_revisions_do_not_disturb_each_other() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "revisions").await?;
    cluster.apply(CRD).await?;
    let established = "--for=condition=Established";
    cluster.kubectl(&["wait", established, "crd/authorizationpolicies.security.istio.io", "--timeout=30s"]).await?;
    let documents = [("plain", ""), ("of-canary", "canary"), ("of-tag", "next"), ("of-nobody", "gone")]
        .map(|(name, revision)| policy(name, revision))
        .concat();
    cluster.apply(&format!("{}{}{documents}", pod("old", "default"), pod("new", "canary"))).await?;
    cluster.kubectl(&["wait", "-n", "revisions", "--for=condition=Ready", "pod", "--all", "--timeout=30s"]).await?;
    let default = stand.control("default").await?;
    let canary = stand.control_with("canary", &["--revision", "canary", "--revision-tag", "next"]).await?;
    for lease in ["palisade-control-leader", "palisade-control-leader-canary"] {
        until("both lead", SOON, async || {
            let lease = stand.get("coordination.k8s.io/v1", "leases", "palisade-system", lease).await?;
            ensure!(lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty()), "{lease}");
            Ok(())
        })
        .await?;
    }

    // Each knows its own proxies alone, and misses none of the other's.
    let (to_default, to_canary) = (Service::new(&stand, &[&default]).await?, Service::new(&stand, &[&canary]).await?);
    let _old = Proxy::start(&stand, &to_default, "revisions", "old").await?;
    let _new = Proxy::start(&stand, &to_canary, "revisions", "new").await?;
    becomes(&stand, &default, "plain", "True Enforced 1/1").await?;
    becomes(&stand, &canary, "of-canary", "True Enforced 1/1").await?;
    becomes(&stand, &canary, "of-tag", "True Enforced 1/1").await?;
    let (old, new) = (told(&stand, &default, "old").await?, told(&stand, &canary, "new").await?);
    for (name, by_default, by_canary) in
        [("plain", true, true), ("of-canary", false, true), ("of-tag", false, true), ("of-nobody", false, false)]
    {
        let name = format!("AuthorizationPolicy revisions/{name}");
        ensure!(old.contains(&name) == by_default, "{name}: {old}");
        ensure!(new.contains(&name) == by_canary, "{name}: {new}");
    }
    ensure!(object(&stand, "of-nobody").await?["status"].is_null(), "it is nobody's");

    // One writes each status, and nobody writes it again.
    let written = async || {
        let mut versions = Vec::new();
        for name in ["plain", "of-canary", "of-tag"] {
            versions.push(object(&stand, name).await?["metadata"]["resourceVersion"].clone());
        }
        let roots = [
            "get",
            "configmap",
            "-n",
            "revisions",
            "palisade-ca-root-cert",
            "-o",
            "jsonpath={.metadata.resourceVersion}",
        ];
        versions.push(cluster.kubectl(&roots).await?.into());
        anyhow::Ok(versions)
    };
    let before = written().await?;
    let (by_default, by_canary) = (
        stand.writes(&default, "AuthorizationPolicy", "Done").await?,
        stand.writes(&canary, "AuthorizationPolicy", "Done").await?,
    );
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    ensure!(written().await? == before, "somebody goes on writing");
    ensure!(by_default >= 1 && by_canary >= 2, "{by_default} {by_canary}");

    // An object goes over to the other one with its label: both what is told and who says so.
    cluster.apply(&policy("plain", "next")).await?;
    until("another owner", SOON, async || {
        let old = told(&stand, &default, "old").await?;
        ensure!(!old.contains("AuthorizationPolicy revisions/plain"), "{old}");
        ensure!(stand.writes(&canary, "AuthorizationPolicy", "Done").await? >= by_canary, "not yet");
        Ok(())
    })
    .await?;
    default.stop().await?;
    canary.stop().await
}
