//! Latency that proxies add at half load: requests leave at fixed times, whatever comes back.

use super::{
    measure::{self, words},
    stand::{Edge, HOST, Policies, Sidecars},
    table::{Comparison, render},
};

/// Interleaved runs of each row.
const RUNS: usize = 10;
/// Quantiles of each run.
const QUANTILES: [&str; 3] = ["p50", "p90", "p99"];

/// Runs the benchmark and gives the table.
///
/// # Errors
/// When a peer does not come up or answers wrongly.
pub async fn run(runs: Option<usize>) -> anyhow::Result<String> {
    let runs = runs.unwrap_or(RUNS);
    let edge = Edge::start(0, Policies::Ten).await?;
    let targets = edge.peers.iter().take(2).map(|peer| (peer.name, edge.namespace, format!("127.0.0.1:{}", peer.http)));
    let targets: Vec<_> = targets.collect();
    let direct = (edge.namespace, "127.0.0.1:9080".to_owned());
    let mut rows = measured("gateway", "bench.example.com", &targets, &direct, runs).await?;
    edge.stop().await?;

    let sidecars = Sidecars::start().await?;
    let targets = sidecars.peers.iter().map(|peer| (peer.name, peer.pids[0], format!("{}:9080", peer.address)));
    let targets: Vec<_> = targets.collect();
    let direct = (sidecars.outside, format!("{}:9080", sidecars.unproxied));
    rows.extend(measured("two sidecars", &format!("{HOST}:9080"), &targets, &direct, runs).await?);
    sidecars.stop().await?;
    Ok(render(&rows))
}

/// Runs against each target and directly, and gives what each adds in microseconds.
async fn measured(
    what: &str,
    authority: &str,
    targets: &[(&str, u32, String)],
    direct: &(u32, String),
    runs: usize,
) -> anyhow::Result<Vec<Comparison>> {
    // Half of what the slowest target does when it is asked for as much as it can.
    let mut rate = f64::INFINITY;
    for (_, namespace, target) in targets {
        let load =
            words(&format!("--kind http1 --connections 32 --seconds 2 --authority {authority} --target {target}"));
        let seen = measure::run(*namespace, &[], &load).await?.seen;
        rate = rate.min(seen.answers as f64 / seen.seconds / 2.0);
    }
    let names: Vec<&str> = targets.iter().map(|(name, ..)| *name).collect();
    let row =
        |quantile: &&str| Comparison::new(format!("{what}, {rate:.0} requests/s, added {quantile}, µs"), &names, 0);
    let mut rows: Vec<Comparison> = QUANTILES.iter().map(row).collect();
    let ask = async |namespace: u32, target: &str| {
        let load = format!(
            "--kind open --connections 32 --seconds 2 --rate {rate:.0} --authority {authority} --target {target}"
        );
        anyhow::Ok(measure::run(namespace, &[], &words(&load)).await?.seen.latencies_us)
    };
    for _ in 0..runs {
        let without = ask(direct.0, &direct.1).await?;
        let mut with = Vec::new();
        for (_, namespace, target) in targets {
            with.push(ask(*namespace, target).await?);
        }
        for (quantile, row) in rows.iter_mut().enumerate() {
            let of = |latencies: &Vec<f64>| latencies.get(quantile).copied().unwrap_or(f64::NAN);
            row.push(&with.iter().map(|latencies| of(latencies) - of(&without)).collect::<Vec<_>>());
        }
    }
    Ok(rows)
}
