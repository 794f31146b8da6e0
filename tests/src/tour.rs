//! The tour of `make demo`: each step says what it does, does it, shows what came back and checks it.

use std::{io::IsTerminal, time::Instant};

use anyhow::Context;

use crate::{
    checkout,
    mesh::{Mesh, Options},
};

mod breaker;
pub mod cluster;
mod egress;
mod narrator;
mod outage;
mod policy;
mod routing;
mod traffic;
mod trial;

use narrator::Narrator;

/// The edge gateway of the demo's documents and its port.
pub(crate) const EDGE: &str = "bookinfo/edge";

/// Walks through the demo mesh; with `stays`, keeps serving until Ctrl-C afterwards.
///
/// # Errors
/// When a step does not show what it promised.
pub async fn run(stays: bool) -> anyhow::Result<()> {
    let narrator = Narrator::new(std::io::stdout().is_terminal());
    let demo = checkout::root().join("deploy/demo");
    let begin = Instant::now();
    narrator.say("starting: control plane, edge gateway, eight pods with a sidecar each, one pod without");
    let mesh = Mesh::start(Options {
        name: "demo".to_owned(),
        documents: vec![demo.join("documents")],
        images: demo.join("images.yaml"),
        arguments: Vec::new(),
    })
    .await?;
    narrator.say(&format!("ready after {:.1} s", begin.elapsed().as_secs_f64()));
    let edge = mesh.gateway(EDGE, 80)?.to_owned();
    narrator.say(&format!("the page: http://{edge}/productpage"));
    narrator.say(&format!("documents (edit them, they are live): {}", mesh.folder().join("documents").display()));

    let walk = async {
        traffic::page(&narrator, &mesh, &edge).await.context("the page through the edge")?;
        traffic::stranger(&narrator, &mesh).await.context("a call from outside the mesh")?;
        policy::denial(&narrator, &mesh, &edge).await.context("a denial, explained")?;
        routing::canary(&narrator, &mesh, &edge).await.context("a canary")?;
        routing::jason(&narrator, &mesh, &edge).await.context("a header match")?;
        routing::edits(&narrator, &mesh, &edge).await.context("edits under load")?;
        outage::control_plane(&narrator, &mesh, &edge).await.context("the control plane's death")?;
        outage::rotation(&narrator).await.context("certificates rotating")?;
        policy::broken(&narrator, &mesh, &edge).await.context("a broken document")?;
        trial::unit_tests(&narrator, &mesh).await.context("unit tests of policies")?;
        trial::dry_run(&narrator, &mesh, &edge).await.context("a dry run")?;
        breaker::opens_and_closes(&narrator, &mesh, &edge).await.context("a circuit breaker")?;
        egress::allowlist(&narrator).await.context("the way out")
    };
    let result = walk.await;
    if result.is_err() {
        eprintln!("{}", mesh.said());
        return result;
    }
    narrator.say(&format!("every step showed what it promised; {:.0} s in all", begin.elapsed().as_secs_f64()));
    if stays {
        narrator.say(&format!("still serving http://{edge}/productpage; Ctrl-C ends it"));
        tokio::signal::ctrl_c().await?;
    }
    mesh.stop().await
}
