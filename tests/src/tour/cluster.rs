//! The tour of `make demo-kubernetes`: a real Kubernetes with one node, Palisade installed on it, Istio's own Bookinfo in the mesh.

use std::{io::IsTerminal, time::Instant};

use anyhow::Context;

use super::Narrator;
use crate::{
    checkout,
    kubernetes::{Node, bookinfo_documents, lacks_for_node},
};

mod edge;
mod policy;
mod setup;
mod way_out;

/// Namespace of the books.
const BOOKINFO: &str = "bookinfo";

/// Walks through the mesh on a node; with `stays`, keeps serving until Ctrl-C afterwards.
///
/// # Errors
/// When a step does not show what it promised.
pub async fn run(stays: bool) -> anyhow::Result<()> {
    if let Some(lack) = lacks_for_node() {
        anyhow::bail!("this machine cannot carry a node: {lack}");
    }
    let books = bookinfo_documents()?.context("Istio's samples are not here: run deploy/scripts/prerequisites test")?;
    let narrator = Narrator::new(std::io::stdout().is_terminal());
    let begin = Instant::now();
    let node = setup::node(&narrator, &books).await.context("a node")?;
    let walk = async {
        setup::palisade(&narrator, &node).await.context("the installation")?;
        setup::bookinfo(&narrator, &node, &books).await.context("Bookinfo in the mesh")?;
        let page = edge::serves(&narrator, &node).await.context("a Gateway behind a LoadBalancer")?;
        policy::is_enforced(&narrator, &node, &page).await.context("policies")?;
        policy::denial(&narrator, &node, &page).await.context("a denial, explained")?;
        way_out::is_locked(&narrator, &node).await.context("the way out")?;
        anyhow::Ok(page)
    };
    let page = match walk.await {
        Ok(page) => page,
        Err(error) => {
            for namespace in ["palisade-system", BOOKINFO, "shop", "around"] {
                eprintln!("{}", node.said_of(namespace).await);
            }
            return Err(error);
        }
    };
    narrator.say("");
    narrator.say(&format!("every step showed what it promised; {:.0} s in all", begin.elapsed().as_secs_f64()));
    if stays {
        narrator
            .say(&format!("still serving http://{}/productpage; Ctrl-C ends it and removes everything", page.address));
        narrator.say(&format!(
            "kubectl: sudo nsenter --net={} {} --kubeconfig={} get pods -A",
            node.network(),
            node.kubectl_program().display(),
            node.kubeconfig().display()
        ));
        tokio::signal::ctrl_c().await?;
    }
    Ok(())
}

/// A document of the demo.
fn document(file: &str) -> anyhow::Result<String> {
    let path = checkout::root().join("deploy/demo").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// What a pod's application is answered.
async fn call(
    narrator: &Narrator,
    node: &Node,
    namespace: &str,
    pod: &str,
    url: &str,
) -> anyhow::Result<serde_json::Value> {
    narrator.does(&format!("kubectl exec -n {namespace} {pod} -- bookinfo call {url}"));
    let answer = node.call(namespace, pod, &[url]).await?;
    let text = answer["body"].as_str().or(answer["error"].as_str()).unwrap_or_default();
    let shown = if answer["status"] == 200 { "" } else { text };
    narrator.shows(format!("{} {shown}", answer["status"]).trim_end());
    Ok(answer)
}
