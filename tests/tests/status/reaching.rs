//! Without a URL the control plane is found by the kubeconfig: which pods are chosen, and what is said where it cannot be.
//!
//! The last step, bytes through the API server to a pod, needs a kubelet: simulated nodes have none. That it is tried, at which
//! pods, and that its failure is told, is what shows here.

use anyhow::ensure;
use palisade_control::cluster::ready_pods;
use palisade_tests::{checkout, kubernetes::Cluster, wait::until};

use crate::control::{SOON, Stand};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: palisade-control, namespace: reaching}
spec: {selector: {app: control}, ports: [{name: grpc, port: 15012}]}
";

/// A pod of the control plane; without a node it never becomes ready.
fn pod(name: &str, node: &str) -> String {
    let node = if node.is_empty() { "schedulerName: none".to_owned() } else { format!("nodeName: {node}") };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: reaching, labels: {{app: control}}}}
spec: {{{node}, containers: [{{name: control, image: 'palisade-control:1', ports: [{{containerPort: 15014}}]}}]}}
"
    )
}

/// What `palisade proxy status` says when it is told which cluster and nothing else.
async fn said(stand: &Stand<'_>) -> anyhow::Result<String> {
    let output = stand
        .cluster
        .command(checkout::binary("palisade")?)
        .args(["proxy", "status", "--control-namespace", "reaching", "--kubeconfig"])
        .arg(stand.cluster.kubeconfig())
        .env_remove("PALISADE_CONTROL")
        .output()
        .await?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn ready_pods_of_the_service_are_tried_and_failures_are_told() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "reaching").await?;
    let told = said(&stand).await?;
    ensure!(told.contains("there is no Service reaching/palisade-control") && told.contains("--control"), "{told}");

    cluster.apply(&format!("{SERVICE}---{}", pod("control-2", ""))).await?;
    let told = said(&stand).await?;
    ensure!(told.contains("no pod of Service reaching/palisade-control is ready (1 are there)"), "{told}");

    cluster.apply(&format!("{}---{}", pod("control-0", "fake-0"), pod("control-1", "fake-0"))).await?;
    until("two ready pods", SOON, async || {
        let pods = ready_pods(stand.client.clone(), "reaching", "palisade-control").await?;
        ensure!(pods == ["control-0", "control-1"], "{pods:?}");
        Ok(())
    })
    .await?;
    let told = said(&stand).await?;
    ensure!(told.contains("port 15014 cannot be forwarded: reaching/control-0: "), "{told}");
    ensure!(told.contains("; reaching/control-1: ") && !told.contains("control-2"), "{told}");
    Ok(())
}
