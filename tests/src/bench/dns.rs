//! Names that a sidecar answers, with an Envoy and its DNS filter in the same place beside it.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;

use super::{
    measure::{self, words},
    process::Process,
    stand::{envoy_program, open_folder},
    table::{Comparison, render},
};
use crate::{
    mesh::{Mesh, Options},
    wait::until,
};

/// Interleaved runs of each row.
const RUNS: usize = 10;
/// Sockets at once, each with one question under way.
const SOCKETS: usize = 16;
/// How long the first answer may take.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Questions for a Service and for the outside name of a ServiceEntry as a client completes it.
///
/// # Errors
/// When a peer does not come up or answers wrongly. Needs root.
pub async fn run(runs: Option<usize>) -> anyhow::Result<String> {
    let folder = tempfile::Builder::new().prefix("palisade-bench-").tempdir()?;
    open_folder(folder.path())?;
    let documents = folder.path().join("dns.yaml");
    fs::write(&documents, include_str!("stand/dns.yaml"))?;
    let images = folder.path().join("images.yaml");
    fs::write(&images, "\"*\": [sleep, infinity]\n")?;
    let mesh = Mesh::start(Options { documents: vec![documents], images, ..Options::default() }).await?;
    let ours = mesh.pod("bench", "ours-0")?;
    let theirs = mesh.pod("bench", "theirs-0")?;

    let config = folder.path().join("envoy.yaml");
    fs::write(&config, include_str!("stand/envoy-dns.yaml"))?;
    let arguments = format!("--concurrency 2 --disable-hot-restart --log-level warning -c {}", config.display());
    let log = folder.path().join("envoy.log");
    let program = envoy_program(folder.path())?;
    let envoy = Process::start_in(Path::new(&theirs.netns), &log, &program, &words(&arguments))?;
    let pid = u32::try_from(ours.pid.context("no sidecar")?)?;
    let peers = [("palisade", pid), ("envoy", envoy.pid())];

    let mut table = Vec::new();
    for (what, name) in [("a Service", "server.bench.svc.cluster.local"), ("an outside host", "www.example.com")] {
        let load = |seconds: f64| {
            let text = format!(
                "--kind dns --connections {SOCKETS} --seconds {seconds} --authority {name} --target 127.0.0.1:15053"
            );
            words(&text)
        };
        for (peer, pid) in peers {
            until(peer, READY_LIMIT, async || measure::run(pid, &[pid], &load(0.1)).await.map(drop)).await?;
        }
        let row = |unit: &str, digits| {
            Comparison::new(format!("{what}, {SOCKETS} sockets, {unit}"), &peers.map(|p| p.0), digits)
        };
        let mut rows = [row("answers/s", 0), row("CPU µs per answer", 1), row("p50, µs", 0), row("p99, µs", 0)];
        // The first run warms up and is not counted.
        for run in 0..=runs.unwrap_or(RUNS) {
            let mut values: [Vec<f64>; 4] = Default::default();
            for (peer, pid) in peers {
                let done = measure::run(pid, &[pid], &load(2.0)).await.with_context(|| peer.to_owned())?;
                let quantile = |index: usize| done.seen.latencies_us.get(index).copied().unwrap_or(f64::NAN);
                let seen =
                    [done.seen.answers as f64 / done.seen.seconds, done.us_per_answer(), quantile(0), quantile(2)];
                eprintln!("{what}, {peer}: {seen:?}");
                values.iter_mut().zip(seen).for_each(|(values, value)| values.push(value));
            }
            if run > 0 {
                rows.iter_mut().zip(&values).for_each(|(row, values)| row.push(values));
            }
        }
        table.extend(rows);
    }
    mesh.stop().await?;
    Ok(render(&table))
}
