//! What the tests on the node share.

use std::time::Duration;

use palisade_tests::{
    kubernetes::{Node, bookinfo_documents, lacks_for_node},
    wait::until,
};
use tokio::sync::OnceCell;

/// Longer than anything here takes that works.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Whether the image of the tests is there.
static LOADED: OnceCell<()> = OnceCell::const_new();

/// Whether Palisade is installed.
static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// The node, with the image that the tests run; `None` where this machine cannot carry one: the test is skipped.
pub(crate) async fn node() -> anyhow::Result<Option<&'static Node>> {
    if let Some(lack) = lacks_for_node() {
        println!("skipped: {lack}");
        return Ok(None);
    }
    let node = Node::shared().await?;
    LOADED.get_or_try_init(async || node.load_bookinfo(&bookinfo_documents()?.unwrap_or_default()).await).await?;
    Ok(Some(node))
}

/// The node with Palisade on it.
pub(crate) async fn mesh() -> anyhow::Result<Option<&'static Node>> {
    let Some(node) = node().await? else { return Ok(None) };
    INSTALLED.get_or_try_init(async || node.install_palisade("standard").await).await?;
    Ok(Some(node))
}

/// A namespace whose pods get sidecars.
pub(crate) async fn meshed_namespace(node: &Node, name: &str) -> anyhow::Result<()> {
    node.namespace(name).await?;
    node.kubectl(&["label", "namespace", name, "istio-injection=enabled"]).await?;
    // Without it no sidecar can start.
    until("the roots of the mesh", SOON, async || {
        node.kubectl(&["get", "configmap", "-n", name, "palisade-ca-root-cert"]).await
    })
    .await
    .map(drop)
}
