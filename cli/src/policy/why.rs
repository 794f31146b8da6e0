//! `palisade policy why`: the explanation of one decision.

use std::process::ExitCode;

use anyhow::{Context, bail};
use http::StatusCode;
use serde_json::{Value, json};

use super::explanation;
use crate::{
    ask,
    control::ControlOptions,
    eval,
    inputs::{self, SettingOptions},
    options::{DocumentOptions, OutputFormat},
};

/// Explain a decision: the policy and rule that decided, or the nearest miss and the clause that failed.
///
/// The id stands in the access log (`decision`) and in the header `x-palisade-decision` of a refusal. With `--case` the
/// decision is made here, from documents, on a case as `palisade eval` takes it; exit code 1 when it is a denial or the connection is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    /// A decision id.
    #[arg(value_name = "DECISION_ID", required_unless_present = "case", conflicts_with = "case")]
    decision: Option<String>,
    /// A case of `palisade eval`: one JSON object.
    #[arg(long, value_name = "JSON", requires = "files")]
    case: Option<String>,
    #[command(flatten)]
    documents: DocumentOptions,
    #[command(flatten)]
    settings: SettingOptions,
    #[command(flatten)]
    control: ControlOptions,
    /// `text` for people, `json` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Why {
    /// Prints the explanation.
    ///
    /// # Errors
    /// When no control plane can be asked, or documents or case cannot be read.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match (&self.decision, &self.case) {
            (_, Some(case)) => self.explain_case(case),
            (Some(decision), None) => self.ask_control(decision),
            (None, None) => bail!("give a decision id, or documents (-f) and a case (--case)"),
        }
    }

    fn explain_case(&self, case: &str) -> anyhow::Result<ExitCode> {
        let inputs = inputs::read(&self.documents, &self.settings)?;
        let mut world = eval::World::new(&inputs, &self.documents.namespace);
        let case: eval::Case =
            serde_json::from_str(case).map_err(|error| anyhow::anyhow!("--case: {}", eval::case_error(&error)))?;
        let answer = eval::judge(&mut world, &case).map_err(|error| anyhow::anyhow!("--case: {error}"))?;
        let result = serde_json::to_value(&answer)?;
        let authz = result.get("authz").cloned().unwrap_or_default();
        // A connection that is refused never comes to authorization.
        let is_denied = authz.get("decision").is_some_and(|decision| decision == "deny")
            || matches!(result.get("outcome").and_then(Value::as_str), Some("reset"))
            || matches!(
                result.get("reason").and_then(Value::as_str),
                Some("jwt-invalid" | "jwt-audience" | "bad-request")
            );
        let field = |name: &str| result.get(name).cloned().unwrap_or_default();
        let part = |name: &str| authz.get(name).cloned().unwrap_or_else(|| json!([]));
        let told = json!({
            "verdict": authz.get("decision").cloned().unwrap_or_else(|| json!("authorization did not run")),
            "reason": field("reason"),
            "outcome": field("outcome"),
            "status": field("status"),
            "policies": part("policies"),
            "nearest": part("nearest"),
        });
        self.print(&told)?;
        Ok(if is_denied { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }

    fn ask_control(&self, decision: &str) -> anyhow::Result<ExitCode> {
        let is_id = !decision.is_empty() && decision.bytes().all(|b| b.is_ascii_graphic() && !b"/?#%".contains(&b));
        if !is_id {
            bail!("`{decision}` is not a decision id");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ask::Answer { status, body, missing } = runtime.block_on(async {
            let control = self.control.reach(&self.documents.cluster).await?;
            ask::get(&control.url, &format!("/why/{decision}")).await
        })?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                eprintln!("no proxy knows decision `{decision}`: it is too old, or the proxy is gone");
                missing.iter().for_each(|replica| eprintln!("not asked: {replica}"));
                return Ok(ExitCode::from(1));
            }
            other => bail!("the control plane answered {other}: {}", String::from_utf8_lossy(&body)),
        }
        self.print(&serde_json::from_slice(&body).context("the control plane's answer is not JSON")?)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, answer: &Value) -> anyhow::Result<()> {
        match self.output {
            OutputFormat::Text | OutputFormat::Wide => print!("{}", explanation::render(answer)),
            OutputFormat::Jsonl => println!("{answer}"),
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => println!("{}", serde_json::to_string_pretty(answer)?),
        }
        Ok(())
    }
}
