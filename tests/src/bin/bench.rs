//! `bench`: runs benchmarks by name and prints their tables; what `make bench` starts.

use std::process::ExitCode;

use anyhow::bail;
use palisade_tests::bench;

#[tokio::main]
async fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let names = if names.is_empty() { vec!["propagation".to_owned()] } else { names };
    for name in names {
        match table(&name).await {
            Ok(table) => println!("## {name}\n\n{table}"),
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

async fn table(name: &str) -> anyhow::Result<String> {
    match name {
        "propagation" => bench::propagation::run().await,
        _ => bail!("there is no such benchmark; there is `propagation`"),
    }
}
