//! `palisade dev exec`: a command inside a pod, as its application.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use nix::unistd::Uid;

use super::{Instance, directory, front};

/// Run a command inside a pod's namespaces, as its application.
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    instance: Instance,
    /// `NS/POD`; without a namespace: `default`.
    pod: String,
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { instance, pod, command } = self;
        let pod = if pod.contains('/') { pod } else { format!("default/{pod}") };
        let running = directory::running(&instance)?;
        let target =
            running.pods.get(&pod).with_context(|| format!("mesh `{}` has no pod `{pod}`", instance.name.0))?;

        let open = |namespace: &str| {
            let path = format!("/proc/{}/ns/{namespace}", target.host_pid);
            File::open(&path).with_context(|| format!("pod `{pod}` is gone, or another user's: `{path}`"))
        };
        // The user namespace gives the right to enter the others.
        let mut namespaces = Vec::new();
        if !Uid::current().is_root() {
            namespaces.push((open("user")?, CloneFlags::CLONE_NEWUSER));
        }
        namespaces.push((open("net")?, CloneFlags::CLONE_NEWNET));
        namespaces.push((open("uts")?, CloneFlags::CLONE_NEWUTS));
        // For what is started from here on: it ends with the mesh.
        namespaces.push((open("pid_for_children").or_else(|_| open("pid"))?, CloneFlags::CLONE_NEWPID));
        namespaces.push((open("mnt")?, CloneFlags::CLONE_NEWNS));
        for (file, kind) in namespaces {
            setns(file, kind).with_context(|| format!("cannot enter pod `{pod}`"))?;
        }

        let mut launch = Command::new("/proc/self/exe");
        // Its parent lies outside the namespace that it sees, hence 0.
        launch.arg0("palisade").arg("dev-launch").arg("--parent=0");
        if let Some(user) = target.user {
            launch.arg(format!("--uid={user}")).arg(format!("--gid={user}"));
        }
        let status = launch
            .arg("--")
            .args(command)
            .envs(target.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .status()
            .context("cannot start the command")?;
        Ok(front::code(status))
    }
}
