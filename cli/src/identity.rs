//! `palisade identity`: the mesh's roots, and how one is replaced by another.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Subcommand;
use http::StatusCode;
use palisade_control::{
    ca::Direction,
    rotation::{IdentityStatus, Obstacle, StepAnswer, StepQuestion},
};
use tokio::time::Instant;

use crate::{
    ask,
    control::ControlOptions,
    options::{ClusterOptions, OutputFormat},
};

/// Between two tries of a step that is waited for.
const AGAIN: Duration = Duration::from_secs(1);

/// Ask about the mesh's roots, and replace one by another without a failed request.
#[derive(Debug, clap::Args)]
pub(crate) struct Identity {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
    Rotate(Rotate),
}

/// Show which roots are trusted, which one signs, how many certificates of connected proxies each vouches for, and what is revoked.
///
/// Exit code 1 when something is wrong: nobody is trusted, a change is held back, or not all replicas are heard.
#[derive(Debug, clap::Args)]
struct Status {
    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// `text` for people, `json` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Take the next step of replacing the mesh's root, or say who would break by it.
///
/// The steps: a new root is trusted beside the old one; the new one signs; the old one is trusted no more. Each is refused, exit code 1,
/// while any live proxy would break, with its name and the reason.
#[derive(Debug, clap::Args)]
struct Rotate {
    /// Take back the last step. The last of all cannot be taken back.
    #[arg(long)]
    back: bool,
    /// Only say whether the step would be refused.
    #[arg(long)]
    dry_run: bool,
    /// Try again for this long while the step is refused: proxies take seconds to follow the step before.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, conflicts_with = "dry_run")]
    wait: u64,
    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// `text` for people, `json` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Identity {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When no control plane can be asked.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Status(status) => status.run(),
            Command::Rotate(rotate) => rotate.run(),
        }
    }
}

impl Status {
    fn run(self) -> anyhow::Result<ExitCode> {
        let ask::Answer { status: code, body, missing: _ } = runtime()?.block_on(async {
            let control = self.control.reach(&self.cluster).await?;
            ask::get(&control.url, "/identity").await
        })?;
        if !code.is_success() {
            bail!("the control plane answered {code}: {}", String::from_utf8_lossy(&body));
        }
        let status: IdentityStatus = serde_json::from_slice(&body).context("the control plane's answer")?;
        if self.output.is_text() {
            print!("{}", describe(&status));
        } else {
            println!("{}", serde_json::to_string_pretty(&status)?);
        }
        let is_bad = status.held_back.is_some() || status.problem.is_some() || status.revocation.refusal.is_some();
        Ok(if is_bad { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

impl Rotate {
    fn run(self) -> anyhow::Result<ExitCode> {
        let direction = if self.back { Direction::Back } else { Direction::Forward };
        let question = serde_json::to_string(&StepQuestion { direction, is_dry_run: self.dry_run })?;
        let answer: StepAnswer = runtime()?.block_on(async {
            let control = self.control.reach(&self.cluster).await?;
            let until = Instant::now() + Duration::from_secs(self.wait);
            loop {
                let ask::Answer { status: code, body, missing: _ } =
                    ask::post(&control.url, "/identity/step", question.clone()).await?;
                let is_over = Instant::now() >= until;
                if code == StatusCode::CONFLICT || (!code.is_success() && is_over) {
                    bail!("{}", String::from_utf8_lossy(&body).trim());
                }
                if code.is_success() {
                    let answer: StepAnswer = serde_json::from_slice(&body).context("the control plane's answer")?;
                    if answer.obstacles.is_empty() || is_over {
                        return Ok(answer);
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        })?;
        if !self.output.is_text() {
            println!("{}", serde_json::to_string_pretty(&answer)?);
        } else if answer.is_done {
            println!("done: {}", answer.step);
        } else if answer.obstacles.is_empty() {
            println!("would be done: {}", answer.step);
        } else {
            println!("refused: {}", answer.step);
            print!("{}", obstacles(&answer.obstacles, answer.more));
        }
        Ok(if answer.obstacles.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn obstacles(named: &[Obstacle], more: usize) -> String {
    let mut text: String = named.iter().map(|Obstacle { who, why }| format!("  {who}: {why}\n")).collect();
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    text
}

fn describe(status: &IdentityStatus) -> String {
    let phase = status.phase.map_or_else(|| "stable".to_owned(), |phase| phase.to_string());
    let mut text = format!("phase: {phase}\nkept in: {}\nroots:\n", status.kept_in);
    for root in &status.roots {
        let until = root.not_after.map(|time| time.to_string()).unwrap_or_default();
        let signs = if root.is_signing { ", signs" } else { "" };
        text.push_str(&format!(
            "  {} {} until {until}{signs}; {} certificates, trusted by {} of {} proxies\n",
            root.fingerprint, root.subject, root.leaves, root.trusted_by, status.proxies
        ));
    }
    if status.unknown > 0 {
        text.push_str(&format!("{} proxies do not say what they trust\n", status.unknown));
    }
    for (replica, phase) in &status.replicas {
        text.push_str(&format!("replica {replica}: {phase}\n"));
    }
    let revocation = &status.revocation;
    if let Some(refusal) = &revocation.refusal {
        text.push_str(&format!("NOBODY IS TRUSTED: {refusal}\n"));
    } else if revocation.lists > 0 {
        let late = if revocation.is_out_of_date { ", out of date" } else { "" };
        text.push_str(&format!("revoked: {} certificates on {} lists{late}\n", revocation.revoked, revocation.lists));
    }
    if let Some(held) = &status.held_back {
        text.push_str("another authority is plugged in and held back, because it would break:\n");
        text.push_str(&obstacles(&held.obstacles, held.more));
    }
    if let Some(problem) = &status.problem {
        text.push_str(&format!("{problem}\n"));
    }
    text
}
