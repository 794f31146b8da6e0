//! `palisade proxy`: what each proxy should hold and holds.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use http::StatusCode;
use serde_json::Value;

use crate::{
    ask,
    control::ControlOptions,
    options::{ClusterOptions, OutputFormat},
};

mod table;

/// Ask about proxies: which are connected, what they have acknowledged or refused, and what each is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Proxy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
    Config(Config),
}

/// List connected proxies: what they should hold, acknowledged last, and refused last.
///
/// Exit code 1 when one of them does not do all that it should, or a replica of the control plane could not be asked about its own.
#[derive(Debug, clap::Args)]
struct Status {
    /// Only proxies of this namespace.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    namespace: String,
    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// `text` and `wide` for people, `json` and `jsonl` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Show what one proxy is told: resources by kind, what each was made from, and whether the proxy has it.
#[derive(Debug, clap::Args)]
struct Config {
    /// The proxy's pod.
    #[arg(value_name = "NS/POD")]
    pod: String,
    /// Only resources of this kind, such as `route`.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// `text` for people (`wide`: with what each was made from), `json` for programs (with the resources themselves).
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Proxy {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When no control plane can be asked.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Status(status) => status.run(),
            Command::Config(config) => config.run(),
        }
    }
}

impl Status {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (_, page, missing) = page(&self.control, &self.cluster, "/proxies")?;
        let all = page.as_array().context("the control plane's answer is no list")?;
        let is_meant = |proxy: &&Value| self.namespace.is_empty() || text(proxy, "namespace") == self.namespace;
        let proxies: Vec<&Value> = all.iter().filter(is_meant).collect();
        match self.output {
            OutputFormat::Text | OutputFormat::Wide => {
                print!("{}", table::proxies(&proxies, self.output == OutputFormat::Wide));
            }
            OutputFormat::Jsonl => {
                for proxy in &proxies {
                    println!("{proxy}");
                }
            }
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => println!("{}", serde_json::to_string_pretty(&proxies)?),
        }
        missing.iter().for_each(|replica| eprintln!("not listed: {replica}"));
        let is_behind = proxies.iter().any(|proxy| table::state(proxy) != "current");
        Ok(if is_behind || !missing.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

impl Config {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Some((namespace, name)) = self.pod.split_once('/').filter(|(ns, name)| is_name(ns) && is_name(name)) else {
            bail!("`{}` is not of the form NAMESPACE/POD", self.pod);
        };
        let (status, mut page, missing) = page(&self.control, &self.cluster, &format!("/proxies/{namespace}/{name}"))?;
        if status == StatusCode::NOT_FOUND {
            eprintln!("no proxy of pod {namespace}/{name} is connected");
            missing.iter().for_each(|replica| eprintln!("not asked: {replica}"));
            return Ok(ExitCode::from(1));
        }
        if let (Some(kind), Some(content)) = (&self.kind, page.get_mut("content").and_then(Value::as_object_mut)) {
            content.retain(|own, _| own == kind);
        }
        match self.output {
            OutputFormat::Text => print!("{}", table::content(&page, false)),
            OutputFormat::Wide => print!("{}", table::content(&page, true)),
            OutputFormat::Jsonl => println!("{page}"),
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => println!("{}", serde_json::to_string_pretty(&page)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A page of the control plane, and the replicas that are missing in it.
fn page(
    control: &ControlOptions,
    cluster: &ClusterOptions,
    path: &str,
) -> anyhow::Result<(StatusCode, Value, Vec<String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask::Answer { status, body, missing } = runtime.block_on(async {
        let control = control.reach(cluster).await?;
        ask::get(&control.url, path).await
    })?;
    if !status.is_success() && status != StatusCode::NOT_FOUND {
        bail!("the control plane answered {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok((status, serde_json::from_slice(&body).context("the control plane's answer is not JSON")?, missing))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
