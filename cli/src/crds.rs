//! `palisade crds`: the CustomResourceDefinitions, printed or put into a cluster.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;
use palisade_control::{
    cluster,
    definitions::{Installed, install},
};
use palisade_crds::crd::{self, Definition};
use serde_json::json;

use crate::options::{ClusterOptions, OutputFormat};

/// Print the CustomResourceDefinitions of Palisade's kinds, or of Istio's for clusters that have none.
///
/// The Gateway API's are never among them: they belong to the cluster.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Crds {
    #[command(subcommand)]
    command: Option<Command>,
    /// Istio's kinds instead of Palisade's own. Where Istio's own definitions are installed these must not replace them:
    /// use `palisade crds apply --istio` or `kubectl create`.
    #[arg(long)]
    istio: bool,
    /// `text` and `yaml`: one document each; `jsonl`: one object a line; `json`: one list.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    Apply(Apply),
}

/// Put the definitions into a cluster: Palisade's own are brought up to date; Istio's are added only where absent.
#[derive(Debug, clap::Args)]
struct Apply {
    /// Istio's kinds as well, where the cluster has none.
    #[arg(long)]
    istio: bool,
    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Crds {
    /// Prints or applies.
    ///
    /// # Errors
    /// When the answer cannot be written or the cluster refuses.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, istio, output } = self;
        match command {
            Some(Command::Apply(apply)) => apply.run()?,
            None => print(&if istio { crd::istio() } else { crd::palisade() }, output)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(definitions: &[Definition], format: OutputFormat) -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    match format {
        OutputFormat::Text | OutputFormat::Wide | OutputFormat::Yaml => {
            for definition in definitions {
                write!(output, "---\n{}", definition.to_yaml())?;
            }
        }
        OutputFormat::Jsonl => {
            for definition in definitions {
                writeln!(output, "{}", definition.object)?;
            }
        }
        OutputFormat::Json => {
            let items: Vec<_> = definitions.iter().map(|definition| &definition.object).collect();
            serde_json::to_writer_pretty(&mut output, &json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
            output.write_all(b"\n")?;
        }
    }
    output.flush()
}

impl Apply {
    fn run(self) -> anyhow::Result<()> {
        let Self { istio, cluster: ClusterOptions { context, kubeconfig } } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let installed = runtime.block_on(async {
            let client = cluster::client(kubeconfig.as_deref(), context.as_deref()).await?;
            anyhow::Ok(install(&client, istio).await?)
        });
        let mut output = io::stdout().lock();
        for (name, installed) in installed.context("the definitions are not installed")? {
            let said = match installed {
                Installed::Applied => "applied",
                Installed::Created => "created",
                Installed::Kept => "kept as it is",
            };
            writeln!(output, "{name} {said}")?;
        }
        Ok(())
    }
}
