//! Steps about what has to be there: a node, Palisade, and Bookinfo with its sidecars.

use std::time::Instant;

use anyhow::ensure;

use super::{BOOKINFO, Narrator, document};
use crate::{kubernetes::Node, wait::until};

const SOON: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) async fn node(narrator: &Narrator, books: &str) -> anyhow::Result<Node> {
    narrator.step("A Kubernetes with one real node, in namespaces of its own on this machine");
    let begin = Instant::now();
    let node = Node::start().await?;
    narrator.does("kubectl get nodes");
    narrator.shows(&node.kubectl(&["get", "nodes", "-o", "wide", "--no-headers"]).await?);
    let images = [books, &document("kubernetes/shop.yaml")?, &document("kubernetes/around.yaml")?].concat();
    node.load_bookinfo(&images).await?;
    narrator.holds(&format!(
        "etcd, API server, controllers, scheduler, containerd, kubelet, kube-proxy and DNS after {:.1} s",
        begin.elapsed().as_secs_f64()
    ));
    Ok(node)
}

pub(super) async fn palisade(narrator: &Narrator, node: &Node) -> anyhow::Result<()> {
    narrator.step("Palisade is installed");
    narrator.does("kubectl apply --server-side -f deploy/kubernetes/crds.yaml -f deploy/kubernetes/palisade.yaml");
    let begin = Instant::now();
    node.install_palisade("standard").await?;
    narrator.does("kubectl get pods -n palisade-system");
    narrator.shows(&node.kubectl(&["get", "pods", "-n", "palisade-system"]).await?);
    narrator.holds(&format!("the control plane is ready after {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(())
}

pub(super) async fn bookinfo(narrator: &Narrator, node: &Node, books: &str) -> anyhow::Result<()> {
    narrator.step("Istio's own Bookinfo, unmodified, gets a sidecar beside each pod");
    narrator.does(&format!("kubectl label namespace {BOOKINFO} istio-injection=enabled"));
    narrator.does(&format!("kubectl apply -n {BOOKINFO} -f samples/bookinfo/platform/kube/bookinfo.yaml"));
    let begin = Instant::now();
    node.namespace(BOOKINFO).await?;
    node.kubectl(&["label", "namespace", BOOKINFO, "istio-injection=enabled"]).await?;
    roots(node, BOOKINFO).await?;
    node.apply_to(BOOKINFO, books).await?;
    let names = node.kubectl(&["get", "deployments", "-n", BOOKINFO, "-o", "name"]).await?;
    for name in names.lines() {
        node.rollout(BOOKINFO, name).await?;
    }
    narrator.does(&format!("kubectl get pods -n {BOOKINFO}"));
    let pods = node.kubectl(&["get", "pods", "-n", BOOKINFO, "--no-headers"]).await?;
    narrator.shows(&pods);
    ensure!(pods.lines().count() == 6 && pods.lines().all(|line| line.contains("2/2")), "a sidecar is missing");
    narrator
        .holds(&format!("six pods, each with a sidecar that started first: {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// Waits until a new namespace has what sidecars verify the control plane by.
pub(super) async fn roots(node: &Node, namespace: &str) -> anyhow::Result<()> {
    until("the roots of the mesh", SOON, async || {
        node.kubectl(&["get", "configmap", "-n", namespace, "palisade-ca-root-cert"]).await.map(drop)
    })
    .await
}
