//! The step between a pod's holder and a program: another user, bound to the holder's life.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, execv, fexecve, getppid, setgroups, setresgid, setresuid};

/// Becomes the given user, then the given program.
#[derive(Debug, clap::Args)]
pub(crate) struct DevLaunch {
    /// User to become; absent: none.
    #[arg(long)]
    uid: Option<u32>,
    #[arg(long)]
    gid: Option<u32>,
    /// The process that must be the parent, and with which the program ends.
    #[arg(long)]
    parent: Option<i32>,
    /// Gets the process id, as the host sees it.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl DevLaunch {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { uid, gid, parent, pid_file, command } = self;
        let name = command.first().context("no command")?;
        let path = find(name).with_context(|| format!("`{}` is not found", name.display()))?;
        let path_name = CString::new(path.as_os_str().as_bytes())?;
        // Opened as the user who may: the program may lie in a folder that the other user cannot enter.
        let program = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open `{}`", path.display()))?;
        if let Some(path) = pid_file {
            super::directory::write_whole(&path, super::front::host_pid()?.to_string().as_bytes())?;
        }

        SigSet::empty().thread_set_mask()?;
        if let Some(gid) = gid.map(Gid::from_raw) {
            setgroups(&[]).context("cannot leave the groups")?;
            setresgid(gid, gid, gid).with_context(|| format!("cannot become group {gid}"))?;
        }
        if let Some(uid) = uid.map(Uid::from_raw) {
            setresuid(uid, uid, uid).with_context(|| format!("cannot become user {uid}"))?;
        }
        // After the change of user, which resets it.
        if let Some(parent) = parent {
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != Pid::from_raw(parent) {
                bail!("the pod is gone");
            }
        }
        let arguments = command.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let environment = std::env::vars_os()
            .map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<Vec<_>, _>>()?;
        // By path first, which a script's interpreter needs.
        let error = match execv(&path_name, &arguments) {
            Err(Errno::EACCES) => fexecve(program, &arguments, &environment),
            other => other,
        };
        let Err(error) = error;
        Err(error).with_context(|| format!("cannot run `{}`", path.display()))
    }
}

/// As a shell finds programs.
fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
