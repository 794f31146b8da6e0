//! The tour of `make demo`, walked through to its end.

use std::process::Stdio;

use anyhow::ensure;
use palisade_tests::checkout;
use tokio::process::Command;

#[tokio::test]
async fn every_step_of_the_tour_shows_what_it_promises() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let tour = Command::new(env!("CARGO_BIN_EXE_tour")).env("CI", "true").stdin(Stdio::null()).output().await?;
    let said = String::from_utf8_lossy(&tour.stdout);
    ensure!(tour.status.success(), "{said}\n{}", String::from_utf8_lossy(&tour.stderr));
    ensure!(said.contains("every step showed what it promised"), "{said}");
    Ok(())
}
