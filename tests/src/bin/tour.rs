//! `tour`: runs the demo mesh and walks through it; what `make demo` starts.

use std::{env, io::IsTerminal, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    // Without a terminal, or in CI, nobody presses Ctrl-C.
    let stays = std::io::stdin().is_terminal() && env::var_os("CI").is_none_or(|value| value != "true");
    match palisade_tests::tour::run(stays).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
