//! Where things are in this checkout.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// The repository's root.
pub fn root() -> &'static Path {
    // INVARIANT: this crate lies one folder below the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A program that `cargo build --bins` leaves in the checkout's `target/`, of this build's profile.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    // Beside this program: whatever its profile is, the others' is the same.
    if let Some(path) = env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)))
        && path.is_file()
    {
        return Ok(path);
    }
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let folder = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    // A build without debug assertions is the release profile unless its overflow checks say otherwise; look in both.
    for profile in [profile, "release", "debug"] {
        let path = folder.join(profile).join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("`{name}` is not in {}: run `cargo build --workspace --bins` first", folder.display())
}

/// A document of `deploy/demo/steps/`, which the tour puts in place of one of the demo's.
///
/// # Errors
/// When it cannot be read.
pub fn demo_step(file: &str) -> anyhow::Result<String> {
    let path = root().join("deploy/demo/steps").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Istio's samples, from the folder that `ISTIO_SAMPLES` names; `None` when it is unset: report the test as skipped.
///
/// # Errors
/// When the variable is set and the folder is not there.
pub fn istio_samples() -> anyhow::Result<Option<PathBuf>> {
    let Some(folder) = env::var_os("ISTIO_SAMPLES").map(PathBuf::from) else {
        return Ok(None);
    };
    folder.metadata().with_context(|| format!("ISTIO_SAMPLES names {}, which is not there", folder.display()))?;
    Ok(Some(folder))
}

/// Whether this process may make network namespaces: root here, or an unprivileged user namespace that allows it.
pub fn may_make_namespaces() -> bool {
    let works = |program: &str, arguments: &[&str]| {
        std::process::Command::new(program)
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    works("unshare", &["-n", "true"]) || works("unshare", &["-Urn", "true"])
}
