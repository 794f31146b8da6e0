//! Steps about what goes on without help: the control plane's death, and certificates of five seconds.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::{EDGE, Narrator};
use crate::{
    checkout,
    http::{Client, text},
    load::Load,
    mesh::{Mesh, Options},
    wait::until,
};

/// Lifetime of the certificates in the rotation step.
const CERTIFICATE_TTL: Duration = Duration::from_secs(5);

/// How long that step sends load: several lifetimes.
const ROTATION: Duration = Duration::from_secs(16);

pub(super) async fn control_plane(narrator: &Narrator, mesh: &Mesh, edge: &str) -> anyhow::Result<()> {
    narrator.step("The control plane is killed and comes back: traffic and policy go on");
    let load = Load::start(edge, "/productpage", &[], 4);
    until("load", Duration::from_secs(10), async || {
        ensure!(load.sent() > 100, "only {} requests", load.sent());
        Ok(())
    })
    .await?;
    narrator.does(&format!("kill -KILL {}   # palisade-control", mesh.read_ready()?.control.pid.unwrap_or_default()));
    mesh.kill_control().await?;
    let before = load.sent();
    until("load after the restart", Duration::from_secs(10), async || {
        ensure!(load.sent() > before + 100, "only {} requests", load.sent());
        Ok(())
    })
    .await?;
    let count = load.stop().await?;
    narrator
        .shows(&format!("{} requests, statuses {:?}, without answer {}", count.total, count.statuses, count.failed));
    ensure!(count.not_ok() == 0, "{} requests failed: {:?}", count.not_ok(), count.examples);
    narrator.holds("0 failed requests; the proxies kept their configuration and took up the new control plane's");
    Ok(())
}

pub(super) async fn rotation(narrator: &Narrator) -> anyhow::Result<()> {
    narrator.step("A second mesh whose certificates live 5 seconds: they rotate under load");
    let demo = checkout::root().join("deploy/demo");
    let mesh = Mesh::start(Options {
        name: "demo-rotation".to_owned(),
        documents: vec![demo.join("documents")],
        images: demo.join("images.yaml"),
        arguments: vec!["--cert-ttl".to_owned(), CERTIFICATE_TTL.as_secs().to_string()],
    })
    .await?;
    let edge = mesh.gateway(EDGE, 80)?.to_owned();
    let load = Load::start(&edge, "/productpage", &[], 2);
    tokio::time::sleep(ROTATION).await;
    let count = load.stop().await?;
    narrator
        .shows(&format!("{} requests, statuses {:?}, without answer {}", count.total, count.statuses, count.failed));
    let issued = certificates(&mesh).await?;
    narrator.shows(&format!("certificates that the edge gateway obtained meanwhile: {issued}"));
    ensure!(count.not_ok() == 0, "{} requests failed: {:?}", count.not_ok(), count.examples);
    ensure!(issued >= 4, "the certificates did not rotate");
    narrator.holds("0 failed requests over several lifetimes");
    mesh.stop().await
}

/// The edge gateway's count of certificates obtained.
async fn certificates(mesh: &Mesh) -> anyhow::Result<u64> {
    let gateway = mesh.ready().gateways.iter().find(|gateway| gateway.name == EDGE).context("no edge gateway")?;
    let metrics = gateway.metrics.as_deref().context("the ready file names no metrics URL for the gateway")?;
    let address = metrics.trim_start_matches("http://").trim_end_matches("/metrics").trim_end_matches('/');
    let answer = Client::new(address).get("/metrics", &[]).await?;
    let page = text(&answer);
    let line = page.lines().find(|line| line.starts_with("palisade_certificates_issued_total "));
    let value = line.and_then(|line| line.split(' ').nth(1)).with_context(|| format!("no such metric in {page}"))?;
    Ok(value.parse()?)
}
