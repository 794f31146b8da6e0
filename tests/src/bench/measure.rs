//! One run: a load generator beside a process under measurement, and what that process spent meanwhile.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};

use super::{
    load::{READY, Seen},
    process::{cpu_time, enter},
};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// What one run cost.
#[derive(Debug, Clone)]
pub struct Run {
    /// What the load generator saw.
    pub seen: Seen,
    /// CPU time of the processes under measurement, in the order asked for.
    pub cpu: Vec<Duration>,
}

impl Run {
    /// CPU time per answer in microseconds, all processes together.
    pub fn us_per_answer(&self) -> f64 {
        self.seconds() * 1e6 / self.seen.answers as f64
    }

    /// CPU time per 10⁹ bytes in seconds.
    pub fn seconds_per_gigabyte(&self) -> f64 {
        self.seconds() * 1e9 / self.seen.bytes as f64
    }

    /// Answers per second of CPU time.
    pub fn answers_per_cpu_second(&self) -> f64 {
        self.seen.answers as f64 / self.seconds()
    }

    fn seconds(&self) -> f64 {
        self.cpu.iter().sum::<Duration>().as_secs_f64()
    }
}

/// A load generator that is ready to begin.
pub struct Prepared {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Prepared {
    /// Starts `bench load` with these arguments in the network namespace of process `beside`, and waits until it has
    /// connected.
    ///
    /// # Errors
    /// When it cannot connect, or sees anything but what it expects.
    pub async fn start(beside: u32, arguments: &[String]) -> anyhow::Result<Self> {
        let mut child = enter(beside)
            .arg("--")
            .arg(std::env::current_exe()?)
            .arg("load")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run `nsenter`")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let first = timeout(LIMIT, lines.next_line()).await.context("the load generator is not ready in time")??;
        ensure!(first.as_deref() == Some(READY), "`bench load {}` failed", arguments.join(" "));
        Ok(Self { child, lines })
    }

    /// Lets it run to its end.
    ///
    /// # Errors
    /// When anything but the expected answer came back.
    pub async fn run(mut self, pids: &[u32]) -> anyhow::Result<Run> {
        let mut input = self.child.stdin.take().context("no input")?;
        let before = pids.iter().map(|pid| cpu_time(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
        input.write_all(b"go\n").await?;
        let line = timeout(LIMIT, self.lines.next_line()).await.context("the load does not end")??;
        let after = pids.iter().map(|pid| cpu_time(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
        let seen = serde_json::from_str(&line.context("the load generator failed")?)?;
        let cpu = after.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before)).collect();
        Ok(Run { seen, cpu })
    }
}

/// Starts a load generator, lets it run, and says what it cost.
///
/// # Errors
/// As [`Prepared::start`] and [`Prepared::run`].
pub async fn run(beside: u32, pids: &[u32], arguments: &[String]) -> anyhow::Result<Run> {
    Prepared::start(beside, arguments).await?.run(pids).await
}

/// Words of a command line.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
