//! `palisade dev requests` and `palisade dev calls`: what the proxies of a running mesh log, line by line or as a table.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::{Instance, directory};
use crate::options::StreamFormat;

mod line;
mod logs;
mod table;

use line::{Call, Names};
use logs::Logs;
use table::Table;

/// How often the logs are looked at.
const POLL: Duration = Duration::from_millis(100);

/// Show each request of a running mesh as it ends: who called whom, and what came of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Requests {
    #[command(flatten)]
    follow: Follow,
    /// End after this many requests; absent: on Ctrl-C.
    #[arg(long, value_name = "REQUESTS")]
    count: Option<u64>,
    /// `text`, or `jsonl` for the proxies' own access log lines.
    #[arg(short, long, value_enum, default_value_t)]
    output: StreamFormat,
}

/// Show who calls whom in a running mesh: rates, latencies, denials.
#[derive(Debug, clap::Args)]
pub(crate) struct Calls {
    #[command(flatten)]
    follow: Follow,
    /// Seconds that each table covers.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// End after this many tables; absent: on Ctrl-C.
    #[arg(long, value_name = "TABLES")]
    count: Option<u64>,
    /// `text` for tables, `jsonl` for one object for each pair and interval.
    #[arg(short, long, value_enum, default_value_t)]
    output: StreamFormat,
}

#[derive(Debug, clap::Args)]
struct Follow {
    #[command(flatten)]
    instance: Instance,
    /// Begin with what was logged since the mesh started; absent: with what comes from now on.
    #[arg(long)]
    from_start: bool,
}

impl Requests {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { follow, count, output } = self;
        let is_json = output == StreamFormat::Jsonl;
        let mut stdout = std::io::stdout().lock();
        let mut shown = 0;
        follow.each(|lines, names| {
            for line in lines {
                let Some(call) = Call::read(line, names) else { continue };
                let written = if is_json { writeln!(stdout, "{line}") } else { writeln!(stdout, "{call}") };
                shown += 1;
                if written.is_err() || count.is_some_and(|count| shown >= count) {
                    return Ok(false);
                }
            }
            Ok(stdout.flush().is_ok())
        })
    }
}

impl Calls {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { follow, interval, count, output } = self;
        let is_json = output == StreamFormat::Jsonl;
        let interval = Duration::from_secs(interval);
        let mut stdout = std::io::stdout().lock();
        // On a terminal each table takes the place of the one before.
        let is_redrawn = !is_json && stdout.is_terminal();
        let mut table = Table::default();
        let mut began = std::time::Instant::now();
        let mut written = 0;
        follow.each(|lines, names| {
            lines.iter().filter_map(|line| Call::read(line, names)).for_each(|call| table.add(&call));
            if began.elapsed() < interval {
                return Ok(true);
            }
            let elapsed = began.elapsed();
            began = std::time::Instant::now();
            let text = if is_json { table.json(elapsed)? } else { table.text(elapsed) };
            table = Table::default();
            let clear = if is_redrawn { "\x1b[2J\x1b[H" } else { "" };
            written += 1;
            let is_heard = write!(stdout, "{clear}{text}").and_then(|()| stdout.flush()).is_ok();
            Ok(is_heard && count.is_none_or(|count| written < count))
        })
    }
}

impl Follow {
    /// Hands on what is new, about ten times a second, until the mesh ends or `step` says `false`.
    fn each(&self, mut step: impl FnMut(&[Value], &Names) -> anyhow::Result<bool>) -> anyhow::Result<ExitCode> {
        let running = directory::running(&self.instance)?;
        let folder = running.logs.context("this mesh keeps no logs: it was started by another version")?;
        let mut logs = Logs::open(folder, self.from_start)?;
        loop {
            // Pods come and go while the mesh runs.
            let Ok(running) = directory::running(&self.instance) else {
                eprintln!("mesh `{}` has ended", self.instance.name.0);
                return Ok(ExitCode::SUCCESS);
            };
            let names: Names = running
                .pods
                .into_iter()
                .flat_map(|(pod, known)| known.addresses.into_iter().map(move |address| (address, pod.clone())))
                .collect::<BTreeMap<_, _>>();
            if !step(&logs.read()?, &names)? {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(POLL);
        }
    }
}
