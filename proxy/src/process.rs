//! A proxy process: everything that gateway and sidecar start, keep running and end alike.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use palisade_model::{feature, settings::ProxyKind};
use palisade_policy::ShortId;
use palisade_wire::delta::client::Profile;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

mod applier;
mod identity;
mod limits;
mod listeners;
pub mod log;
mod options;
mod saved;
mod tasks;
pub mod variables;

pub use limits::LimitOptions;
pub use options::ProxyOptions;

use self::{
    applier::{RecentDecisions, RuntimeApplier, SubscriptionLookups},
    identity::IdentityKeeper,
    saved::Keeping,
    tasks::Vital,
};
use crate::{
    admin,
    config::{
        ConfigClient, Credentials, Dialer, IdentityClient, StateFolder, StateFolderError, Subscriptions, TlsDialer,
        TokenSource,
    },
    runtime::{
        Runtime, RuntimeSettings,
        datagrams::DatagramListeners,
        decisions::DecisionSettings,
        server::{Role, Server},
        source::{LogFilter, RuntimeSource},
        workers::Workers,
    },
    serve::{Bind, DrainOutcome, DrainPlan, ListenerSet, drain::terminated},
    telemetry::{AccessLog, Metrics, bounded_file::BoundedFile},
    tls::IdentityStore,
    transport::{EmbedError, ProxySettings},
};

/// Tries that Pingora makes at most. A route's policy grants each one, but for those that only met a pooled connection that was dead: a
/// peer that restarts leaves dozens.
const MAX_ATTEMPTS: usize = 64;
/// How often gauges are set.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long the last write of what is kept across restarts may take.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Snapshots waiting for their listeners: one at a time is applied.
const RECONCILE_QUEUE: usize = 1;

/// How this process reaches the control plane.
#[derive(Clone)]
pub struct ControlAccess {
    /// The way there.
    pub dialer: Dialer,
    /// What proves the pod.
    pub token: TokenSource,
    /// Lifetime to ask for certificates.
    pub lifetime: Option<Duration>,
    /// Where things are kept across restarts; `None` = nowhere.
    pub state: Option<StateFolder>,
}

/// What is particular about one process.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// Gateway or sidecar.
    pub kind: ProxyKind,
    /// Namespace and name of the pod.
    pub pod: (Arc<str>, Arc<str>),
    /// Fixed listeners of a sidecar; a gateway's come from the snapshot.
    pub captures: Vec<(Role, Bind)>,
    /// Addresses of the admin, metrics and health pages.
    pub pages: Pages,
    /// The drain.
    pub drain: DrainPlan,
    /// Limits.
    pub runtime: RuntimeSettings,
}

/// Addresses of the pages; `None` = not served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pages {
    /// Admin, loopback.
    pub admin: Option<SocketAddr>,
    /// Metrics.
    pub metrics: Option<SocketAddr>,
    /// Readiness.
    pub health: Option<SocketAddr>,
}

/// Why a process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A socket cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A capture port cannot be bound.
    #[error("{0}")]
    Capture(String),
    /// Pingora.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// Threads, signals.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An option.
    #[error("{0}")]
    Option(String),
    /// The folder for what is kept.
    #[error(transparent)]
    State(#[from] StateFolderError),
    /// A task that must run as long as the process has ended.
    #[error("the {0} has ended: the process ends, to be started again")]
    Task(String),
}

/// A proxy that is set up and not yet serving; its runtime may be handed to others (a sidecar's DNS).
pub struct Process {
    settings: ProcessSettings,
    runtime: Arc<Runtime>,
    filter: Arc<dyn LogFilter>,
    writer: crate::telemetry::access_log::AccessLogWriter,
    decision_writer: Option<crate::telemetry::access_log::AccessLogWriter>,
}

impl ProxyOptions {
    /// How the control plane is reached.
    ///
    /// # Errors
    /// When the name of the control plane is none, or the state folder is not this user's alone.
    pub fn access(&self) -> Result<ControlAccess, ProcessError> {
        let name = self.control_server_name();
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| ProcessError::Option(format!("`{name}` is not a name that a certificate can carry")))?;
        let dialer = TlsDialer {
            address: self.control.clone(),
            server_name,
            roots: self.control_ca.clone(),
            credentials: Arc::new(Credentials::default()),
        };
        Ok(ControlAccess {
            dialer: Dialer::tls(dialer),
            token: TokenSource::File(self.token_file.clone()),
            lifetime: self.cert_ttl.map(Duration::from_secs),
            state: self.state_dir.as_deref().map(StateFolder::open).transpose()?,
        })
    }

    /// The settings of a process of this kind.
    pub fn settings(&self, kind: ProxyKind, captures: Vec<(Role, Bind)>) -> ProcessSettings {
        let mut runtime = RuntimeSettings::new(format!("{}/{}", self.namespace, self.name));
        runtime.system_roots.clone_from(&self.system_roots);
        runtime.socket_mark = self.socket_mark;
        runtime.workers = self.workers;
        runtime.decisions =
            DecisionSettings { record_one_in: self.decision_record_one_in, replay_one_in: self.policy_replay_one_in };
        runtime.app_probes = self.app_probes.clone().zip(self.pod_ip.first().copied());
        runtime.decision_log = self.decision_log.clone().map(|path| (path, self.decision_log_bytes));
        self.limits.apply(&mut runtime);
        ProcessSettings {
            kind,
            pod: (self.namespace.as_str().into(), self.name.as_str().into()),
            captures,
            pages: Pages { admin: Some(self.admin), metrics: Some(self.metrics), health: Some(self.health) },
            drain: DrainPlan { lame_duck: Duration::ZERO, deadline: Duration::from_secs(self.drain_seconds) },
            runtime,
        }
    }
}

impl Process {
    /// Sets a proxy up. The access log goes to `output`.
    ///
    /// # Errors
    /// When the writer thread cannot be started.
    pub fn new(
        settings: ProcessSettings,
        filter: Arc<dyn LogFilter>,
        output: impl io::Write + Send + 'static,
    ) -> Result<Self, ProcessError> {
        let metrics = Arc::new(Metrics::new());
        let (log, writer) = AccessLog::start(output, metrics.access_log_dropped.clone())?;
        let identities = Arc::new(IdentityStore::new());
        let mut decision_log = None;
        let mut decision_writer = None;
        if let Some((path, limit)) = &settings.runtime.decision_log {
            let file = BoundedFile::open(path.clone(), *limit)?;
            let (log, writer) = AccessLog::start(file, metrics.decision_log_dropped.clone())?;
            (decision_log, decision_writer) = (Some(log), Some(writer));
        }
        let runtime = Runtime::with_decision_log(settings.runtime.clone(), identities, metrics, log, decision_log);
        Ok(Self { settings, runtime, filter, writer, decision_writer })
    }

    /// What the proxy shares.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Serves until `terminate` completes or a task without which there is no proxy has ended, then drains. A second signal ends the drain (see [`Drain`]).
    ///
    /// [`Drain`]: crate::serve::Drain
    ///
    /// # Errors
    /// When something cannot be set up, or a task that must not end has ended; once serving, the drain comes first.
    pub async fn run(
        self,
        access: ControlAccess,
        terminate: impl Future<Output = ()>,
    ) -> Result<DrainOutcome, ProcessError> {
        let Self { settings, runtime, filter, writer, decision_writer } = self;
        let ProcessSettings { kind, pod, captures, pages, drain, runtime: _ } = settings;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut vital = Vital::default();
        let pages_stop = watch::Sender::new(false);
        serve_pages(&runtime, filter, pages, &pages_stop, &mut tasks).await?;

        let limits = ProxySettings { max_attempts: MAX_ATTEMPTS };
        let workers = Arc::new(Workers::start(&runtime, &limits).await?);
        let server = |role| Server::on_workers(Arc::clone(&runtime), Arc::clone(&workers), role);

        let ControlAccess { dialer, token, lifetime, state } = access;
        let credentials = match &dialer {
            Dialer::Tls(dialer) => Some(Arc::clone(&dialer.credentials)),
            Dialer::Pipe(_) => None,
        };
        let keeper = Arc::new(IdentityKeeper::new(Arc::clone(&runtime.identities), credentials));
        let (reconcile, mut reconciling) = mpsc::channel(RECONCILE_QUEUE);
        let applier = RuntimeApplier {
            runtime: Arc::clone(&runtime),
            keeper: Arc::clone(&keeper),
            reconcile: (kind == ProxyKind::Gateway).then_some(reconcile),
        };
        let profile = Profile {
            namespace: Arc::clone(&pod.0),
            name: Arc::clone(&pod.1),
            build: env!("CARGO_PKG_VERSION").into(),
            features: feature::all(),
            short_id: ShortId::of(&runtime.settings().proxy).to_string().into(),
        };
        let (client, subscriptions) =
            ConfigClient::new(profile, dialer.clone(), token.clone(), Arc::new(applier), BTreeSet::new());
        let outbox = Arc::clone(&runtime.decisions.outbox);
        let mut client = client.with_explainer(Arc::new(RecentDecisions(Arc::clone(&runtime)))).with_reports(outbox);
        client = client.with_trusting(Arc::<IdentityKeeper>::clone(&keeper));
        let mut keeping = None;
        let state = state.map(|folder| Arc::new(Keeping { folder, pod }));
        if let Some(state) = &state {
            let saved = state.restored(feature::all(), &keeper, &dialer).await;
            let (newest, changes) = watch::channel(None);
            client = client.with_saved(saved, newest);
            keeping = Some(tokio::spawn(state.folder.clone().keep(changes, stop.clone())));
            vital.spawn("keeper of certificates", Arc::clone(state).follow(Arc::clone(&keeper)));
        }
        runtime.set_lookups(Arc::new(SubscriptionLookups(subscriptions.clone())));
        let identity = IdentityClient { dialer, token, lifetime };
        vital.spawn("identity client", keep_identity(identity, keeper, Arc::clone(&runtime), stop.clone()));
        vital.spawn("configuration client", client.run(stop.clone()));
        vital.spawn("upkeep", upkeep(Arc::clone(&runtime), subscriptions, stop.clone()));
        vital.spawn("judge of open connections", Arc::clone(&runtime).follow_identities());

        // One set per role, since a set serves all its listeners alike.
        let mut sets: Vec<ListenerSet> = Vec::new();
        for (role, bind) in captures {
            let mut set = ListenerSet::new(server(role));
            if let Some(error) = set.reconcile(vec![bind]).await.into_iter().next() {
                return Err(ProcessError::Capture(error.to_string()));
            }
            sets.push(set);
        }
        let mut edge = ListenerSet::new(server(Role::Gateway));
        let mut datagrams = DatagramListeners::new(Arc::clone(&runtime));
        let mut lost = None;
        let ended = async {
            tokio::select! {
                () = terminate => {}
                () = drain_asked(&runtime) => {}
                // Worse than no proxy is one whose certificates nobody renews and whose policies nobody changes.
                task = vital.first_end() => {
                    tracing::error!(task, "a task that must run has ended; draining");
                    lost = Some(task);
                }
            }
        };
        listeners::follow(&mut edge, &mut datagrams, &runtime, &mut reconciling, ended).await;
        sets.push(edge);
        // Flows go on while the others drain, for as long as senders have more to say.
        let outcome = drain_all(&runtime, sets, drain).await;
        datagrams.end().await;
        stop.cancel();
        if let Some(keeping) = keeping
            && tokio::time::timeout(LAST_WRITE, keeping).await.is_err()
        {
            tracing::warn!("what is kept across restarts is not written in time");
        }
        pages_stop.send_replace(true);
        tasks.shutdown().await;
        vital.shutdown().await;
        writer.close();
        if let Some(writer) = decision_writer {
            writer.close();
        }
        match lost {
            Some(task) => Err(ProcessError::Task(task.to_owned())),
            None => Ok(outcome),
        }
    }
}

async fn drain_all(runtime: &Runtime, sets: Vec<ListenerSet>, plan: DrainPlan) -> DrainOutcome {
    let mut drains = JoinSet::new();
    for mut set in sets {
        let (drain, registry) = (Arc::clone(&runtime.drain), runtime.registry.clone());
        drains.spawn(async move { drain.run(&mut set, &registry, plan).await });
    }
    let mut outcome = DrainOutcome::Complete;
    while let Some(ended) = drains.join_next().await {
        if let Ok(forced @ DrainOutcome::Forced(_)) = ended {
            outcome = forced;
        }
    }
    outcome
}

/// Completes when the admin page asks for a drain.
async fn drain_asked(runtime: &Runtime) {
    let mut draining = runtime.drain.watch();
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn serve_pages(
    runtime: &Arc<Runtime>,
    filter: Arc<dyn LogFilter>,
    pages: Pages,
    stop: &watch::Sender<bool>,
    tasks: &mut JoinSet<()>,
) -> Result<(), ProcessError> {
    let source = RuntimeSource::new(Arc::clone(runtime), filter);
    let Pages { admin: admin_address, metrics, health } = pages;
    let mut metrics_pages = admin::metrics_pages(Arc::clone(&runtime.metrics));
    if let Some((probes, address)) = runtime.settings().app_probes.clone() {
        metrics_pages = admin::app_probe_pages(probes, address).fallback_service(metrics_pages);
    }
    let all = [
        (admin_address, admin::admin_pages(Arc::clone(&source) as Arc<dyn admin::AdminSource>)),
        (metrics, metrics_pages),
        (health, admin::health_pages(source)),
    ];
    for (address, pages) in all {
        let Some(address) = address else { continue };
        let listener = TcpListener::bind(address).await.map_err(|source| ProcessError::Listen { address, source })?;
        let stop = stop.subscribe();
        tasks.spawn(async move {
            if let Err(error) = admin::serve(listener, pages, stop).await {
                tracing::error!(%error, %address, "the pages are not served any more");
            }
        });
    }
    Ok(())
}

async fn keep_identity(
    client: IdentityClient,
    keeper: Arc<IdentityKeeper>,
    runtime: Arc<Runtime>,
    stop: CancellationToken,
) {
    let install = |issued: Arc<crate::config::IssuedIdentity>| {
        let expiry = issued.not_after().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        keeper.install(issued)?;
        runtime.metrics.certificates_issued.inc();
        runtime.metrics.certificate_expiry.set(expiry.as_secs_f64());
        Ok::<(), String>(())
    };
    client.keep_until(install, keeper.renewal_due(), stop).await;
}

async fn upkeep(runtime: Arc<Runtime>, subscriptions: Subscriptions, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                let is_connected = subscriptions.state().borrow().is_connected;
                runtime.metrics.control_connected.set(i64::from(is_connected));
            }
        }
    }
}

/// Runs a proxy from its options until it is told to leave, on a runtime of its own.
///
/// # Errors
/// When it cannot be set up.
pub fn run_to_end<F, S>(process: Process, access: ControlAccess, beside: F) -> Result<DrainOutcome, ProcessError>
where
    F: FnOnce(Arc<Runtime>, CancellationToken) -> S,
    S: Future<Output = Result<(), ProcessError>> + Send + 'static,
{
    // Connections have workers of their own; here is what goes on beside them.
    // The kernel may give memory in pieces of 2 MiB, of which a proxy's heap would fill a part (decision 0005).
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay");
    }
    let beside_workers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = beside_workers.block_on(async {
        let runtime = Arc::clone(process.runtime());
        let stop = CancellationToken::new();
        let drain = Arc::clone(&runtime.drain);
        let extra = beside(Arc::clone(&runtime), stop.clone());
        let mut extra = tokio::spawn(extra);
        let first = CancellationToken::new();
        let told = first.clone();
        let signals = tokio::spawn(async move {
            match terminated(&drain).await {
                Ok(second) => {
                    told.cancel();
                    second.await;
                }
                Err(error) => tracing::error!(%error, "signals are not heard"),
            }
        });
        let serving = process.run(access, first.cancelled());
        tokio::pin!(serving);
        let outcome = tokio::select! {
            outcome = &mut serving => outcome,
            ended = &mut extra => match ended {
                Ok(Ok(())) => serving.await,
                Ok(Err(error)) => Err(error),
                Err(error) => Err(ProcessError::Option(error.to_string())),
            },
        };
        stop.cancel();
        signals.abort();
        outcome
    });
    beside_workers.shutdown_timeout(Duration::from_secs(1));
    outcome
}
