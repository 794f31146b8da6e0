//! Processes under measurement: started in a network namespace, asked what they cost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use crate::wait::until;

/// User that proxies run as, and by which redirection rules know their traffic.
const PROXY_USER: u32 = 1337;

/// How long a process may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A process in a namespace of the mesh. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
    output: PathBuf,
}

impl Process {
    /// Starts a program in the network namespace of process `beside`, as the proxies' user.
    ///
    /// # Errors
    /// When it cannot be started: entering the namespace needs root.
    pub fn start(beside: u32, output: &Path, program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        Self::start_in(Path::new(&format!("/proc/{beside}/ns/net")), output, program, arguments)
    }

    /// The same in a network namespace that is a file.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_in(namespace: &Path, output: &Path, program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(output)?;
        let child = enter_file(namespace)
            .args(["--setuid".to_owned(), PROXY_USER.to_string(), "--setgid".to_owned(), PROXY_USER.to_string()])
            .arg("--")
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        // nsenter becomes the program, so that its process id is the program's.
        let pid = child.id().context("the process is gone")?;
        Ok(Self { child, pid, output: output.to_owned() })
    }

    /// Waits until the process listens on a TCP port.
    ///
    /// # Errors
    /// When it ends, or does not listen within 20 s.
    pub async fn listens(&mut self, port: u16) -> anyhow::Result<()> {
        let wanted = format!(":{port:04X}");
        until("the port", START_LIMIT, async || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the process ended: {status}: {}", fs::read_to_string(&self.output)?);
            }
            let mut sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.pid))?;
            sockets += &fs::read_to_string(format!("/proc/{}/net/tcp6", self.pid)).unwrap_or_default();
            let is_it = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
            };
            ensure!(sockets.lines().any(is_it), "port {port} is not listened on");
            Ok(())
        })
        .await
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// `nsenter` into the network namespace of a process; options, `--` and a command are to be added.
pub fn enter(beside: u32) -> Command {
    enter_file(Path::new(&format!("/proc/{beside}/ns/net")))
}

fn enter_file(namespace: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display()));
    command
}

/// CPU time that a process has used, user and system, all its threads that live. Threads must not end between two
/// looks that are compared.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let path = task?.path().join("schedstat");
        // A thread that has just ended has no file any more.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let on_cpu = text.split_whitespace().next().context("an empty schedstat")?;
        sum += on_cpu.parse::<u64>().with_context(|| path.display().to_string())?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Anonymous memory that a process holds, in KiB.
///
/// # Errors
/// When the process is gone.
pub fn anonymous_memory(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("process {pid} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
