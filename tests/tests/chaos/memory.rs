//! Memory of all proxies and of the control plane: what it was after the first requests, it is again after the last.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, ensure};
use palisade_tests::mesh::Mesh;

/// By how much a process may be above its like before the trouble: the denials that it remembers (4 MiB) and as much again. A request that
/// leaks a kilobyte passes it within ten thousand requests, which is what a short run has.
const BAND_KIB: u64 = 8 * 1024;

/// Kinds of processes, which are alike in what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Control,
    Gateway,
    Sidecar,
}

/// `RssAnon` by kind: the most that a process of that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory(BTreeMap<Kind, u64>);

impl Memory {
    /// What all processes hold now.
    pub(crate) fn of(mesh: &Mesh) -> anyhow::Result<Self> {
        let ready = mesh.read_ready()?;
        let gateways = ready.gateways.iter().filter_map(|gateway| gateway.pid.and_then(|pid| i32::try_from(pid).ok()));
        let sidecars = ready.pods.iter().filter_map(|pod| pod.pid);
        let processes = gateways
            .map(|pid| (Kind::Gateway, pid))
            .chain(sidecars.map(|pid| (Kind::Sidecar, pid)))
            .chain(ready.control.pid.map(|pid| (Kind::Control, pid)));
        let mut most = BTreeMap::new();
        for (kind, pid) in processes {
            let kib = most.entry(kind).or_default();
            *kib = anonymous(pid)?.max(*kib);
        }
        ensure!(most.len() == 3, "processes are missing: {most:?}");
        Ok(Self(most))
    }

    /// Whether no process holds much more than its like did.
    pub(crate) fn is_back_at(&self, before: &Self) -> anyhow::Result<()> {
        for (kind, kib) in &self.0 {
            let allowed = before.0.get(kind).copied().unwrap_or_default() + BAND_KIB;
            ensure!(*kib <= allowed, "{kind:?}: {kib} KiB, at most {allowed} are expected; before: {before:?}");
        }
        Ok(())
    }
}

fn anonymous(pid: i32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())
}
