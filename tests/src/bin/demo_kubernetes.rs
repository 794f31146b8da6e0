//! `demo_kubernetes`: brings up a real Kubernetes, installs Palisade and walks through it; what `make demo-kubernetes` starts.

use std::{env, io::IsTerminal, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    // Without a terminal, or in CI, nobody presses Ctrl-C.
    let stays = std::io::stdin().is_terminal() && env::var_os("CI").is_none_or(|value| value != "true");
    match palisade_tests::tour::cluster::run(stays).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
