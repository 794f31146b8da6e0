//! What many policies cost a request through the gateway, beside Envoy's RBAC filter.

use super::{
    measure::{self, Run, words},
    stand::{Edge, Policies},
    table::{Comparison, render},
};

/// Interleaved runs of each row.
const RUNS: usize = 5;

/// Requests through the gateway with ten policies on it, and with more and more. None of them is about any request, so
/// that all must be looked at, or known to be beside the point.
///
/// # Errors
/// When a peer does not come up or answers wrongly.
pub async fn run(runs: Option<usize>) -> anyhow::Result<String> {
    let mut table = Vec::new();
    for count in [10, 100, 1_000, 10_000] {
        let edge = Edge::start(0, Policies::Many(count)).await?;
        // HAProxy would need a list of its own.
        let peers: Vec<_> = edge.peers.iter().take(2).collect();
        let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
        let mut comparison =
            Comparison::new(format!("{count} policies, HTTP/1.1, 32 connections, CPU µs per request"), &names, 1);
        // The first run warms up and is not counted.
        for run in 0..=runs.unwrap_or(RUNS) {
            let mut values = Vec::new();
            for peer in &peers {
                let load = words(&format!("--kind http1 --connections 32 --target 127.0.0.1:{}", peer.http));
                let done = measure::run(edge.namespace, &[peer.pid], &load).await?;
                eprintln!("{count} policies, {}: {} answers, {:?}", peer.name, done.seen.answers, done.cpu);
                values.push(Run::us_per_answer(&done));
            }
            if run > 0 {
                comparison.push(&values);
            }
        }
        table.push(comparison);
        edge.stop().await?;
    }
    Ok(render(&table))
}
