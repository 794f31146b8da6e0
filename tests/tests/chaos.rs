//! A seeded chaos run: upstreams that misbehave, pods that restart, a control plane that comes and goes, policies and
//! weights that flip, while clients watch that nothing unauthorized, foreign or doubled ever comes back.
//!
//! `PALISADE_LONG=1` runs it for ten minutes instead of fifteen seconds; `PALISADE_SEED` repeats a run.

#[path = "chaos/client.rs"]
mod client;
#[path = "chaos/documents.rs"]
mod documents;
#[path = "chaos/memory.rs"]
mod memory;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    mesh::{Mesh, Options},
    wait::until,
};
use tokio::{task::JoinSet, time::Instant};

use client::Tally;
use memory::Memory;

/// Clients at once.
const CLIENTS: u64 = 8;

/// Requests before memory is looked at for the first time.
const WARMING: u64 = 2_000;

/// After the last request: connections and memory that belonged to requests are given back.
const SETTLE: Duration = Duration::from_secs(60);

/// File descriptors that a proxy of this mesh may hold at rest: listeners, admin pages, logs, pooled connections.
const RESTING_DESCRIPTORS: usize = 160;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_unauthorized_foreign_or_doubled_comes_back() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let is_long = env::var_os("PALISADE_LONG").is_some_and(|value| value == "1");
    let length = if is_long { Duration::from_secs(600) } else { Duration::from_secs(15) };
    let seed = match env::var("PALISADE_SEED") {
        Ok(seed) => seed.parse().context("PALISADE_SEED is a number")?,
        Err(_) => 20_261_121,
    };
    println!("seed {seed}, {length:?}");

    let source = tempfile::tempdir()?;
    std::fs::write(source.path().join("all.yaml"), documents::fixed())?;
    std::fs::write(source.path().join("flip.yaml"), documents::flipping(0))?;
    let mesh = Mesh::start(Options {
        documents: vec![source.path().to_owned()],
        images: checkout::root().join("deploy/demo/images.yaml"),
        ..Options::default()
    })
    .await?;
    let edge = mesh.gateway(documents::GATEWAY, 80)?.to_owned();

    // What requests and edits need once, before what they may not add to.
    let mut first = Load::start(&edge, seed);
    first.until(WARMING).await?;
    for form in 0..documents::FORMS {
        mesh.write("flip.yaml", &documents::flipping(form))?;
        first.until(first.sent() + WARMING / 8).await?;
    }
    let mut sum = first.stop().await?;
    let before = Memory::of(&mesh)?;

    let load = Load::start(&edge, seed);
    let faults = trouble(&mesh, seed, length).await?;
    let during = Memory::of(&mesh);
    sum.merge(load.stop().await?);
    println!("memory before {before:?}, during {during:?}");
    println!("{faults} faults, {sum:?}");
    ensure!(sum.violations.is_empty(), "seed {seed}: {:#?}", sum.violations);
    ensure!(sum.answered > 0 && sum.denied > 0, "seed {seed}: nothing was tried: {sum:?}");
    // Troubled, not broken: most requests of well-behaved moments succeed.
    ensure!(sum.answered > sum.failed, "seed {seed}: more failures than answers: {sum:?}");

    at_rest(&mesh, &before).await?;
    mesh.stop().await
}

/// Clients that ask until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: JoinSet<Tally>,
}

impl Load {
    fn start(edge: &str, seed: u64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client::run(edge.to_owned(), number, seed, Arc::clone(&stop), Arc::clone(&sent)));
        }
        Self { stop, sent, clients }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many requests were sent.
    async fn until(&mut self, count: u64) -> anyhow::Result<()> {
        until("requests", SETTLE, async || {
            ensure!(self.sent() >= count, "{} of {count}", self.sent());
            Ok(())
        })
        .await
    }

    async fn stop(mut self) -> anyhow::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        while let Some(tally) = self.clients.join_next().await {
            sum.merge(tally?);
        }
        Ok(sum)
    }
}

/// Flips documents, restarts sidecars and kills the control plane until the time is over; how often.
async fn trouble(mesh: &Mesh, seed: u64, length: Duration) -> anyhow::Result<u32> {
    let mut dice = client::Dice::new(seed);
    let end = Instant::now() + length;
    let mut faults = 0;
    while Instant::now() < end {
        match dice.roll(10) {
            0 => mesh.kill_control().await?,
            1 => restart_sidecar(mesh, dice.roll(64)).await?,
            _ => mesh.write("flip.yaml", &documents::flipping(dice.roll(documents::FORMS)))?,
        }
        faults += 1;
        tokio::time::sleep(Duration::from_millis(100 + dice.roll(300))).await;
    }
    Ok(faults)
}

/// Kills the sidecar of one pod; `dev` starts it again. Applications end by themselves.
async fn restart_sidecar(mesh: &Mesh, which: u64) -> anyhow::Result<()> {
    let ready = mesh.read_ready()?;
    let sidecars: Vec<i32> =
        ready.pods.iter().filter(|pod| pod.name.starts_with("unruly")).filter_map(|pod| pod.pid).collect();
    let index = usize::try_from(which)? % sidecars.len().max(1);
    // One that is just starting again has no process id to kill.
    if let Some(pid) = sidecars.get(index) {
        tokio::process::Command::new("kill").args(["-KILL", &pid.to_string()]).output().await?;
    }
    Ok(())
}

/// Whether every proxy gave back what requests had held.
async fn at_rest(mesh: &Mesh, before: &Memory) -> anyhow::Result<()> {
    until("proxies at rest", SETTLE, async || {
        let ready = mesh.read_ready()?;
        for pid in ready.pods.iter().filter_map(|pod| pod.pid) {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            ensure!(open <= RESTING_DESCRIPTORS, "process {pid} holds {open} descriptors");
        }
        let now = Memory::of(mesh)?;
        now.is_back_at(before)?;
        println!("memory at rest {now:?}");
        Ok(())
    })
    .await
}
