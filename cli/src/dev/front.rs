//! The front process: makes the namespaces that everything lives in, starts the mesh there, passes signals on.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Gid, Pid, Uid};

use super::{MeshOptions, directory};

/// The signals that the front passes on.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Runs the mesh in a process of its own until it ends; its exit code is ours.
pub(super) fn run(options: &MeshOptions) -> anyhow::Result<ExitCode> {
    if options.documents.files.is_empty() {
        bail!("`palisade dev` needs documents: `-f PATH`");
    }
    // While the user is still known: a user namespace shows another one.
    let runtime_directory = directory::root(&options.instance);
    make_namespaces()?;

    let mut signals = SigSet::from_iter(ENDING);
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    // Its own process group: a terminal's Ctrl-C reaches the front alone, which passes it on once.
    let mut mesh = Command::new("/proc/self/exe")
        .arg0("palisade")
        .arg("dev-mesh")
        .arg(format!("--front={}", host_pid()?))
        .args(std::env::args_os().skip(2))
        .arg("--runtime-directory")
        .arg(runtime_directory)
        .process_group(0)
        .spawn()
        .context("cannot start the mesh")?;
    let pid = Pid::from_raw(i32::try_from(mesh.id())?);
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = mesh.try_wait()? {
                    return Ok(code(status));
                }
            }
            // It may have ended in between.
            signal => match kill(pid, if signal == Signal::SIGHUP { Signal::SIGTERM } else { signal }) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).context("cannot pass a signal on"),
            },
        }
    }
}

/// In the mesh process, before it has threads: the kernel ends it when the front goes.
pub(super) fn bind_life_to(front: u32) -> anyhow::Result<()> {
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGKILL)?;
    // The front may have gone before the line above.
    let status = std::fs::read_to_string("/proc/self/status").context("`/proc` is not mounted")?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    if parent != Some(front.to_string().as_str()) {
        bail!("`dev-mesh` is started by `palisade dev` only");
    }
    Ok(())
}

/// Whether there are users beside this one; a user namespace made without help has one.
pub(super) fn has_users() -> anyhow::Result<bool> {
    let map = std::fs::read_to_string("/proc/self/uid_map").context("cannot read `/proc/self/uid_map`")?;
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    Ok(map.lines().map(count).sum::<u64>() > 1)
}

/// This process's id as the mounted `/proc` counts.
pub(super) fn host_pid() -> anyhow::Result<u32> {
    let link = std::fs::read_link("/proc/self").context("`/proc` is not mounted")?;
    link.to_str().and_then(|pid| pid.parse().ok()).context("`/proc/self` is no process")
}

fn make_namespaces() -> anyhow::Result<()> {
    const WANTED: CloneFlags = CloneFlags::CLONE_NEWPID.union(CloneFlags::CLONE_NEWNS);
    match unshare(WANTED) {
        Ok(()) => {}
        Err(Errno::EPERM) => {
            let (user, group) = (Uid::current(), Gid::current());
            unshare(CloneFlags::CLONE_NEWUSER)
                .context("no permission to make namespaces: run as root, or allow unprivileged user namespaces")?;
            let write = |file: &str, text: String| {
                let path = Path::new("/proc/self").join(file);
                std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
            };
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("0 {user} 1"))?;
            write("gid_map", format!("0 {group} 1"))?;
            unshare(WANTED).context("cannot make namespaces inside a user namespace")?;
        }
        Err(error) => return Err(error).context("cannot make namespaces"),
    }
    make_mounts_private()
}

/// What is mounted from here on is seen here only.
pub(super) fn make_mounts_private() -> anyhow::Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")
}

/// As a shell has it: 128 and the signal's number.
pub(super) fn code(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128_i32.saturating_add(signal),
        (None, None) => 2,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
