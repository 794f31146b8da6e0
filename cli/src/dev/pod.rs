//! A pod as the mesh process sees it: what it is made of, its holder process, and what the holder reports.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::fabric::Fabric;

/// Longest time from starting a holder to its pod's processes.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What a holder needs, as the first line on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodSpec {
    /// `NS/NAME`, for reports.
    pub(super) name: String,
    pub(super) hostname: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Files shown in the pod in the place of this machine's.
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
    /// `None`: no sidecar.
    pub(super) interception: Option<Interception>,
    pub(super) services: String,
    /// In the order in which they start.
    pub(super) processes: Vec<ProcessSpec>,
    /// Ports that say that the applications are there.
    pub(super) ports: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Interception {
    pub(super) annotations: BTreeMap<String, String>,
    /// User and group of the proxy; `None`: its sockets carry a mark.
    pub(super) proxy_user: Option<u32>,
    pub(super) dns_servers: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessSpec {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    /// The whole environment.
    pub(super) environment: Vec<(String, String)>,
    pub(super) folder: PathBuf,
    /// User and group; `None`: this one.
    pub(super) user: Option<u32>,
    pub(super) log: PathBuf,
    /// Gets the process id, as the host sees it.
    pub(super) pid_file: PathBuf,
}

/// Further lines on the holder's standard input. Its end means stop.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The namespace has its interface.
    Attached,
    /// New rules for Services.
    Services(String),
    /// End all processes: ask first, then force.
    Stop,
}

/// Lines on the holder's standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    /// The namespaces are there.
    Created {
        host_pid: u32,
    },
    /// The processes run.
    Started,
    /// The declared ports are listened on.
    Listening,
    /// They are not, after a while; the processes run nevertheless.
    NotListening {
        ports: Vec<u16>,
    },
    Exited {
        process: String,
        status: String,
        log: PathBuf,
        restart_ms: u64,
    },
    /// It runs again.
    Restarted {
        process: String,
    },
    Failed {
        message: String,
    },
}

/// What the pod has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Started,
    Listening,
    Gone,
}

/// A running holder. Dropping it kills the holder; the pod's processes end with it.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) spec: PodSpec,
    pub(super) host_pid: u32,
    /// The pod's network namespace.
    pub(super) namespace: Arc<File>,
    stage: watch::Receiver<Stage>,
    child: Child,
    orders: ChildStdin,
    reader: JoinHandle<()>,
}

impl Pod {
    /// Starts the holder, joins it to the network and waits until its processes run. Later events go to `reports`.
    pub(super) async fn start(
        fabric: &Fabric,
        spec: PodSpec,
        reports: mpsc::Sender<(String, Event)>,
    ) -> anyhow::Result<Self> {
        let name = spec.name.clone();
        tokio::time::timeout(START_TIMEOUT, Self::start_holder(fabric, spec, reports))
            .await
            .with_context(|| format!("pod `{name}` does not start"))?
            .with_context(|| format!("pod `{name}`"))
    }

    async fn start_holder(
        fabric: &Fabric,
        spec: PodSpec,
        reports: mpsc::Sender<(String, Event)>,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg0("palisade")
            .arg("dev-pod")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start its holder")?;
        let mut orders = child.stdin.take().context("no pipe to its holder")?;
        let mut events = BufReader::new(child.stdout.take().context("no pipe from its holder")?).lines();
        write_line(&mut orders, &spec).await?;
        let host_pid = match next(&mut events).await? {
            Event::Created { host_pid } => host_pid,
            other => bail!("its holder says {other:?}"),
        };
        let path = format!("/proc/{host_pid}/ns/net");
        let namespace = File::open(&path).with_context(|| format!("cannot open `{path}`"))?;
        fabric.attach(child.id().context("its holder is gone")?).await?;
        write_line(&mut orders, &Order::Attached).await?;
        match next(&mut events).await? {
            Event::Started => {}
            other => bail!("its holder says {other:?}"),
        }
        let (stage_sender, stage) = watch::channel(Stage::Started);
        let reader = tokio::spawn(read_events(spec.name.clone(), events, stage_sender, reports));
        Ok(Self { spec, host_pid, namespace: Arc::new(namespace), stage, child, orders, reader })
    }

    /// Waits until the pod's applications listen, or have had their time to.
    pub(super) fn listening(&self) -> impl Future<Output = Stage> + Send + 'static {
        let mut stage = self.stage.clone();
        async move { stage.wait_for(|stage| *stage >= Stage::Listening).await.map_or(Stage::Gone, |stage| *stage) }
    }

    pub(super) async fn replace_services(&mut self, script: &str) -> anyhow::Result<()> {
        self.spec.services = script.to_owned();
        write_line(&mut self.orders, &Order::Services(script.to_owned())).await
    }

    /// Ends all processes; the holder asks first, and forces what is left after `grace`.
    pub(super) async fn stop(mut self, grace: Duration) {
        // A holder that is gone already has nothing left to end.
        let _ = write_line(&mut self.orders, &Order::Stop).await;
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        self.reader.abort();
    }
}

async fn write_line(orders: &mut ChildStdin, line: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    orders.write_all(&line).await.context("its holder is gone")
}

async fn next(events: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Event> {
    let line = events.next_line().await?.context("its holder ended")?;
    let event = serde_json::from_str(&line).with_context(|| format!("its holder wrote `{line}`"))?;
    match event {
        Event::Failed { message } => bail!(message),
        event => Ok(event),
    }
}

async fn read_events(
    name: String,
    mut events: Lines<BufReader<ChildStdout>>,
    stage: watch::Sender<Stage>,
    reports: mpsc::Sender<(String, Event)>,
) {
    loop {
        let event = match events.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).unwrap_or(Event::Failed { message: line }),
            _ => break,
        };
        if matches!(event, Event::Listening | Event::NotListening { .. }) {
            stage.send_replace(Stage::Listening);
        }
        if reports.send((name.clone(), event)).await.is_err() {
            break;
        }
    }
    stage.send_replace(Stage::Gone);
}
