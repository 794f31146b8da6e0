//! Load and sniffers that run beside the test until they are told to say what they saw.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context, ensure};
use palisade_tests::checkout;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A Python script that says what it saw, one line of JSON at a time.
pub(crate) struct Witness {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What came back to a load.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Answers {
    pub(crate) total: u64,
    pub(crate) pods: BTreeMap<String, u64>,
    pub(crate) failed: Vec<String>,
}

/// What passed an interface.
#[derive(Debug, Deserialize)]
pub(crate) struct Passed {
    pub(crate) plain: u64,
    /// Attempts of the one who has no certificate.
    pub(crate) probes: u64,
    pub(crate) tls: u64,
    pub(crate) example: Option<String>,
    pub(crate) lost: u64,
}

impl Witness {
    /// Starts `script` with these arguments, by a command that runs what is appended to it.
    pub(crate) fn start(mut command: Command, script: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = command
            .arg("python3")
            .arg(checkout::root().join("tests/tests/migration").join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, input, lines })
    }

    pub(crate) async fn line(&mut self) -> anyhow::Result<String> {
        self.lines.next_line().await?.context("it ended")
    }

    /// What it has seen so far.
    pub(crate) async fn ask<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        self.input.write_all(b"\n").await?;
        let line = self.line().await?;
        serde_json::from_str(&line).context(line)
    }

    /// What it saw, once it has ended.
    pub(crate) async fn stop<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let Self { mut child, input, mut lines } = self;
        drop(input);
        let mut last = None;
        while let Some(line) = lines.next_line().await? {
            last = Some(line);
        }
        ensure!(child.wait().await?.success(), "it failed");
        let last = last.context("it said nothing")?;
        serde_json::from_str(&last).context(last)
    }
}
