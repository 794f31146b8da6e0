//! What a control plane takes that reads a cluster of many pods. `PALISADE_TEST_PODS` makes them more.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{checkout, kubernetes::Cluster, wait::until};

use super::process::{page, start};

/// Pods of the test, and how many of them a simulated node takes.
const PODS: usize = 1_000;
const PODS_PER_NODE: usize = 100;

fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_take_little_memory() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let count = std::env::var("PALISADE_TEST_PODS").ok().map_or(Ok(PODS), |text| text.parse())?;
    cluster.fake_nodes(count.div_ceil(PODS_PER_NODE)).await?;
    cluster.namespace("many").await?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let (listen, admin) = (cluster.connector().free_address().await?, cluster.connector().free_address().await?);
    let mut control = cluster.command(checkout::binary("palisade-control")?);
    control
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(["--control-namespace", "many"])
        .args([format!("--listen={listen}"), format!("--admin={admin}")]);
    let control = start(&mut control, &path("control.log"))?;
    let pid = control.id().context("it has ended")?;
    let metrics = format!("http://{admin}/metrics");
    until("a control plane", super::SOON, async || page(&cluster, &metrics).await).await?;
    let empty = resident_kib(pid)?;
    let deployment = format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web, namespace: many}}, spec: {{replicas: {count}, selector: \
         {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web, palisade.dev/proxy: sidecar}}}}, spec: \
         {{containers: [{{name: web, image: 'web:1', ports: [{{containerPort: 8080}}]}}]}}}}}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: many}}, spec: {{selector: {{app: web}}, ports: \
         [{{name: http, port: 80, targetPort: 8080}}]}}}}"
    );
    cluster.apply(&deployment).await?;
    let limit = Duration::from_secs(60 + count as u64 / 10);
    until("pods", limit, async || {
        let ready = ["get", "deployment", "web", "-n", "many", "-o", "jsonpath={.status.readyReplicas}"];
        let ready = cluster.kubectl(&ready).await?;
        ensure!(ready.trim() == count.to_string(), "{ready} of {count} are ready");
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = resident_kib(pid)?;
    let each = held.saturating_sub(empty) * 1024 / count as u64;
    eprintln!("control: {empty} KiB without pods, {held} KiB with {count}, {each} bytes each");
    cluster.kubectl(&["delete", "namespace", "many", "--wait=false"]).await?;
    ensure!(each < 40_000, "{each} bytes each");
    Ok(())
}
