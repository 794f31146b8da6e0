//! `palisade check`: whether a cluster can take Palisade, and whether the Palisade that is there works.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use palisade_control::{
    check::{Checkup, Finding, Level},
    cluster,
};
use serde_json::json;

use crate::options::{ClusterOptions, OutputFormat};

/// Look whether a cluster can take an installation, or whether the one that is there works.
///
/// Nothing is changed. Exit code 1 when something is an error, with `--strict` also when something is a warning.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Look whether an installation can be made; without `--before` and `--after` that depends on whether there is one.
    #[arg(long, conflicts_with = "after")]
    before: bool,
    /// Look whether the installation works.
    #[arg(long)]
    after: bool,
    /// Warnings count as errors.
    #[arg(long)]
    strict: bool,
    /// Namespace of the control plane.
    #[arg(short, long, default_value = cluster::CONTROL_NAMESPACE)]
    namespace: String,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// `text` for people, `json`, `jsonl` and `yaml` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Check {
    /// Looks, and prints what was found.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { before, after, strict, namespace, cluster: ClusterOptions { context, kubeconfig }, output } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let findings = runtime.block_on(async {
            let client = cluster::client(kubeconfig.as_deref(), context.as_deref()).await?;
            let checkup = Checkup { client, namespace, version: env!("CARGO_PKG_VERSION") };
            let is_before = before || !after && !checkup.is_installed().await?;
            let findings = if is_before { checkup.before().await? } else { checkup.after().await? };
            anyhow::Ok(findings)
        });
        let findings = findings.context("the cluster cannot be looked at")?;
        print(&findings, output)?;
        let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        let limit = if strict { Level::Warning } else { Level::Error };
        Ok(ExitCode::from(u8::from(worst >= limit)))
    }
}

fn print(findings: &[Finding], format: OutputFormat) -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    match format {
        OutputFormat::Text | OutputFormat::Wide => {
            for Finding { check, level, message, cure } in findings {
                let mark = match level {
                    Level::Ok => "ok     ",
                    Level::Info => "info   ",
                    Level::Unknown => "unknown",
                    Level::Warning => "WARNING",
                    Level::Error => "ERROR  ",
                };
                writeln!(output, "{mark}  {check}: {message}")?;
                if !cure.is_empty() {
                    writeln!(output, "         {cure}")?;
                }
            }
        }
        OutputFormat::Jsonl => {
            for finding in findings {
                writeln!(output, "{}", json!(finding))?;
            }
        }
        OutputFormat::Json => {
            serde_json::to_writer_pretty(&mut output, &json!({"findings": findings}))?;
            output.write_all(b"\n")?;
        }
        OutputFormat::Yaml => {
            write!(output, "{}", palisade_crds::document::to_yaml(&json!({"findings": findings})))?;
        }
    }
    output.flush()
}
