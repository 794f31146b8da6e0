//! The command line: one module per subcommand, and what they share.
//!
//! Exit codes: 0 fine; 1 the answer is bad news; 2 it could not do its work.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod analyze;
mod ask;
mod check;
mod control;
mod crds;
mod dev;
mod eval;
mod identity;
mod inject;
mod inputs;
pub mod options;
mod policy;
mod proxy;
mod run;
mod wait;

#[derive(Debug, Parser)]
#[command(name = "palisade", version, about = "A service mesh: run it, ask it, test its policies.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Analyze(analyze::Analyze),
    Check(check::Check),
    Crds(crds::Crds),
    Dev(dev::Dev),
    Eval(eval::Eval),
    Identity(identity::Identity),
    Inject(inject::Inject),
    Policy(policy::Policy),
    Proxy(proxy::Proxy),
    Run(run::Run),
    Wait(wait::Wait),
    /// The process that runs the mesh, inside the namespaces that `dev` made.
    #[command(hide = true)]
    DevMesh(dev::DevMesh),
    /// The process that holds one pod's namespaces.
    #[command(hide = true)]
    DevPod,
    /// Becomes another user, then another program.
    #[command(hide = true)]
    DevLaunch(dev::DevLaunch),
}

/// Runs what the command line asks for. Usage errors end the process with code 2.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Analyze(analyze) => analyze.run(),
        Command::Check(check) => check.run(),
        Command::Crds(crds) => crds.run(),
        Command::Dev(dev) => dev.run(),
        Command::Eval(eval) => eval.run(),
        Command::Identity(identity) => identity.run(),
        Command::Inject(inject) => inject.run(),
        Command::Policy(policy) => policy.run(),
        Command::Proxy(proxy) => proxy.run(),
        Command::Run(run) => run.run(),
        Command::Wait(wait) => wait.run(),
        Command::DevMesh(mesh) => mesh.run(),
        Command::DevPod => dev::run_pod(),
        Command::DevLaunch(launch) => launch.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("palisade: {error:#}");
        ExitCode::from(2)
    })
}
