//! A mesh's folder on this machine: who owns it, what is in it, and its removal.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, chown};
use serde::{Deserialize, Serialize};

use super::Instance;

/// What the file by which a mesh owns its name ends in.
const LOCK: &str = ".lock";

/// The folder of a running mesh, owned as long as this value lives. The kernel ends the ownership with the process.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What other subcommands need to know of a running mesh.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Running {
    /// By `NS/NAME`.
    pub(super) pods: BTreeMap<String, RunningPod>,
    /// Admin URL of the control plane.
    #[serde(default)]
    pub(super) control: Option<String>,
    /// Folder of all logs.
    #[serde(default)]
    pub(super) logs: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunningPod {
    /// Process that holds the pod's namespaces, as the host sees it.
    pub(super) host_pid: u32,
    #[serde(default)]
    pub(super) addresses: Vec<IpAddr>,
    /// User of the application; `None`: the only one there is.
    pub(super) user: Option<u32>,
    pub(super) environment: Vec<(String, String)>,
}

/// Where the meshes of this user have their folders.
pub(super) fn root(instance: &Instance) -> PathBuf {
    if let Some(path) = &instance.runtime_directory {
        return path.clone();
    }
    let user = Uid::current();
    if user.is_root() {
        return PathBuf::from("/run/palisade-dev");
    }
    let of_session = PathBuf::from(format!("/run/user/{user}"));
    if of_session.is_dir() { of_session.join("palisade-dev") } else { format!("/tmp/palisade-dev-{user}").into() }
}

impl Directory {
    /// Takes the folder, emptied of what a dead mesh of the name left.
    ///
    /// # Errors
    /// Where a living mesh has it.
    pub(super) fn claim(root: &Path, name: &str) -> anyhow::Result<Self> {
        let Some(lock) = try_lock(root, name)? else {
            bail!("a mesh `{name}` is running already; give this one another `--name`");
        };
        let path = root.join(name);
        remove(&path)?;
        DirBuilder::new().mode(0o755).create(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder of this mesh, with those above it.
    pub(super) fn folder(&self, relative: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(relative);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot create `{}`", path.display()))?;
        Ok(path)
    }

    /// Writes a file that only `owner` reads; `None`: this user.
    pub(super) fn write_secret(&self, relative: &str, content: &[u8], owner: Option<u32>) -> anyhow::Result<PathBuf> {
        let path = self.path.join(relative);
        let describe = || format!("cannot write `{}`", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .with_context(describe)?;
        std::io::Write::write_all(&mut file, content).with_context(describe)?;
        if let Some(owner) = owner {
            chown(&path, Some(Uid::from_raw(owner)), None).with_context(describe)?;
        }
        Ok(path)
    }

    /// A folder that only `owner` has access to; `None`: this user. What is in it stays.
    pub(super) fn private_folder(&self, relative: &str, owner: Option<u32>) -> anyhow::Result<PathBuf> {
        let path = self.path.join(relative);
        let describe = || format!("cannot create `{}`", path.display());
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).with_context(describe),
            Ok(()) | Err(_) => {}
        }
        if let Some(owner) = owner {
            chown(&path, Some(Uid::from_raw(owner)), None).with_context(describe)?;
        }
        Ok(path)
    }

    pub(super) fn write(&self, relative: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.path.join(relative);
        write_whole(&path, content)?;
        Ok(path)
    }

    pub(super) fn write_running(&self, running: &Running) -> anyhow::Result<()> {
        self.write("running.json", &serde_json::to_vec(running)?).map(drop)
    }

    /// Removes the folder; the name is free afterwards.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        remove(&self.path)
    }
}

/// Replaces a file at once: a reader sees the old content or the new.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut name = path.file_name().context("not the path of a file")?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let describe = || format!("cannot write `{}`", path.display());
    fs::write(&new, content).with_context(describe)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).with_context(describe)?;
    fs::rename(&new, path).with_context(describe)
}

/// What the mesh of this name wrote for `dev exec` and its like.
///
/// # Errors
/// Where none runs.
pub(super) fn running(instance: &Instance) -> anyhow::Result<Running> {
    let root = root(instance);
    let name = &instance.name.0;
    if try_lock(&root, name)?.is_some() {
        match living(&root)?.as_slice() {
            [] => bail!("no mesh `{name}` is running"),
            others => bail!("no mesh `{name}` is running; name one with --name: {}", others.join(", ")),
        }
    }
    let path = root.join(name).join("running.json");
    let text = fs::read(&path).with_context(|| format!("mesh `{name}` has no pods yet"))?;
    serde_json::from_slice(&text).with_context(|| format!("`{}`", path.display()))
}

/// Names that meshes have taken, whether they live or not.
fn names(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(names),
        entries => entries.with_context(|| format!("cannot read `{}`", root.display()))?,
    };
    for entry in entries {
        let file_name = entry?.file_name();
        names.extend(file_name.to_str().and_then(|name| name.strip_suffix(LOCK)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Names of the meshes that run.
fn living(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut living = Vec::new();
    for name in names(root)? {
        if try_lock(root, &name)?.is_none() {
            living.push(name);
        }
    }
    Ok(living)
}

/// Admin URL of a running mesh's control plane; `None` where none runs on this machine.
///
/// # Errors
/// Where only meshes of other names run, or this one has no control plane yet.
pub(crate) fn find_control(instance: &Instance) -> anyhow::Result<Option<String>> {
    let (root, name) = (root(instance), &instance.name.0);
    if living(&root)?.is_empty() {
        return Ok(None);
    }
    running(instance)?.control.map(Some).with_context(|| format!("mesh `{name}` has no control plane yet"))
}

/// Removes the folders of dead meshes: the named one's, and all others'.
pub(super) fn clean(instance: &Instance) -> anyhow::Result<ExitCode> {
    let root = root(instance);
    let mut code = ExitCode::SUCCESS;
    for name in names(&root)? {
        match try_lock(&root, &name)? {
            Some(_lock) => {
                remove(&root.join(&name))?;
                fs::remove_file(root.join(format!("{name}{LOCK}")))
                    .with_context(|| format!("cannot remove the lock of `{name}`"))?;
            }
            None if name == instance.name.0 => {
                eprintln!("mesh `{name}` is running");
                code = ExitCode::FAILURE;
            }
            None => {}
        }
    }
    Ok(code)
}

/// The ownership of a name, `None` where another living process has it.
fn try_lock(root: &Path, name: &str) -> anyhow::Result<Option<Flock<File>>> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(root)
        .with_context(|| format!("cannot create `{}`", root.display()))?;
    // In a folder that everybody writes to, somebody else may have made it.
    let owner = fs::symlink_metadata(root).with_context(|| format!("cannot read `{}`", root.display()))?.uid();
    if owner != Uid::effective().as_raw() {
        bail!("`{}` belongs to another user", root.display());
    }
    let path = root.join(format!("{name}{LOCK}"));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)
        .with_context(|| format!("cannot open `{}`", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock `{}`", path.display())),
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_living_owner() {
        let root = tempfile::tempdir().unwrap();
        let first = Directory::claim(root.path(), "a").unwrap();
        assert!(Directory::claim(root.path(), "a").is_err());
        assert!(Directory::claim(root.path(), "b").is_ok());
        drop(first);
        assert!(Directory::claim(root.path(), "a").is_ok());
    }

    #[test]
    fn cleaning_spares_the_living() {
        let root = tempfile::tempdir().unwrap();
        let instance =
            |name: &str| Instance { name: name.parse().unwrap(), runtime_directory: Some(root.path().to_owned()) };
        drop(Directory::claim(root.path(), "dead").unwrap());
        let living = Directory::claim(root.path(), "living").unwrap();
        clean(&instance("dead")).unwrap();
        assert!(!root.path().join("dead").exists());
        assert!(living.path().exists());
    }
}
