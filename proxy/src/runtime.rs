//! What a running proxy shares: the configuration in force, identities, live connections, telemetry.
//!
//! Nothing here is configuration of its own: behaviour comes from the snapshot, limits from [`RuntimeSettings`].

use std::{convert::Infallible, net::IpAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::future::BoxFuture;
use palisade_model::{reason::Reason, service::Query, snapshot::Snapshot};
use parking_lot::Mutex;
use tokio::sync::watch;

pub mod connection;
pub mod datagrams;
pub mod decisions;
pub mod edge;
pub mod files;
pub mod limits;
pub mod providers;
pub mod recent;
pub mod server;
pub mod source;
pub mod transports;
pub mod workers;

use self::{
    decisions::{DecisionSettings, Decisions},
    edge::EdgePorts,
    limits::ClientLimits,
    providers::Providers,
    transports::Transports,
};
use crate::{
    admin::AppProbes,
    config::Outbox,
    http::{copies::Copies, stream::StreamSubject},
    index::{BuildError, RuntimeIndex},
    names::{Names, NamesSettings},
    serve::{AdmissionTimeouts, Drain, ListenerOptions, LiveFacts, LiveRegistry, Verdict},
    telemetry::{AccessLog, Metrics},
    tls::IdentityStore,
    transport::{ConnectorSettings, H1Limits, H2Limits, MeshConnector},
};

/// Who can be asked about destinations that are not known yet (architecture rule 6).
pub trait Lookups: Send + Sync + 'static {
    /// Completes once the answer is part of the configuration in force. Bounded in time; equal questions are one.
    fn ask(&self, query: Query) -> BoxFuture<'static, Result<(), LookupUnavailable>>;
}

/// Nobody could be asked: `config-unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control plane did not answer")]
pub struct LookupUnavailable;

/// Limits of one process.
#[derive(Debug, Clone)]
pub struct RuntimeSettings {
    /// `NAMESPACE/POD`, as in logs.
    pub proxy: Arc<str>,
    /// Limits of admissions.
    pub timeouts: AdmissionTimeouts,
    /// Limits of downstream HTTP/1 connections.
    pub h1: H1Limits,
    /// Limits of downstream HTTP/2 connections.
    pub h2: H2Limits,
    /// CA certificates for TLS origination without a CA of its own.
    pub system_roots: PathBuf,
    /// Mark of the proxy's own sockets, where redirection rules know them by it.
    pub socket_mark: Option<u32>,
    /// Client connections open at once on one listener. `None`: no limit.
    pub max_connections: Option<NonZeroUsize>,
    /// Bytes of a request's body. `None`: no limit.
    pub max_body_bytes: Option<u64>,
    /// A request on which nothing moves for this long is ended. `None`: never.
    pub stream_idle_timeout: Option<Duration>,
    /// The same for opaque connections.
    pub tcp_idle_timeout: Option<Duration>,
    /// How long a request waits for a lookup in all.
    pub lookup_timeout: Duration,
    /// Threads that serve connections; `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// How many decisions are looked at closer.
    pub decisions: DecisionSettings,
    /// File of decision records and its largest size in bytes.
    pub decision_log: Option<(PathBuf, u64)>,
    /// Probes of the application that are asked of this proxy, and the address where the application is.
    pub app_probes: Option<(AppProbes, IpAddr)>,
}

/// Why a snapshot is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError<E> {
    /// Its index cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// What else must hold under it cannot be made ready.
    #[error("{0}")]
    Prepare(E),
}

/// What a running proxy shares.
pub struct Runtime {
    settings: RuntimeSettings,
    index: ArcSwapOption<RuntimeIndex>,
    edge: ArcSwap<EdgePorts>,
    limits: ArcSwap<ClientLimits>,
    /// One application of a snapshot at a time.
    applying: Mutex<()>,
    version: watch::Sender<u64>,
    lookups: ArcSwapOption<Arc<dyn Lookups>>,
    /// The workload's certificates.
    pub identities: Arc<IdentityStore>,
    /// All live connections and streams.
    pub registry: LiveRegistry,
    /// The drain of the process.
    pub drain: Arc<Drain>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub log: AccessLog,
    /// Names of endpoints.
    pub names: Names,
    /// Upstream transports.
    pub transports: Transports,
    /// Connections to external authorizers.
    pub providers: Providers,
    /// What is remembered of decisions.
    pub decisions: Decisions,
    /// Copies of requests in flight.
    pub copies: Copies,
}

impl RuntimeSettings {
    /// The usual limits for a proxy of this name.
    pub fn new(proxy: impl Into<Arc<str>>) -> Self {
        Self {
            proxy: proxy.into(),
            timeouts: AdmissionTimeouts { detection: Some(Duration::from_secs(5)), handshake: Duration::from_secs(15) },
            h1: H1Limits::default(),
            h2: H2Limits::default(),
            system_roots: "/etc/ssl/certs/ca-certificates.crt".into(),
            socket_mark: None,
            max_connections: None,
            max_body_bytes: None,
            stream_idle_timeout: None,
            tcp_idle_timeout: Some(Duration::from_secs(3600)),
            lookup_timeout: Duration::from_secs(5),
            workers: None,
            decisions: DecisionSettings::default(),
            decision_log: None,
            app_probes: None,
        }
    }
}

impl Runtime {
    /// A runtime without a configuration.
    pub fn new(
        settings: RuntimeSettings,
        identities: Arc<IdentityStore>,
        metrics: Arc<Metrics>,
        log: AccessLog,
    ) -> Arc<Self> {
        Self::with_decision_log(settings, identities, metrics, log, None)
    }

    /// As [`Runtime::new`]; decision records go to `decision_log`.
    pub fn with_decision_log(
        settings: RuntimeSettings,
        identities: Arc<IdentityStore>,
        metrics: Arc<Metrics>,
        log: AccessLog,
        decision_log: Option<AccessLog>,
    ) -> Arc<Self> {
        let connector = MeshConnector::new(ConnectorSettings::default());
        let transports =
            Transports::new(connector, Arc::clone(&identities), settings.system_roots.clone(), settings.socket_mark);
        let names = Names::new(NamesSettings { socket_mark: settings.socket_mark, ..NamesSettings::default() });
        let outbox = Arc::new(Outbox::new(metrics.decision_stream_dropped.clone()));
        let decisions = Decisions::new(settings.decisions, &settings.proxy, decision_log, outbox);
        Arc::new(Self {
            limits: ArcSwap::from_pointee(ClientLimits::of(&settings, None)),
            settings,
            index: ArcSwapOption::empty(),
            edge: ArcSwap::default(),
            applying: Mutex::new(()),
            version: watch::Sender::new(0),
            lookups: ArcSwapOption::empty(),
            identities,
            registry: LiveRegistry::new(),
            drain: Arc::new(Drain::new()),
            metrics,
            log,
            names,
            transports,
            providers: Providers::default(),
            decisions,
            copies: Copies::default(),
        })
    }

    /// Limits.
    pub fn settings(&self) -> &RuntimeSettings {
        &self.settings
    }

    /// Limits of clients' connections under the configuration in force.
    pub fn limits(&self) -> Arc<ClientLimits> {
        self.limits.load_full()
    }

    /// The configuration in force; `None` before the first.
    pub fn index(&self) -> Option<Arc<RuntimeIndex>> {
        self.index.load_full()
    }

    /// Whether this is the configuration in force. Cheaper than to fetch it.
    pub fn is_index(&self, index: &Arc<RuntimeIndex>) -> bool {
        self.index.load().as_ref().is_some_and(|present| Arc::ptr_eq(present, index))
    }

    /// A gateway's ports.
    pub fn edge(&self) -> Arc<EdgePorts> {
        self.edge.load_full()
    }

    /// Counts configurations: rises with each one that is put in force.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Names who answers lookups. Without one, what is not known is `config-unavailable`.
    pub fn set_lookups(&self, lookups: Arc<dyn Lookups>) {
        self.lookups.store(Some(Arc::new(lookups)));
    }

    /// Builds the index of a snapshot completely, then puts it in force for every request that begins from now on, then
    /// judges what lives by it. CPU work: call it off the async threads.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Result<(), BuildError> {
        self.apply_with(snapshot, |_| Ok::<_, Infallible>(())).map_err(|error| match error {
            ApplyError::Build(error) => error,
            ApplyError::Prepare(never) => match never {},
        })
    }

    /// As [`Runtime::apply`]. Once all is built, `prepare` makes ready what else must hold under it; it changes all or nothing.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn apply_with<E>(
        &self,
        snapshot: Arc<Snapshot>,
        prepare: impl FnOnce(&RuntimeIndex) -> Result<(), E>,
    ) -> Result<(), ApplyError<E>> {
        let applying = self.applying.lock();
        let previous = self.index.load_full();
        let index = match RuntimeIndex::build(snapshot, previous.as_deref()) {
            Ok(index) => Arc::new(index),
            Err(error) => {
                self.metrics.config_rejected.inc();
                return Err(ApplyError::Build(error));
            }
        };
        let limits = ClientLimits::of(&self.settings, index.settings().connections.as_ref());
        let options = ListenerOptions { max_connections: limits.max_connections, ..ListenerOptions::default() };
        let edge = EdgePorts::build(&index, &self.edge.load(), self.settings.timeouts, &options);
        if let Err(error) = prepare(&index) {
            self.metrics.config_rejected.inc();
            return Err(ApplyError::Prepare(error));
        }
        self.edge.store(Arc::new(edge));
        self.limits.store(Arc::new(limits));
        self.metrics.policies.follow(&index);
        self.index.store(Some(Arc::clone(&index)));
        self.metrics.config_applied.inc();
        drop(applying);
        self.judge_again();
        self.version.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Judges everything that lives by the configuration and the identity in force, and ends what they do not permit
    /// (architecture rule 8). CPU work: call it off the async threads.
    pub fn judge_again(&self) {
        let Some(index) = self.index() else { return };
        let mut ended = Vec::new();
        let closed = self.registry.reevaluate(|facts| {
            let verdict = self.judge(facts, &index);
            if let (Verdict::Close(reason), Some(subject)) = (verdict, &facts.subject) {
                ended.push((Arc::clone(subject), reason));
            }
            verdict
        });
        // Only now has each its reason, which its end will report.
        for (subject, reason) in ended {
            if let Some(stream) = subject.downcast_ref::<StreamSubject>() {
                stream.end(reason);
            }
        }
        if !closed.is_empty() {
            tracing::info!(?closed, "closed what is no longer permitted");
        }
    }

    /// Judges everything again whenever another identity is installed: who was vouched for by a root that is gone must go.
    /// Never ends.
    pub async fn follow_identities(self: Arc<Self>) {
        let mut generations = self.identities.generations();
        // What was installed before this began, too.
        generations.mark_changed();
        while generations.changed().await.is_ok() {
            let runtime = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || runtime.judge_again()).await {
                tracing::error!(%error, "what lives was not judged by the new identity");
            }
        }
    }

    fn judge(&self, facts: &LiveFacts, index: &Arc<RuntimeIndex>) -> Verdict {
        let Some(subject) = &facts.subject else { return Verdict::Keep };
        // Connections without a request have no subject: they are admitted again before their next one.
        let permitted = if let Some(stream) = subject.downcast_ref::<StreamSubject>() {
            stream.still_permitted(self, index)
        } else if let Some(relay) = subject.downcast_ref::<server::RelaySubject>() {
            relay.still_permitted(self, index)
        } else if let Some(flow) = subject.downcast_ref::<datagrams::FlowSubject>() {
            flow.still_permitted(index)
        } else {
            Ok(())
        };
        permitted.map_or_else(Verdict::Close, |()| Verdict::Keep)
    }

    /// Asks about a destination, for as long as a request may wait.
    ///
    /// # Errors
    /// [`LookupUnavailable`] when there is nobody to ask or no answer in time.
    pub async fn ask(&self, query: Query) -> Result<(), LookupUnavailable> {
        let lookups = self.lookups.load_full().ok_or(LookupUnavailable)?;
        tokio::time::timeout(self.settings.lookup_timeout, lookups.ask(query)).await.map_err(|_| LookupUnavailable)?
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("proxy", &self.settings.proxy).finish_non_exhaustive()
    }
}

/// The reason of traffic that came before the first configuration.
pub const NOT_READY: Reason = Reason::ConfigUnavailable;

#[cfg(test)]
mod tests;
