//! The edge: a proxy whose listeners come from the snapshot.

use std::{io, process::ExitCode, sync::Arc};

use clap::{CommandFactory, Parser};
use palisade_model::settings::ProxyKind;
use palisade_proxy::process::{Process, ProcessError, ProxyOptions, log, run_to_end, variables};

/// A gateway of the mesh.
#[derive(Debug, Parser)]
#[command(name = "palisade-gateway", version, about = "The edge of a Palisade mesh.")]
pub struct Options {
    /// What every proxy is told.
    #[command(flatten)]
    pub proxy: ProxyOptions,
    /// The Gateway API Gateway that this process serves. Its configuration follows from the pod that the token proves;
    /// the name is for logs.
    #[arg(long, env = "PALISADE_GATEWAY", value_name = "NAMESPACE/NAME")]
    pub gateway: Option<String>,
}

/// Runs a gateway from the command line until it has drained.
pub fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("palisade-gateway: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs a gateway until it has drained.
///
/// # Errors
/// When it cannot be set up.
pub fn run(options: &Options) -> Result<(), ProcessError> {
    let Options { proxy, gateway } = options;
    let filter = log::start(&proxy.log).map_err(ProcessError::Option)?;
    tracing::info!(namespace = %proxy.namespace, name = %proxy.name, ?gateway, "gateway starting");
    variables::warn_of_unread(&Options::command());
    let process = Process::new(proxy.settings(ProxyKind::Gateway, Vec::new()), Arc::clone(&filter) as _, io::stdout())?;
    let outcome = run_to_end(process, proxy.access()?, |_, stop| async move {
        stop.cancelled().await;
        Ok(())
    })?;
    tracing::info!(?outcome, "gateway ended");
    Ok(())
}
