//! `bench`: runs benchmarks by name and prints their tables; what `make bench` starts. The load generator and the
//! upstream are commands of the same program, since they run in other network namespaces.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use palisade_tests::bench::{self, load::Load, upstream::Upstream};

#[derive(Debug, Parser)]
#[command(about = "Benchmarks of Palisade beside its peers.")]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Interleaved runs of each row, where a benchmark has rows.
    #[arg(long, global = true)]
    runs: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Requests through the gateway: CPU time of each.
    Gateway,
    /// Requests through two sidecars.
    Sidecar,
    /// 1 GB through the gateway.
    Bulk,
    /// New TLS connections.
    Handshake,
    /// Memory of idle processes and connections.
    Memory,
    /// Latency that the gateway and two sidecars add.
    Latency,
    /// Requests through the gateway with up to 10,000 policies.
    Policies,
    /// Names that a sidecar answers.
    Dns,
    /// How long an edit takes to every proxy.
    Propagation,
    /// A control plane on a real API server.
    Control,
    /// The load generator.
    #[command(hide = true)]
    Load(Load),
    /// The upstream.
    #[command(hide = true)]
    Upstream(Upstream),
}

fn main() -> ExitCode {
    let Options { command, runs } = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(command, runs)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Option<Command>, runs: Option<usize>) -> anyhow::Result<()> {
    match command {
        Some(Command::Load(load)) => println!("{}", serde_json::to_string(&load.run().await?)?),
        Some(Command::Upstream(upstream)) => upstream.serve().await?,
        Some(command) => table(&command, runs).await?,
        None => {
            for command in [
                Command::Gateway,
                Command::Sidecar,
                Command::Bulk,
                Command::Handshake,
                Command::Memory,
                Command::Latency,
                Command::Policies,
                Command::Dns,
                Command::Propagation,
            ] {
                table(&command, runs).await?;
            }
        }
    }
    Ok(())
}

async fn table(command: &Command, runs: Option<usize>) -> anyhow::Result<()> {
    let table = match command {
        Command::Gateway => bench::edge::gateway(runs).await,
        Command::Bulk => bench::edge::bulk(runs).await,
        Command::Handshake => bench::edge::handshake(runs).await,
        Command::Sidecar => bench::sidecars::sidecar(runs).await,
        Command::Memory => bench::memory::run(runs).await,
        Command::Latency => bench::latency::run(runs).await,
        Command::Policies => bench::policies::run(runs).await,
        Command::Dns => bench::dns::run(runs).await,
        Command::Propagation => bench::propagation::run().await,
        Command::Control => bench::control::run(runs).await,
        Command::Load(_) | Command::Upstream(_) => return Ok(()),
    };
    let name = format!("{command:?}").to_lowercase();
    let table = table.with_context(|| name.clone())?;
    println!("## {name}\n\n{table}");
    Ok(())
}
