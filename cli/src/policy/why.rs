//! `palisade policy why`: the explanation of one decision.

use std::process::ExitCode;

use anyhow::{Context, bail};
use http::StatusCode;
use serde_json::Value;

use super::explanation;
use crate::{ask, dev, options::OutputFormat};

/// Explain a decision: the policy and rule that decided, or the nearest miss and the clause that failed.
///
/// The id stands in the access log (`decision`) and in the header `x-palisade-decision` of a refusal.
#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    /// A decision id.
    #[arg(value_name = "DECISION_ID")]
    decision: String,
    /// The control plane's admin URL. Default: the running `palisade dev`.
    #[arg(long, env = "PALISADE_CONTROL", value_name = "URL")]
    control: Option<String>,
    #[command(flatten)]
    instance: dev::Instance,
    /// `text` for people, `json` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Why {
    /// Prints the explanation.
    ///
    /// # Errors
    /// When no control plane can be asked.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let control = match self.control {
            Some(control) => control,
            None => {
                dev::running_control(&self.instance).context("name the control plane's admin URL with --control")?
            }
        };
        let is_id =
            !self.decision.is_empty() && self.decision.bytes().all(|b| b.is_ascii_graphic() && !b"/?#%".contains(&b));
        if !is_id {
            bail!("`{}` is not a decision id", self.decision);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (status, body) = runtime.block_on(ask::get(&control, &format!("/why/{}", self.decision)))?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                eprintln!("no proxy knows decision `{}`: it is too old, or the proxy is gone", self.decision);
                return Ok(ExitCode::from(1));
            }
            other => bail!("the control plane answered {other}: {}", String::from_utf8_lossy(&body)),
        }
        let answer: Value = serde_json::from_slice(&body).context("the control plane's answer is not JSON")?;
        match self.output {
            OutputFormat::Text | OutputFormat::Wide => print!("{}", explanation::render(&answer)),
            OutputFormat::Jsonl => println!("{answer}"),
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => println!("{}", serde_json::to_string_pretty(&answer)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}
