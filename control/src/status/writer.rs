//! The writer: one task that looks at what should be said, at what is said, and writes the difference.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use kube::Client;
use palisade_compile::{
    ObjectName, Revisions,
    status::{StatusOptions, Statuses},
};
use palisade_model::settings::WorkloadRef;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    FleetAcks,
    kinds::{self, ServedKind},
    merge,
    observed::{self, Store, Told},
    pace::Pace,
    patch::{self, Outcome, Write},
};
use crate::{
    fleet::{Fleet, ObjectId},
    leader::Leadership,
    metrics::{Metrics, StatusWrite, StatusWriteLabels},
    provisioning::Troubles,
    slices::MeshWatch,
};

/// Writes under way at a time.
const AT_A_TIME: usize = 8;

/// Which kinds the API server serves is asked this often: CRDs come and go.
const DISCOVER: Duration = Duration::from_secs(30);

/// What proxies acknowledge is looked at together over this time.
const GATHER: Duration = Duration::from_millis(20);

/// For this long at most a new leader waits for proxies that are not connected: they, or the replicas that have them, are on
/// their way when a leader before it has just gone.
const SETTLE: Duration = Duration::from_secs(3);

/// For this long at most statuses wait for proxies of this replica that have not been told what they are about.
const TELL: Duration = Duration::from_secs(1);

/// Pause between two looks at whether they have.
const AGAIN: Duration = Duration::from_millis(20);

/// Longest pause after a conflict, and after a refusal.
const CONFLICT: Duration = Duration::from_secs(5);
const REFUSED: Duration = Duration::from_secs(200);

/// Writes statuses while this replica leads.
pub struct StatusWriter {
    client: Client,
    mesh: MeshWatch,
    fleet: Arc<Fleet>,
    leadership: Leadership,
    metrics: Metrics,
    revisions: Revisions,
    troubles: watch::Receiver<Troubles>,
    options: StatusOptions,
    wanted: Arc<Statuses>,
    /// The mesh that last changed what is wanted, and when.
    epoch: (u64, Instant),
    /// Since when it leads.
    led: Instant,
    connected: BTreeSet<WorkloadRef>,
    kinds: Vec<ServedKind>,
    store: Store,
    pace: Pace,
    flying: HashSet<ObjectName>,
    writes: JoinSet<(Write, Outcome)>,
}

impl StatusWriter {
    /// A writer of what `mesh` and `fleet` say, and of `troubles` with what runs Gateways, to objects of these revisions.
    pub fn new(
        client: Client,
        mesh: MeshWatch,
        fleet: Arc<Fleet>,
        leadership: Leadership,
        metrics: Metrics,
        revisions: Revisions,
        troubles: watch::Receiver<Troubles>,
    ) -> Self {
        Self {
            client,
            mesh,
            fleet,
            leadership,
            metrics,
            revisions,
            troubles,
            options: StatusOptions::default(),
            wanted: Arc::default(),
            epoch: (0, Instant::now()),
            led: Instant::now(),
            connected: BTreeSet::new(),
            kinds: Vec::new(),
            store: Store::default(),
            pace: Pace::new(Instant::now()),
            flying: HashSet::new(),
            writes: JoinSet::new(),
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                held = self.leadership.held() => if held.is_err() { return },
            }
            self.metrics.leader.set(1);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.lead() => {}
            }
            self.metrics.leader.set(0);
            // What was seen as a leader is old by the time it leads again.
            self.writes.abort_all();
            self.writes = JoinSet::new();
            self.flying.clear();
            self.store = Store::default();
            self.kinds.clear();
            self.pace = Pace::new(Instant::now());
            self.wanted = Arc::default();
        }
    }

    /// Until it leads no more.
    async fn lead(&mut self) {
        let mut streams: SelectAll<BoxStream<'static, Told>> = SelectAll::new();
        let mut discover = tokio::time::interval(DISCOVER);
        let mut changes = self.fleet.changes();
        self.mesh.mark_changed();
        self.led = Instant::now();
        self.connected = self.fleet.connected();
        let mut troubles = self.troubles.clone();
        troubles.mark_changed();
        loop {
            let settled = if self.is_everybody_there() { self.led } else { self.led + SETTLE };
            let due = self.pace.next().map(|due| due.max(settled));
            let next = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.leadership.changed() => {
                    if changed.is_err() || !self.leadership.holds() {
                        return;
                    }
                }
                Some(done) = self.writes.join_next(), if !self.writes.is_empty() => match done {
                    Ok((write, outcome)) => self.written(write, outcome),
                    Err(error) => tracing::error!(%error, "a status write failed"),
                },
                Ok(()) = troubles.changed() => {
                    self.options.troubles = Arc::clone(&troubles.borrow_and_update());
                    self.mesh.mark_changed();
                }
                _ = discover.tick() => self.discover(&mut streams).await,
                changed = self.mesh.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.compiled().await;
                }
                Some(told) = streams.next(), if !streams.is_empty() => self.told(told),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(GATHER).await;
                    changes.mark_unchanged();
                    self.acknowledged();
                }
                () = next, if self.writes.len() < AT_A_TIME => {
                    if !self.look() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether all proxies are connected that should be.
    fn is_everybody_there(&self) -> bool {
        let mut own = self.wanted.expected.iter().filter(|proxy| self.revisions.owns(proxy.revision.as_deref()));
        own.all(|proxy| self.connected.contains(&proxy.pod))
    }

    async fn discover(&mut self, streams: &mut SelectAll<BoxStream<'static, Told>>) {
        match kinds::served(&self.client).await {
            Ok(kinds) => {
                for kind in kinds {
                    let is_known = self.kinds.iter().any(|known| known.resource == kind.resource);
                    if !is_known {
                        streams.push(observed::follow(&self.client, &kind.resource, self.kinds.len()));
                        self.kinds.push(kind);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "which kinds are served is not known"),
        }
        let version = kinds::gateway_api_version(&self.client).await;
        if version.is_some() && version != self.options.gateway_api_version {
            self.options.gateway_api_version = version;
            self.mesh.mark_changed();
        }
    }

    /// There is another mesh.
    async fn compiled(&mut self) {
        let Some(mesh) = self.mesh.borrow_and_update().clone() else { return };
        let (options, epoch) = (self.options.clone(), mesh.epoch());
        let wanted = match tokio::task::spawn_blocking(move || mesh.statuses(&options)).await {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!(%error, "statuses cannot be computed");
                return;
            }
        };
        let now = Instant::now();
        if wanted.objects != self.wanted.objects {
            self.epoch = (epoch, now);
        }
        let is_all = wanted.expected != self.wanted.expected;
        for (name, status) in &wanted.objects {
            if is_all || self.wanted.objects.get(name) != Some(status) {
                self.pace.note(name, now);
            }
        }
        for name in self.wanted.objects.keys().filter(|name| !wanted.objects.contains_key(*name)) {
            self.pace.forget(name);
        }
        self.wanted = wanted;
    }

    /// Proxies have come, gone, or acknowledged something.
    fn acknowledged(&mut self) {
        let now = Instant::now();
        let connected = self.fleet.connected();
        let changed = self.fleet.take_changed();
        if connected != self.connected {
            self.connected = connected;
            for name in self.wanted.objects.keys() {
                self.pace.note(name, now);
            }
            return;
        }
        for ObjectId { group, kind, namespace, name, uid: _ } in changed {
            let name = ObjectName { group, kind, namespace, name };
            if self.wanted.objects.contains_key(&name) {
                self.pace.note(&name, now);
            }
        }
    }

    fn told(&mut self, (index, event): Told) {
        let Some(kind) = self.kinds.get(index) else { return };
        match event {
            Ok(event) => {
                let now = Instant::now();
                for name in self.store.take(index, &kind.resource, event) {
                    if self.wanted.objects.contains_key(&name) {
                        self.pace.note(&name, now);
                    }
                }
            }
            Err(error) => tracing::warn!(kind = %kind.resource.kind, %error, "statuses are not seen for a while"),
        }
    }

    /// Looks at what is due; false when it leads no more.
    fn look(&mut self) -> bool {
        if !self.leadership.holds() {
            return false;
        }
        let now = Instant::now();
        let text = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let limit = AT_A_TIME.saturating_sub(self.writes.len());
        let fleet = Arc::clone(&self.fleet);
        let wanted = Arc::clone(&self.wanted);
        let (epoch, since) = self.epoch;
        if now < since + TELL && !fleet.behind(epoch).is_empty() {
            for name in self.pace.take(now, usize::MAX) {
                self.pace.plan(&name, now + AGAIN);
            }
            return true;
        }
        let acks = FleetAcks::new(&fleet, &wanted.expected, Some(&self.revisions)).since(epoch);
        // Most of what is due needs no write.
        for name in self.pace.take(now, limit * 32) {
            if self.writes.len() >= AT_A_TIME {
                self.pace.plan(&name, now);
                continue;
            }
            if let Err(later) = self.pace.affords(now) {
                self.pace.plan(&name, later);
                continue;
            }
            let Some(status) = wanted.objects.get(&name) else { continue };
            if self.flying.contains(&name) {
                self.pace.note(&name, now);
                continue;
            }
            let kind = self.kinds.iter().find(|k| *k.resource.group == *name.group && *k.resource.kind == *name.kind);
            let (Some(kind), Some(held)) = (kind, self.store.get(&name)) else { continue };
            let is_other = !status.origin.uid.is_empty() && *status.origin.uid != *held.uid;
            // Another control plane writes the status.
            if !self.revisions.owns(held.revision.as_deref()) {
                continue;
            }
            // The mesh is behind: what is to be said comes with the next one.
            if is_other || held.generation > status.origin.generation {
                continue;
            }
            let Some(change) = merge::change(kind.shape, &held.status(), &status.render(&acks), &text) else {
                continue;
            };
            if let Some(due) = self.pace.texts(&name).filter(|due| !change.is_urgent && *due > now) {
                self.pace.plan(&name, due);
                continue;
            }
            if let Err(later) = self.pace.spend(now) {
                self.pace.plan(&name, later);
                continue;
            }
            let write = Write {
                name: name.clone(),
                uid: held.uid.clone(),
                version: held.version.clone(),
                status: change.status,
            };
            let (client, kind) = (self.client.clone(), kind.clone());
            self.flying.insert(name);
            self.writes.spawn(async move {
                let outcome = patch::apply(client, kind, &write).await;
                (write, outcome)
            });
        }
        true
    }

    fn written(&mut self, write: Write, outcome: Outcome) {
        let now = Instant::now();
        let Write { name, uid: _, version: _, status } = write;
        self.flying.remove(&name);
        let result = match &outcome {
            Outcome::Done(_) => Some(StatusWrite::Done),
            Outcome::Conflict => Some(StatusWrite::Conflict),
            Outcome::Busy(_) => Some(StatusWrite::Busy),
            Outcome::Refused(_) => Some(StatusWrite::Refused),
            Outcome::Gone => None,
        };
        if let Some(result) = result {
            let labels = StatusWriteLabels { kind: name.kind.to_string(), result };
            self.metrics.status_writes.get_or_create(&labels).inc();
        }
        match outcome {
            Outcome::Done(seen) => {
                self.pace.wrote(&name, content(&status), now);
                if self.pace.fights(&name) == 3 {
                    tracing::warn!(kind = %name.kind, namespace = %name.namespace, name = %name.name,
                        "another controller keeps changing this status");
                }
                self.store.put(name.clone(), &seen);
                self.pace.note(&name, now);
            }
            Outcome::Conflict => self.pace.failed(&name, now, CONFLICT),
            Outcome::Gone => self.store.remove(&name),
            Outcome::Busy(error) => {
                tracing::warn!(%error, "the API server takes no statuses for the moment");
                self.pace.pause(now);
                self.pace.failed(&name, now, CONFLICT);
            }
            Outcome::Refused(error) => {
                tracing::error!(kind = %name.kind, namespace = %name.namespace, name = %name.name, %error,
                    "this status is refused");
                self.pace.failed(&name, now, REFUSED);
            }
        }
    }
}

/// What a status says, times apart.
fn content(status: &serde_json::Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    merge::without(status, "lastTransitionTime").to_string().hash(&mut hasher);
    hasher.finish()
}
