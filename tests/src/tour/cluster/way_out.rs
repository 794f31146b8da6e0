//! A step about the way out: one host for one identity.

use anyhow::ensure;

use super::{Narrator, call, document, setup};
use crate::kubernetes::Node;

pub(super) async fn is_locked(narrator: &Narrator, node: &Node) -> anyhow::Result<()> {
    narrator.step("The way out is locked: one host for one identity");
    narrator.does("kubectl apply -f deploy/demo/kubernetes/shop.yaml");
    // The namespace first: pods take the roots of the mesh from it.
    let documents = document("kubernetes/shop.yaml")?;
    node.apply(documents.split("---\n").next().unwrap_or_default()).await?;
    setup::roots(node, "shop").await?;
    node.apply(&documents).await?;
    node.kubectl(&["wait", "-n", "shop", "pod/clerk", "pod/guest", "--for=condition=Ready", "--timeout=60s"]).await?;
    node.palisade(&["wait", "CedarPolicy/shop/way-out", "Sidecar/shop/default"]).await?;
    for (pod, host, expected) in
        [("clerk", "one", 200), ("guest", "one", 403), ("clerk", "two", 403), ("clerk", "three", 502)]
    {
        let answer = call(narrator, node, "shop", pod, &format!("http://{host}.outside.example/orders")).await?;
        ensure!(answer["status"] == expected, "{pod} to {host}: {answer}");
    }
    // The hosts are there: who is not in the mesh reaches them.
    for host in ["two", "three"] {
        let answer = node.call("around", "stranger", &[&format!("http://{host}.outside.example/orders")]).await?;
        ensure!(answer["status"] == 200, "{host} does not answer: {answer}");
    }
    narrator.holds(
        "permitted to clerk; refused to guest; another host refused; a host that no document names does not exist",
    );
    Ok(())
}
