//! Benchmarks of two sidecars beside two Envoys set up as Istio's.

use super::{
    measure::{self, Run, words},
    stand::{HOST, Sidecars},
    table::{Comparison, render},
};

/// Interleaved runs of each row.
const RUNS: usize = 10;

/// Requests through two sidecars with mutual TLS.
///
/// # Errors
/// When a peer does not come up or answers wrongly.
pub async fn sidecar(runs: Option<usize>) -> anyhow::Result<String> {
    let runs = runs.unwrap_or(RUNS);
    let sidecars = Sidecars::start().await?;
    let names: Vec<&str> = sidecars.peers.iter().map(|peer| peer.name).collect();
    let mut table = Vec::new();
    for (what, load, port) in [
        ("HTTP/1.1, 32 connections, CPU µs per request, both sidecars", "--kind http1 --connections 32", 9080),
        ("gRPC unary, 4 connections of 8 streams, CPU µs per call, both sidecars", "--kind grpc --connections 4", 9081),
    ] {
        let mut comparison = Comparison::new(what, &names, 1);
        let mut sides =
            [Comparison::new("of it the caller's", &names, 1), Comparison::new("of it the server's", &names, 1)];
        // The first run warms up and is not counted.
        for run in 0..=runs {
            let mut values = Vec::new();
            for peer in &sidecars.peers {
                let load = words(&format!("{load} --authority {HOST}:{port} --target {}:{port}", peer.address));
                let done = measure::run(peer.pids[0], &peer.pids, &load).await?;
                eprintln!(
                    "{what} {}: {} answers in {:.2} s, {:?}",
                    peer.name, done.seen.answers, done.seen.seconds, done.cpu
                );
                values.push(done);
            }
            if run > 0 {
                let all: Vec<f64> = values.iter().map(Run::us_per_answer).collect();
                comparison.push(&all);
                for (side, comparison) in sides.iter_mut().enumerate() {
                    let of = |run: &Run| {
                        run.cpu.get(side).map_or(0.0, |cpu| cpu.as_secs_f64()) * 1e6 / run.seen.answers as f64
                    };
                    comparison.push(&values.iter().map(of).collect::<Vec<_>>());
                }
            }
        }
        table.push(comparison);
        table.extend(sides);
    }
    sidecars.stop().await?;
    Ok(render(&table))
}
