//! The process that holds a cluster's namespaces, and orders to it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use crate::checkout;

use super::programs::Site;

/// How long another cluster of this machine may run on before this one gives up.
const TURN: Duration = Duration::from_secs(20 * 60);

/// How long an order may take; stopping a process takes up to 5 s.
const ORDER: Duration = Duration::from_secs(15);

/// A running `tests/kubernetes/hold`. What it holds ends with it, and it ends with this process at the latest.
#[derive(Debug)]
pub(super) struct Holder {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    network: Arc<File>,
}

impl Holder {
    /// Makes the namespaces, and waits for this cluster's turn on the machine.
    pub(super) fn start(folder: &Path, lock: &Path, site: Site) -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::Uid::effective().is_root(),
            "the Kubernetes of the tests runs in a network namespace of its own, which takes root"
        );
        let more: &[&str] = if site == Site::Node { &["--mount", "--mount-proc"] } else { &[] };
        let mut child = Command::new("unshare")
            .args(["--net", "--pid", "--kill-child"])
            .args(more)
            .arg("--")
            .arg(checkout::root().join("tests/kubernetes/hold"))
            .args([folder, lock])
            .args((site == Site::Node).then_some("node"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log/hold"))?)
            // Ctrl-C on a terminal ends this process, which ends the holder.
            .process_group(0)
            .spawn()
            .context("cannot run `unshare` (util-linux)")?;
        let pid = child.id();
        let output = child.stdout.take().context("no standard output")?;
        let orders = child.stdin.take();
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        // INVARIANT: dropped on every way out from here, so that the holder ends.
        let network = Arc::new(File::open(format!("/proc/{pid}/ns/net"))?);
        let mut holder = Self { child, orders, answers, network };
        let said = || std::fs::read_to_string(folder.join("log/hold")).unwrap_or_default();
        let answer = match holder.answers.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("another cluster runs on this machine: waiting for its end");
                holder.answers.recv_timeout(TURN)
            }
            answer => answer,
        };
        match answer {
            Ok(_) => {
                // Only now is it sure that `unshare` had made the namespace.
                holder.network = Arc::new(File::open(format!("/proc/{pid}/ns/net"))?);
                Ok(holder)
            }
            Err(RecvTimeoutError::Timeout) => bail!("another cluster runs on this machine since {TURN:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("this machine lets nobody make the namespaces of a cluster: {}", said())
            }
        }
    }

    /// The cluster's network namespace.
    pub(super) fn network(&self) -> Arc<File> {
        Arc::clone(&self.network)
    }

    /// A path to the network namespace, as long as the holder runs.
    pub(super) fn network_path(&self) -> String {
        format!("/proc/{}/ns/net", self.child.id())
    }

    /// Starts a process; what it says goes to the file of its name in the folder `log`.
    pub(super) fn launch(&mut self, name: &str, command: &[String]) -> anyhow::Result<()> {
        let mut words = vec!["start", name];
        words.extend(command.iter().map(String::as_str));
        self.order(&words).map(drop)
    }

    /// Ends a process if it runs.
    pub(super) fn stop(&mut self, name: &str) -> anyhow::Result<()> {
        self.order(&["stop", name]).map(drop)
    }

    /// Whether a process runs.
    pub(super) fn runs(&mut self, name: &str) -> anyhow::Result<bool> {
        Ok(self.order(&["look", name])? == "running")
    }

    fn order(&mut self, words: &[&str]) -> anyhow::Result<String> {
        let line = words.join("\t");
        ensure!(!line.contains('\n'), "an order of one line: {line}");
        let orders = self.orders.as_mut().context("the holder has ended")?;
        writeln!(orders, "{line}").context("the cluster has ended")?;
        self.answers.recv_timeout(ORDER).with_context(|| format!("no answer to `{line}`"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends, with all that it holds and its folder, when its orders do.
        self.orders = None;
        let deadline = std::time::Instant::now() + ORDER;
        while std::time::Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // `--kill-child` passes it on. Both fail only where it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
