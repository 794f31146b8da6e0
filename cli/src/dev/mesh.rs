//! The mesh: starts everything, follows the documents, ends everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::stream::{StreamExt, TryStreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

mod gateways;
mod readiness;
mod report;
mod specs;

use self::gateways::RunningGateway;
use self::specs::Specs;
use super::directory::{self, Directory, Running, RunningPod};
use super::fabric::Fabric;
use super::follow::Fingerprint;
use super::names::Table;
use super::plan::{NamePlan, Plan, PodId, PodPlan};
use super::pod::{Event, Pod};
use super::ready::{Ready, ReadyControl, ReadyExternal, ReadyPod};
use super::relay::{Inside, Relay};
use super::{MeshOptions, commands, network, plan, services, url};

/// Pods that start at the same time: each is a few short processes, which share this machine's cores.
const PARALLEL_STARTS: usize = 8;

/// Events of holders that are not yet reported; they are rare, and a holder may wait.
const EVENTS: usize = 64;

/// How often documents are looked at for pods that come and go. What they say otherwise is followed by the control
/// plane itself.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// Longer than a holder's own patience.
const STOP_GRACE: Duration = Duration::from_secs(8);

struct Mesh {
    options: MeshOptions,
    documents: Vec<PathBuf>,
    directory: Directory,
    specs: Specs,
    fabric: Fabric,
    names: Table,
    /// The documents as they were when they were last read.
    seen: Fingerprint,
    services: String,
    control: Option<(Pod, Relay)>,
    pods: BTreeMap<PodId, RunningPodPlan>,
    gateways: BTreeMap<String, RunningGateway>,
    externals: BTreeMap<String, Pod>,
    events: mpsc::Sender<(String, Event)>,
    /// Changes whenever a process has started again.
    restarts: watch::Receiver<u64>,
    findings: report::Findings,
}

struct RunningPodPlan {
    plan: PodPlan,
    pod: Pod,
    sidecar: Option<ProxyRelays>,
}

/// A proxy's pages, on this machine.
struct ProxyRelays {
    admin: Relay,
    metrics: Relay,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

/// Runs until a signal ends it.
pub(super) async fn run(options: MeshOptions) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let root = directory::root(&options.instance);
    let directory = Directory::claim(&root, &options.instance.name.0)?;
    if let Some(path) = &options.ready_file {
        // An earlier run's would say that this one is ready.
        let _ = std::fs::remove_file(path);
    }
    let mut mesh = Mesh::prepare(options, directory).await?;
    let started = tokio::select! {
        result = mesh.start() => Some(result),
        () = signals.any() => None,
    };
    let result = match started {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(())) => mesh.follow(&mut signals).await,
    };
    if let Some(path) = &mesh.options.ready_file {
        let _ = std::fs::remove_file(path);
    }
    tokio::select! {
        () = mesh.stop() => {}
        // The second signal: the kernel ends what is left.
        () = signals.any() => {}
    }
    result.map(|()| ExitCode::SUCCESS)
}

impl Mesh {
    async fn prepare(options: MeshOptions, directory: Directory) -> anyhow::Result<Self> {
        let documents = absolute(&options.documents.files, &directory)?;
        let specs = Specs::prepare(&options, &directory)?;
        let fabric = Fabric::create().await?;
        let names = Table::default();
        fabric.serve_names(names.clone()).await?;
        let (events, received) = mpsc::channel(EVENTS);
        let restarts = report::spawn(received);
        Ok(Self {
            options,
            documents,
            directory,
            specs,
            fabric,
            names,
            seen: Fingerprint::default(),
            services: services::nft_script(&[]),
            control: None,
            pods: BTreeMap::new(),
            gateways: BTreeMap::new(),
            externals: BTreeMap::new(),
            events,
            restarts,
            findings: report::Findings::default(),
        })
    }

    /// Starts everything that the documents name, and waits until it is ready.
    async fn start(&mut self) -> anyhow::Result<()> {
        // Before they are read: what changes from here on is seen as a change.
        self.seen = Fingerprint::of(&self.documents);
        let plan = self.read_plan()?;
        // Before anything runs: an image without a command ends the attempt.
        self.specs.check(&plan)?;
        self.show_addresses(&plan);
        if plan.pods.iter().any(|pod| pod.is_injected) || !plan.gateways.is_empty() {
            self.start_control().await?;
        }
        self.start_externals().await?;
        self.start_missing(plan).await?;
        self.await_ready().await?;
        self.publish()?;
        report::ready(self.gateways.values(), self.pods.len());
        report::unpublished(&self.options.publish, self.gateways.values());
        self.tell_findings().await;
        Ok(())
    }

    async fn follow(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(FOLLOW_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut restarts = self.restarts.clone();
        loop {
            tokio::select! {
                () = signals.any() => return Ok(()),
                changed = restarts.changed() => {
                    changed.context("the reports ended")?;
                    self.publish()?;
                }
                _ = tick.tick() => {
                    let now = Fingerprint::of(&self.documents);
                    if now != self.seen {
                        self.seen = now;
                        // Documents may be broken for a while: what runs goes on.
                        if let Err(error) = self.update().await {
                            eprintln!("palisade: {error:#}; the pods stay as they are");
                        }
                        self.tell_findings().await;
                    }
                }
            }
        }
    }

    /// Brings pods, gateways, addresses and names to what the documents say now.
    async fn update(&mut self) -> anyhow::Result<()> {
        let plan = self.read_plan()?;
        self.specs.check(&plan)?;
        self.show_addresses(&plan);
        self.stop_changed(&plan).await;
        if self.control.is_none() && (plan.pods.iter().any(|pod| pod.is_injected) || !plan.gateways.is_empty()) {
            self.start_control().await?;
        }
        let services = self.services.clone();
        for pod in self.all_pods() {
            if pod.spec.services != services {
                pod.replace_services(&services).await?;
            }
        }
        self.start_missing(plan).await?;
        self.await_ready().await?;
        self.publish()
    }

    async fn tell_findings(&mut self) {
        let namespace = &self.options.documents.namespace;
        self.findings.tell(&self.documents, namespace, self.options.root_namespace.as_deref()).await;
    }

    fn read_plan(&self) -> anyhow::Result<Plan> {
        plan::read(&self.documents, &self.options.documents.namespace, self.options.root_namespace.as_deref())
    }

    fn show_addresses(&mut self, plan: &Plan) {
        self.services = services::nft_script(&plan.services);
        let mut names = plan.names.clone();
        for (index, external) in self.options.externals.iter().enumerate() {
            if let Ok(address) = network::external(index) {
                names.insert(external.host.clone(), NamePlan::Addresses(vec![address]));
            }
        }
        self.names.replace(names);
    }

    async fn start_control(&mut self) -> anyhow::Result<()> {
        let spec = self.specs.control(&self.options, &self.documents, &self.directory)?;
        let pod = Pod::start(&self.fabric, spec, self.events.clone()).await?;
        let admin = self.inside(&pod, commands::CONTROL_ADMIN_PORT).await?;
        readiness::control(&self.fabric, &pod).await?;
        self.specs.take_root_certificate(&self.directory)?;
        self.control = Some((pod, admin));
        Ok(())
    }

    async fn start_externals(&mut self) -> anyhow::Result<()> {
        for (index, external) in self.options.externals.iter().enumerate() {
            let address = network::external(index)?;
            let spec = self.specs.external(external, address, &self.services, &self.directory)?;
            let pod = Pod::start(&self.fabric, spec, self.events.clone()).await?;
            self.externals.insert(external.host.clone(), pod);
        }
        Ok(())
    }

    async fn start_missing(&mut self, plan: Plan) -> anyhow::Result<()> {
        let Plan { pods, gateways, services: _, names: _ } = plan;
        let missing = pods.into_iter().filter(|pod| !self.pods.contains_key(&pod.id)).collect::<Vec<_>>();
        let mesh = &*self;
        let started: Vec<_> = futures::stream::iter(missing)
            .map(|plan| async move { mesh.start_pod(plan).await })
            .buffer_unordered(PARALLEL_STARTS)
            .try_collect()
            .await?;
        self.pods.extend(started.into_iter().map(|pod| (pod.plan.id.clone(), pod)));
        for gateway in gateways {
            match self.gateways.get_mut(&gateway.name) {
                // Only its ports differ.
                Some(running) => running.publish(&self.fabric, gateway, &self.options.publish).await?,
                None => {
                    let spec = self.specs.gateway(&gateway, &self.services, &self.directory)?;
                    let pod = Pod::start(&self.fabric, spec, self.events.clone()).await?;
                    let relays = self.proxy_relays(&pod).await?;
                    let taken = self.gateways.values().flat_map(RunningGateway::host_ports).collect();
                    let running =
                        RunningGateway::open(&self.fabric, gateway, pod, relays, &self.options.publish, taken).await?;
                    self.gateways.insert(running.plan.name.clone(), running);
                }
            }
        }
        Ok(())
    }

    async fn start_pod(&self, plan: PodPlan) -> anyhow::Result<RunningPodPlan> {
        let spec = self.specs.pod(&plan, &self.services, &self.directory)?;
        let pod = Pod::start(&self.fabric, spec, self.events.clone()).await?;
        let sidecar = if plan.is_injected { Some(self.proxy_relays(&pod).await?) } else { None };
        Ok(RunningPodPlan { plan, pod, sidecar })
    }

    /// Ends what the documents no longer name, or name otherwise.
    async fn stop_changed(&mut self, plan: &Plan) {
        let mut ended = Vec::new();
        let kept: BTreeMap<&PodId, &PodPlan> = plan.pods.iter().map(|pod| (&pod.id, pod)).collect();
        let changed: Vec<PodId> = self
            .pods
            .values()
            .filter(|pod| kept.get(&pod.plan.id) != Some(&&pod.plan))
            .map(|pod| pod.plan.id.clone())
            .collect();
        ended.extend(changed.iter().filter_map(|id| self.pods.remove(id)).map(|running| running.pod));
        let changed: Vec<String> = self
            .gateways
            .values()
            .filter(|running| !plan.gateways.iter().any(|gateway| running.is_same_process(gateway)))
            .map(|running| running.plan.name.clone())
            .collect();
        ended.extend(changed.iter().filter_map(|name| self.gateways.remove(name)).map(|running| running.pod));
        futures::future::join_all(ended.into_iter().map(|pod| pod.stop(STOP_GRACE))).await;
    }

    async fn await_ready(&self) -> anyhow::Result<()> {
        let applications = self.pods.values().map(|running| &running.pod).chain(self.externals.values());
        let proxies = self.pods.values().filter(|running| running.sidecar.is_some()).map(|running| &running.pod);
        let proxies = proxies.chain(self.gateways.values().map(|gateway| &gateway.pod));
        readiness::all(&self.fabric, applications, proxies).await
    }

    async fn proxy_relays(&self, pod: &Pod) -> anyhow::Result<ProxyRelays> {
        Ok(ProxyRelays {
            admin: self.inside(pod, commands::PROXY_ADMIN_PORT).await?,
            metrics: self.inside(pod, commands::PROXY_METRICS_PORT).await?,
        })
    }

    /// A relay to a port on a pod's own loopback.
    async fn inside(&self, pod: &Pod, port: u16) -> anyhow::Result<Relay> {
        let inside = Inside { namespace: Some(pod.namespace.clone()), address: ([127, 0, 0, 1], port).into() };
        Relay::open(&self.fabric, 0, inside).await
    }

    /// Writes what others read: the ready file, and what `dev exec` needs.
    fn publish(&self) -> anyhow::Result<()> {
        let pods = self.pods.values().map(|running| (running.plan.id.to_string(), &running.pod));
        let gateways = self.gateways.values().map(|running| (running.plan.pod.to_string(), &running.pod));
        let externals = self.externals.iter().map(|(host, pod)| (format!("external/{host}"), pod));
        let running = pods.chain(gateways).chain(externals).map(|(name, pod)| (name, running_pod(pod))).collect();
        let control = self.control.as_ref().map(|(_, admin)| url(admin.address));
        let logs = Some(self.specs.logs().to_owned());
        self.directory.write_running(&Running { pods: running, control, logs })?;
        match &self.options.ready_file {
            Some(path) => self.ready().write(path),
            None => Ok(()),
        }
    }

    fn ready(&self) -> Ready {
        let netns = |pod: &Pod| format!("/proc/{}/ns/net", pod.host_pid);
        let first = |pod: &Pod| pod.spec.addresses.first().map(ToString::to_string).unwrap_or_default();
        Ready {
            gateways: self.gateways.values().map(RunningGateway::ready).collect(),
            pods: self
                .pods
                .values()
                .map(|RunningPodPlan { plan, pod, sidecar }| ReadyPod {
                    namespace: plan.id.namespace.clone(),
                    name: plan.id.name.clone(),
                    ip: first(pod),
                    netns: netns(pod),
                    sidecar: sidecar.as_ref().map(|relays| url(relays.admin.address)),
                    metrics: sidecar.as_ref().map(|relays| url(relays.metrics.address)),
                    pid: sidecar.as_ref().and_then(|_| specs::process_id(pod, specs::PROXY)),
                })
                .collect(),
            external: self
                .externals
                .iter()
                .map(|(host, pod)| ReadyExternal { host: host.clone(), ip: first(pod), netns: netns(pod) })
                .collect(),
            control: self.control.as_ref().map(|(pod, admin)| ReadyControl {
                admin: url(admin.address),
                pid: specs::process_id(pod, specs::APPLICATION),
            }),
        }
    }

    fn all_pods(&mut self) -> impl Iterator<Item = &mut Pod> {
        let pods = self.pods.values_mut().map(|running| &mut running.pod);
        pods.chain(self.gateways.values_mut().map(|running| &mut running.pod)).chain(self.externals.values_mut())
    }

    /// Pods first: they drain while the control plane still answers.
    async fn stop(self) {
        let pods = self.pods.into_values().map(|running| running.pod);
        let gateways = self.gateways.into_values().map(|running| running.pod);
        let all = pods.chain(gateways).chain(self.externals.into_values());
        futures::future::join_all(all.map(|pod| pod.stop(STOP_GRACE))).await;
        if let Some((pod, _)) = self.control {
            pod.stop(STOP_GRACE).await;
        }
        if let Err(error) = self.directory.remove() {
            eprintln!("palisade: {error:#}");
        }
    }
}

fn running_pod(pod: &Pod) -> RunningPod {
    let application = pod.spec.processes.iter().find(|process| process.name != specs::PROXY);
    RunningPod {
        host_pid: pod.host_pid,
        addresses: pod.spec.addresses.clone(),
        user: application.and_then(|process| process.user),
        environment: application.map(|process| process.environment.clone()).unwrap_or_default(),
    }
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Completes at the next signal that means the end. Cancel-safe.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// The documents as paths that mean the same everywhere. Standard input becomes a file, since two processes read it.
fn absolute(files: &[PathBuf], directory: &Directory) -> anyhow::Result<Vec<PathBuf>> {
    let mut documents = Vec::with_capacity(files.len());
    for path in files {
        if path == Path::new("-") {
            let text = std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
            documents.push(directory.write("stdin.yaml", text.as_bytes())?);
            continue;
        }
        match path.canonicalize() {
            Ok(path) => documents.push(path),
            Err(error) => bail!("cannot read `{}`: {error}", path.display()),
        }
    }
    Ok(documents)
}
