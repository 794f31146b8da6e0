//! The process that holds one pod: it makes the namespaces, then starts and watches what runs in them.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpid, sethostname};
use palisade_sidecar::redirect::{self, DnsCapture, IpRange, PROXY_ID, ProxyOwner, Redirect};

use super::front::{host_pid, make_mounts_private};
use super::network;
use super::pod::{Event, Interception, Order, PodSpec, ProcessSpec};

/// How long processes have between being asked to end and being ended.
const GRACE: Duration = Duration::from_secs(5);

/// How long applications have until their ports are looked for no more.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(20);

/// How often their ports are looked for.
const LISTEN_POLL: Duration = Duration::from_millis(25);

const FIRST_RESTART: Duration = Duration::from_secs(1);
const LAST_RESTART: Duration = Duration::from_secs(10);

/// A process that ran so long has earned a quick restart again.
const STABLE: Duration = Duration::from_secs(30);

enum Message {
    Order(Order),
    /// Standard input has ended: so has the mesh.
    Orphaned,
    Exited {
        index: usize,
        status: ExitStatus,
    },
}

struct Running {
    group: Pid,
    since: Instant,
}

struct Holder {
    spec: PodSpec,
    messages: Sender<Message>,
    running: BTreeMap<usize, Running>,
    /// When a process starts again.
    restarts: BTreeMap<usize, Instant>,
    delays: BTreeMap<usize, Duration>,
}

/// Holds the pod that standard input describes, until it is told to stop or standard input ends.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let result = hold();
    if let Err(error) = &result {
        report(&Event::Failed { message: format!("{error:#}") });
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

fn hold() -> anyhow::Result<()> {
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGKILL)?;
    let mut lines = std::io::stdin().lock().lines();
    let spec: PodSpec = serde_json::from_str(&lines.next().context("no pod is described")??)?;
    // While this is the only thread, as namespaces of mounts need it.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("cannot make its namespaces")?;
    make_mounts_private()?;
    sethostname(&spec.hostname).context("cannot set its host name")?;
    show(&spec.resolv_conf, "/etc/resolv.conf")?;
    show(&spec.hosts, "/etc/hosts")?;
    report(&Event::Created { host_pid: host_pid()? });

    match serde_json::from_str(&lines.next().context("the mesh ended")??)? {
        Order::Attached => {}
        Order::Services(_) | Order::Stop => return Ok(()),
    }
    drop(lines);
    network::bring_up(&spec.addresses)?;
    // Before anything runs: no connection goes past the proxy.
    if let Some(interception) = &spec.interception {
        intercept(interception)?;
    }
    apply_services(&spec.services)?;

    let (messages, inbox) = channel();
    read_orders(messages.clone());
    let ports = spec.ports.clone();
    let mut holder =
        Holder { spec, messages, running: BTreeMap::new(), restarts: BTreeMap::new(), delays: BTreeMap::new() };
    for index in 0..holder.spec.processes.len() {
        holder.start(index)?;
    }
    report(&Event::Started);
    std::thread::spawn(move || report(&await_listeners(&ports)));

    loop {
        let wait = holder.restarts.values().min().map(|at| at.saturating_duration_since(Instant::now()));
        let message = match wait {
            Some(wait) => match inbox.recv_timeout(wait) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    holder.restart()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            },
            None => inbox.recv()?,
        };
        match message {
            Message::Order(Order::Services(script)) => apply_services(&script)?,
            Message::Order(Order::Attached) => {}
            Message::Order(Order::Stop) | Message::Orphaned => break,
            Message::Exited { index, status } => holder.exited(index, status),
        }
    }

    holder.signal_all(Signal::SIGTERM);
    let deadline = Instant::now() + GRACE;
    while !holder.running.is_empty() {
        match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Message::Exited { index, .. }) => {
                // Its children may outlive it.
                holder.signal(index, Signal::SIGKILL);
                holder.running.remove(&index);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    holder.signal_all(Signal::SIGKILL);
    Ok(())
}

impl Holder {
    fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let process = self.spec.processes.get(index).context("no such process")?;
        let mut child = spawn(process)?;
        let group = Pid::from_raw(i32::try_from(child.id())?);
        self.running.insert(index, Running { group, since: Instant::now() });
        let messages = self.messages.clone();
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // The receiver lives as long as the process does.
                let _ = messages.send(Message::Exited { index, status });
            }
        });
        Ok(())
    }

    fn exited(&mut self, index: usize, status: ExitStatus) {
        // Its children may outlive it.
        self.signal(index, Signal::SIGKILL);
        if let Some(process) = self.spec.processes.get(index) {
            let _ = std::fs::remove_file(&process.pid_file);
        }
        let lasted = self.running.remove(&index).map_or(Duration::ZERO, |running| running.since.elapsed());
        let delay = match self.delays.get(&index) {
            Some(delay) if lasted < STABLE => (*delay * 2).min(LAST_RESTART),
            _ => FIRST_RESTART,
        };
        self.delays.insert(index, delay);
        self.restarts.insert(index, Instant::now() + delay);
        let Some(process) = self.spec.processes.get(index) else { return };
        report(&Event::Exited {
            process: process.name.clone(),
            status: describe(status),
            log: process.log.clone(),
            restart_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        });
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<usize> = self.restarts.iter().filter(|(_, at)| **at <= now).map(|(index, _)| *index).collect();
        for index in due {
            self.restarts.remove(&index);
            self.start(index)?;
            if let Some(process) = self.spec.processes.get(index) {
                await_file(&process.pid_file);
                report(&Event::Restarted { process: process.name.clone() });
            }
        }
        Ok(())
    }

    fn signal_all(&self, signal: Signal) {
        for index in self.running.keys() {
            self.signal(*index, signal);
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        if let Some(running) = self.running.get(&index) {
            // Nobody left to tell is what was wanted.
            let _ = killpg(running.group, signal);
        }
    }
}

fn spawn(process: &ProcessSpec) -> anyhow::Result<std::process::Child> {
    let ProcessSpec { name, command, environment, folder, user, log, pid_file } = process;
    let log_file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .with_context(|| format!("cannot write `{}`", log.display()))?;
    let mut launch = Command::new("/proc/self/exe");
    launch.arg0("palisade").arg("dev-launch").arg(format!("--parent={}", getpid()));
    launch.arg("--pid-file").arg(pid_file);
    if let Some(user) = user {
        launch.arg(format!("--uid={user}")).arg(format!("--gid={user}"));
    }
    launch
        .arg("--")
        .args(command)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log_file.try_clone()?)
        .stderr(log_file)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))
}

fn intercept(interception: &Interception) -> anyhow::Result<()> {
    let Interception { annotations, proxy_user, dns_servers } = interception;
    let owner = match proxy_user {
        Some(user) => ProxyOwner::Ids { uid: *user, gid: *user },
        None => ProxyOwner::Mark(PROXY_ID),
    };
    let dns = DnsCapture::Servers(dns_servers.iter().copied().collect());
    if let Some(mut redirect) = Redirect::from_annotations(annotations, owner, Some(dns))? {
        if matches!(owner, ProxyOwner::Mark(_)) {
            // The proxy calls the control plane before it knows anything, also through sockets without the mark.
            redirect.outbound.excluded_ranges.extend(IpRange::new(network::CONTROL.into(), 32));
        }
        redirect::apply(&redirect)?;
    }
    Ok(())
}

fn apply_services(script: &str) -> anyhow::Result<()> {
    network::run_with_input("nft", &["-f", "-"], script).context("cannot lead Services to their endpoints")
}

/// Shows one file in another's place, to this pod only.
fn show(file: &Path, place: &str) -> anyhow::Result<()> {
    // It may be a link; what it leads to is what programs read.
    let place = std::fs::canonicalize(place).with_context(|| format!("this machine has no `{place}`"))?;
    mount(Some(file), &place, None::<&CStr>, MsFlags::MS_BIND, None::<&CStr>)
        .with_context(|| format!("cannot show `{}`", place.display()))
}

fn read_orders(messages: Sender<Message>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(Ok(order)) = line.map(|line| serde_json::from_str::<Order>(&line)) else { break };
            if messages.send(Message::Order(order)).is_err() {
                return;
            }
        }
        let _ = messages.send(Message::Orphaned);
    });
}

/// Looks at the kernel's list of listening sockets, so that no application sees a connection.
fn await_listeners(ports: &[u16]) -> Event {
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    loop {
        let listened = listened_ports();
        let missing: Vec<u16> = ports.iter().copied().filter(|port| !listened.contains(port)).collect();
        if missing.is_empty() {
            return Event::Listening;
        }
        if Instant::now() >= deadline {
            return Event::NotListening { ports: missing };
        }
        std::thread::sleep(LISTEN_POLL);
    }
}

fn listened_ports() -> Vec<u16> {
    const LISTEN: &str = "0A";
    let mut ports = Vec::new();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let Ok(table) = std::fs::read_to_string(file) else { continue };
        for line in table.lines().skip(1) {
            let mut columns = line.split_whitespace().skip(1);
            let (local, state) = (columns.next(), columns.nth(1));
            if state == Some(LISTEN)
                && let Some((_, port)) = local.and_then(|local| local.rsplit_once(':'))
                && let Ok(port) = u16::from_str_radix(port, 16)
            {
                ports.push(port);
            }
        }
    }
    ports
}

/// The step before the program writes it; a program that cannot be found never does.
fn await_file(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while !path.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// One line to the mesh. If it is gone, so is this process.
fn report(event: &Event) {
    let Ok(mut line) = serde_json::to_string(event) else { return };
    line.push('\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
