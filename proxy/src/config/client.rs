//! Drives the delta protocol's client machine over real streams, and hands snapshots to the data plane.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use palisade_model::{hash::ContentHash, resource::ResourceKey, service::Query, snapshot::Snapshot, trust::Trust};
use palisade_wire::{
    delta::{
        Client, MAX_MESSAGE_BYTES, Unbound,
        client::{Action, Apply, KEPT_SUBSCRIPTIONS, Knowledge, Profile},
    },
    proto::v1::{ControlMessage, ProxyMessage, configuration_client::ConfigurationClient},
    saved::Saved,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, Streaming, transport::Channel};

use super::{
    backoff::Backoff,
    dial::{Dialer, TokenSource},
    reports::{Outbox, report},
    subscriptions::Subscriptions,
    trust::{self, Trusting},
};

/// From the call to control's first answer.
const OPEN: Duration = Duration::from_secs(10);

/// Messages that wait for the stream: acks and subscriptions are small and few.
const OUTBOUND: usize = 64;

/// Requests that wait to be asked for.
const COMMANDS: usize = 1024;

/// Queries for what does not exist are given up after this long, so that names made up by an application do not pile up.
const ABSENT_KEPT: Duration = Duration::from_secs(300);

/// How often that is looked after.
const SWEEP: Duration = Duration::from_secs(60);

/// Swaps snapshots into the data plane.
#[async_trait]
pub trait Applier: Send + Sync + 'static {
    /// Builds everything for `snapshot`, of which `changed` keys are new, different or gone since the one before, and swaps
    /// it in on all workers. Returns only then: the ack that follows means exactly that.
    ///
    /// # Errors
    /// When it cannot be built; then nothing has changed.
    async fn apply(&self, snapshot: Arc<Snapshot>, changed: Vec<ResourceKey>) -> Result<Applied, ApplyRejection>;

    /// Of what was subscribed to, what traffic has needed since this was asked last.
    fn used(&self) -> Vec<Query> {
        Vec::new()
    }
}

/// A snapshot that is swapped in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Listeners of it that cannot listen.
    pub unbound: Vec<Unbound>,
}

/// Looks up recent decisions of this proxy.
pub trait Explainer: Send + Sync + 'static {
    /// The explanation of a decision, as the admin page `/why/ID` shows it; `None` = not known (any more).
    fn why(&self, decision: &str) -> Option<serde_json::Value>;
}

/// Why a snapshot is not swapped in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApplyRejection {
    /// The resource at fault, if it is known.
    pub key: Option<ResourceKey>,
    /// Why, in one line.
    pub message: String,
}

/// What the proxy has, and from whom.
#[derive(Debug, Clone, Default)]
pub struct ConfigState {
    /// A stream to control is open and greeted.
    pub is_connected: bool,
    /// Swapped in on all workers; `None` before the first one: the proxy is not ready.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Offer that control knows it by.
    pub offer: Option<ContentHash>,
    /// Why the last stream ended, or why there is none.
    pub last_error: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) enum Command {
    Subscribe(Query),
}

/// The proxy's connection to control.
pub struct ConfigClient {
    machine: Client,
    dialer: Dialer,
    token: TokenSource,
    applier: Arc<dyn Applier>,
    explainer: Option<Arc<dyn Explainer>>,
    /// Follows what control says about the mesh's trust.
    trusting: Option<Arc<dyn Trusting>>,
    /// Decision records for whoever listens at control.
    outbox: Option<Arc<Outbox>>,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<ConfigState>,
    applying: Option<JoinHandle<Result<Applied, ApplyRejection>>>,
    /// When queries that turned out to name nothing were asked last.
    absent: BTreeMap<Query, Instant>,
    /// From before a restart: put in force before anything else.
    restored: Option<Saved>,
    /// Takes what is to be kept across restarts.
    keeper: Option<watch::Sender<Option<Arc<Saved>>>>,
    pod: (Arc<str>, Arc<str>),
}

struct Stream {
    inbound: Streaming<ControlMessage>,
    outbound: mpsc::Sender<ProxyMessage>,
    channel: Channel,
}

impl ConfigClient {
    /// A client that has not started yet, and the handle by which requests ask for what they need.
    ///
    /// `subscriptions` are what the workload is known to use, for example from before a restart.
    pub fn new(
        profile: Profile,
        dialer: Dialer,
        token: TokenSource,
        applier: Arc<dyn Applier>,
        subscriptions: BTreeSet<Query>,
    ) -> (Self, Subscriptions) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (state, watcher) = watch::channel(ConfigState::default());
        let pod = (Arc::clone(&profile.namespace), Arc::clone(&profile.name));
        let mut machine = Client::new(profile);
        // Not connected: nothing is to be sent.
        drop(machine.subscribe(subscriptions));
        let client = Self {
            machine,
            dialer,
            token,
            applier,
            explainer: None,
            trusting: None,
            outbox: None,
            commands,
            state,
            applying: None,
            absent: BTreeMap::new(),
            restored: None,
            keeper: None,
            pod,
        };
        (client, Subscriptions::new(sender, watcher))
    }

    /// Answers control's questions about decisions, too.
    #[must_use]
    pub fn with_explainer(self, explainer: Arc<dyn Explainer>) -> Self {
        Self { explainer: Some(explainer), ..self }
    }

    /// Follows the mesh's trust, too.
    #[must_use]
    pub fn with_trusting(self, trusting: Arc<dyn Trusting>) -> Self {
        Self { trusting: Some(trusting), ..self }
    }

    /// Sends decision records, too, over the same connection.
    #[must_use]
    pub fn with_reports(self, outbox: Arc<Outbox>) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// Begins with what was kept before a restart, and hands what is to be kept to `keeper`, the newest only.
    #[must_use]
    pub fn with_saved(mut self, saved: Saved, keeper: watch::Sender<Option<Arc<Saved>>>) -> Self {
        // Not connected: nothing is to be sent.
        drop(self.machine.subscribe(saved.subscriptions.iter().cloned()));
        Self { restored: Some(saved), keeper: Some(keeper), ..self }
    }

    /// Puts in force what was in force before a restart. What cannot be built any more is forgotten.
    async fn restore(&mut self) {
        let Some((offer, snapshot)) = self.restored.take().and_then(|saved| saved.held) else { return };
        let changed = snapshot.entries().keys().cloned().collect();
        match self.applier.apply(Arc::clone(&snapshot), changed).await {
            Ok(Applied { unbound: _ }) => {
                let version = offer.version();
                tracing::info!(%version, "the configuration from before the restart is in force");
                self.machine.restore(offer, Arc::clone(&snapshot));
                self.state.send_modify(|state| (state.snapshot, state.offer) = (Some(snapshot), Some(version)));
            }
            Err(error) => tracing::warn!(%error, "the configuration from before the restart cannot be used"),
        }
    }

    /// Offers what is to be kept to whoever keeps it.
    fn keep(&self) {
        let Some(keeper) = &self.keeper else { return };
        let held = self.machine.offer().cloned().zip(self.machine.snapshot().cloned());
        let (namespace, name) = self.pod.clone();
        let subscriptions = self.machine.subscriptions().clone();
        keeper.send_replace(Some(Arc::new(Saved { namespace, name, subscriptions, held })));
    }

    /// Until `stop`: connects, applies, comes back after failures with backoff. What is applied stays.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        self.restore().await;
        loop {
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = self.open() => opened,
            };
            let error = match opened {
                Ok(stream) => {
                    let since = Instant::now();
                    let error = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        error = self.follow(stream) => error,
                    };
                    if since.elapsed() > Duration::from_secs(5) {
                        backoff.reset();
                    }
                    error
                }
                Err(error) => error,
            };
            self.machine.disconnected();
            let wait = backoff.next();
            tracing::warn!(%error, wait_ms = wait.as_millis(), "no configuration stream");
            self.state.send_modify(|state| {
                state.is_connected = false;
                state.last_error = Some(error.into());
            });
            if !self.pause(wait, &stop).await {
                return;
            }
        }
    }

    /// Waits, and finishes what is being applied meanwhile. `false` = stop.
    async fn pause(&mut self, wait: Duration, stop: &CancellationToken) -> bool {
        let due = tokio::time::sleep(wait);
        tokio::pin!(due);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = &mut due => return true,
                result = finished(&mut self.applying) => drop(self.decided(result)),
                command = self.commands.recv() => match command {
                    Some(command) => drop(self.subscribe(command)),
                    None => return false,
                },
            }
        }
    }

    /// Opens a stream; says why not.
    async fn open(&mut self) -> Result<Stream, String> {
        let open = async {
            let channel = self.dialer.channel().await.map_err(|error| describe(&error))?;
            let (outbound, messages) = mpsc::channel(OUTBOUND);
            let mut request = Request::new(ReceiverStream::new(messages));
            let bearer = self.token.bearer().await.map_err(|error| error.to_string())?;
            request.metadata_mut().insert("authorization", bearer);
            let inbound = ConfigurationClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .delta(request)
                .await
                .map_err(|status| format!("{} ({})", status.message(), status.code()))?
                .into_inner();
            Ok(Stream { inbound, outbound, channel })
        };
        tokio::time::timeout(OPEN, open).await.unwrap_or_else(|_| Err("the control plane does not answer".to_owned()))
    }

    /// Follows one stream to its end; says why it ended.
    async fn follow(&mut self, mut stream: Stream) -> String {
        let actions = self.machine.connected();
        if let Err(error) = self.act(actions, &stream).await {
            return error;
        }
        // Ends with the stream, whose connection it shares.
        let _reports = self.outbox.as_ref().map(|outbox| {
            let reports = report(stream.channel.clone(), self.token.clone(), self.pod.clone(), Arc::clone(outbox));
            AbortOnDropHandle::new(tokio::spawn(reports))
        });
        let mut sweep = tokio::time::interval(SWEEP);
        let mut standing = self.trusting.as_ref().map(|trusting| trusting.standing());
        loop {
            let deadline = self.machine.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Every branch is cancel-safe. Finished work first: its ack lets control send the next offer.
            let actions = tokio::select! {
                biased;
                result = finished(&mut self.applying) => self.decided(result),
                () = due => self.machine.tick(Instant::now()),
                message = stream.inbound.message() => match message {
                    Ok(Some(message)) => {
                        let actions = self.machine.message(Instant::now(), message);
                        self.state.send_if_modified(|state| !std::mem::replace(&mut state.is_connected, true));
                        actions
                    }
                    Ok(None) => return "the control plane closed the stream".to_owned(),
                    Err(status) => return format!("{} ({})", status.message(), status.code()),
                },
                command = self.commands.recv() => match command {
                    Some(command) => self.subscribe(command),
                    None => return "nobody needs configuration any more".to_owned(),
                },
                standing = trust::changed(&mut standing) => self.machine.standing(&standing),
                _ = sweep.tick() => self.sweep(Instant::now()),
            };
            if let Err(error) = self.act(actions, &stream).await {
                return error;
            }
        }
    }

    async fn act(&mut self, actions: Vec<Action>, stream: &Stream) -> Result<(), String> {
        let mut pending = VecDeque::from(actions);
        while let Some(action) = pending.pop_front() {
            match action {
                Action::Explain { request, decision } => {
                    let found = self.explainer.as_ref().and_then(|explainer| explainer.why(&decision));
                    let json = found.map(|value| Bytes::from(value.to_string()));
                    pending.extend(self.machine.explained(request, json));
                }
                Action::Send(message) => stream
                    .outbound
                    .send_timeout(message, OPEN)
                    .await
                    .map_err(|_| "the control plane takes no messages".to_owned())?,
                Action::Apply(Apply { snapshot, changed }) => {
                    let applier = Arc::clone(&self.applier);
                    self.applying = Some(tokio::spawn(async move { applier.apply(snapshot, changed).await }));
                }
                Action::Surplus(refused) => {
                    let example = refused.first().map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(count = refused.len(), %example, "the control plane answers no more queries");
                    self.keep();
                }
                Action::Trust(trust) => pending.extend(self.trust(trust).await?),
                Action::InSync => tracing::debug!("in sync with the control plane"),
                Action::Reconnect(violation) => return Err(violation.to_string()),
            }
        }
        Ok(())
    }

    /// Puts in force whom control says to trust, and answers.
    async fn trust(&mut self, trust: Trust) -> Result<Vec<Action>, String> {
        let Some(trusting) = self.trusting.clone() else { return Ok(Vec::new()) };
        let standing = tokio::task::spawn_blocking(move || trusting.trust(trust)).await;
        let standing = standing.map_err(|error| format!("what to trust was not put in force: {error}"))?;
        Ok(self.machine.standing(&standing))
    }

    /// Asks for all that waits to be asked for, in one message.
    fn subscribe(&mut self, first: Command) -> Vec<Action> {
        let Command::Subscribe(first) = first;
        let mut queries = vec![first];
        while let Ok(Command::Subscribe(query)) = self.commands.try_recv() {
            queries.push(query);
        }
        let held = self.machine.subscriptions();
        let is_new = queries.iter().any(|query| !held.contains(query));
        if held.len().saturating_add(queries.len()) > KEPT_SUBSCRIPTIONS {
            // Something has to go: not what is in use.
            self.machine.touch(self.applier.used());
        }
        let actions = self.machine.subscribe(queries);
        if is_new {
            self.keep();
        }
        actions
    }

    /// What was applied is in force, or refused.
    fn decided(&mut self, result: Result<Applied, ApplyRejection>) -> Vec<Action> {
        match result {
            Ok(Applied { unbound }) => {
                let actions = self.machine.applied(&unbound);
                let snapshot = self.machine.snapshot().cloned();
                let offer = self.machine.offer().map(|offer| offer.version());
                if let Some(version) = offer {
                    tracing::info!(%version, "snapshot applied");
                }
                self.state.send_modify(|state| (state.snapshot, state.offer) = (snapshot, offer));
                self.keep();
                actions
            }
            Err(ApplyRejection { key, message }) => {
                tracing::warn!(key = %key.as_ref().map(ToString::to_string).unwrap_or_default(), %message, "snapshot refused");
                self.machine.refused(key.as_ref(), &message)
            }
        }
    }

    fn sweep(&mut self, now: Instant) -> Vec<Action> {
        self.machine.touch(self.applier.used());
        let names_nothing = |query: &&Query| self.machine.knowledge(query) == Knowledge::Absent;
        let found: BTreeSet<Query> = self.machine.subscriptions().iter().filter(names_nothing).cloned().collect();
        self.absent.retain(|query, _| found.contains(query));
        for query in found {
            self.absent.entry(query).or_insert(now);
        }
        let old: Vec<Query> = self
            .absent
            .iter()
            .filter(|(_, since)| now.duration_since(**since) > ABSENT_KEPT)
            .map(|(query, _)| query.clone())
            .collect();
        if old.is_empty() {
            return Vec::new();
        }
        let actions = self.machine.unsubscribe(old);
        self.keep();
        actions
    }
}

/// The end of what is being applied; never, when nothing is. Cancel-safe: the handle stays until it is done.
async fn finished(
    applying: &mut Option<JoinHandle<Result<Applied, ApplyRejection>>>,
) -> Result<Applied, ApplyRejection> {
    let Some(handle) = applying else { return std::future::pending().await };
    let result = handle.await;
    *applying = None;
    result.unwrap_or_else(|error| Err(ApplyRejection { key: None, message: format!("building failed: {error}") }))
}

/// An error with its causes, which tonic hides behind "transport error".
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = next.source();
    }
    text
}
