//! Anonymous memory of processes: idle, per idle connection, and with many routes.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::{
    measure::{Prepared, words},
    process::anonymous_memory,
    stand::{Edge, Policies, Sidecars},
    table::{Comparison, render},
};

/// Idle connections of one measurement.
const CONNECTIONS: u64 = 1000;
/// Routes of the large configuration.
const ROUTES: usize = 5000;
/// Allocators give memory back after a while; this is part of the method, not a wait for something.
const SETTLE: Duration = Duration::from_secs(2);

/// Runs the benchmark and gives the table. Each run has processes of its own.
///
/// # Errors
/// When a peer does not come up or answers wrongly.
pub async fn run(runs: Option<usize>) -> anyhow::Result<String> {
    let peers = ["palisade", "envoy"];
    let mut gateway = Comparison::new("gateway, ten routes and policies, idle, MB", &peers, 1);
    let mut plain = Comparison::new("per idle connection, plaintext, KiB", &peers, 1);
    let mut routes = Comparison::new(format!("gateway with {ROUTES} more routes, MB"), &peers[..1], 1);
    let mut sidecar = Comparison::new("sidecar, idle, MB", &peers, 1);
    let mut mutual = Comparison::new("per idle connection, mutual TLS, KiB", &peers, 1);
    for _ in 0..runs.unwrap_or(3) {
        let edge = Edge::start(0, Policies::Ten).await?;
        let (mut idle, mut per_connection) = (Vec::new(), Vec::new());
        for peer in edge.peers.iter().take(peers.len()) {
            let load = format!("--kind idle --connections {CONNECTIONS} --target 127.0.0.1:{}", peer.http);
            idle.push(megabytes(peer.pid).await?);
            per_connection.push(connections(edge.namespace, peer.pid, &load).await?);
        }
        gateway.push(&idle);
        plain.push(&per_connection);
        edge.stop().await?;

        let edge = Edge::start(ROUTES, Policies::Ten).await?;
        let ours = edge.peers.first().context("no gateway")?;
        routes.push(&[megabytes(ours.pid).await?]);
        edge.stop().await?;

        let sidecars = Sidecars::start().await?;
        let (mut idle, mut per_connection) = (Vec::new(), Vec::new());
        for peer in &sidecars.peers {
            let folder = sidecars.folder.path().display();
            let load = format!(
                "--kind idle --connections {CONNECTIONS} --target {}:9080 --sni outbound_.9080_._.server.bench.svc.cluster.local \
                 --alpn istio-http/1.1,istio,http/1.1 --certificate {folder}/caller-chain.pem --key {folder}/caller-key.pem",
                peer.pod
            );
            let [_, server] = peer.pids;
            idle.push(megabytes(server).await?);
            // From this machine's side of the mesh's network: no proxy of the caller's is in between.
            per_connection.push(connections(sidecars.outside, server, &load).await?);
        }
        sidecar.push(&idle);
        mutual.push(&per_connection);
        sidecars.stop().await?;
    }
    Ok(format!("{}\n{}", render(&[gateway, plain, sidecar, mutual]), render(&[routes])))
}

async fn megabytes(pid: u32) -> anyhow::Result<f64> {
    sleep(SETTLE).await;
    Ok(anonymous_memory(pid)? as f64 * 1024.0 / 1e6)
}

/// What one connection adds, in KiB: the difference between half of them and all of them, so that what the first ones
/// cost once is not counted.
async fn connections(namespace: u32, pid: u32, load: &str) -> anyhow::Result<f64> {
    let first = Prepared::start(namespace, &words(load)).await?;
    sleep(SETTLE).await;
    let before = anonymous_memory(pid)?;
    let second = Prepared::start(namespace, &words(load)).await?;
    sleep(SETTLE).await;
    let after = anonymous_memory(pid)?;
    for prepared in [first, second] {
        ensure!(prepared.run(&[pid]).await?.seen.answers == CONNECTIONS, "connections are missing");
    }
    Ok(after.saturating_sub(before) as f64 / CONNECTIONS as f64)
}
