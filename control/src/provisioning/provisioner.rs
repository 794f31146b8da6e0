//! Keeps what runs Gateways as documents want it, while this replica leads.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::SelectAll};
use kube::Client;
use palisade_compile::{ObjectKey, Wanted, infrastructure, status::Trouble};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    GatewayObjects, Troubles, classes,
    held::{self, Store},
    objects::{self, Kind},
    reconcile::{Done, Settled, Stopped, Work, steps, work},
};
use crate::{
    leader::Leadership,
    metrics::{GatewayWriteLabels, Metrics},
    slices::MeshWatch,
};

/// Gateways that are worked on at a time.
const AT_A_TIME: usize = 8;

/// Pause after a failure, doubled up to [`LONGEST`].
const RETRY: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// When what another one's object stands in the way of is tried again: nothing tells that it went.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Makes, keeps and removes what runs Gateways.
pub struct Provisioner {
    client: Client,
    mesh: MeshWatch,
    leadership: Leadership,
    settings: GatewayObjects,
    metrics: Metrics,
    troubles: watch::Sender<Troubles>,
    wanted: BTreeMap<ObjectKey, Wanted>,
    /// UIDs of the Gateways that are wanted or not.
    uids: BTreeMap<ObjectKey, Arc<str>>,
    /// Gateways by namespace and label.
    by_label: HashMap<(String, String), ObjectKey>,
    store: Store,
    settled: Settled,
    /// When a Gateway is to be looked at.
    due: BTreeMap<ObjectKey, Instant>,
    failures: HashMap<ObjectKey, u32>,
    /// Gateways that are worked on.
    flying: BTreeSet<ObjectKey>,
    works: JoinSet<Done>,
}

impl Provisioner {
    /// One for what `mesh` wants; what goes wrong is told to `troubles`.
    pub fn new(
        client: Client,
        mesh: MeshWatch,
        leadership: Leadership,
        settings: GatewayObjects,
        metrics: Metrics,
        troubles: watch::Sender<Troubles>,
    ) -> Self {
        Self {
            client,
            mesh,
            leadership,
            settings,
            metrics,
            troubles,
            wanted: BTreeMap::new(),
            uids: BTreeMap::new(),
            by_label: HashMap::new(),
            store: Store::default(),
            settled: Settled::new(),
            due: BTreeMap::new(),
            failures: HashMap::new(),
            flying: BTreeSet::new(),
            works: JoinSet::new(),
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
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.lead() => {}
            }
            // What was seen as a leader is old by the time it leads again.
            self.works.abort_all();
            self.works = JoinSet::new();
            self.flying.clear();
            self.store = Store::default();
            self.settled.clear();
            self.wanted.clear();
            self.due.clear();
        }
    }

    /// Until it leads no more.
    async fn lead(&mut self) {
        let mut streams: SelectAll<_> = Kind::ALL.into_iter().map(|kind| held::follow(&self.client, kind)).collect();
        let mut classes = classes::Classes::new(self.client.clone(), self.settings.istio_classes);
        self.mesh.mark_changed();
        loop {
            let due = self.due.iter().filter(|(key, _)| !self.flying.contains(*key)).map(|(_, due)| *due).min();
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
                Some(done) = self.works.join_next(), if !self.works.is_empty() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!(%error, "the objects of a Gateway could not be worked on"),
                },
                Some((kind, event)) = streams.next() => match event {
                    Ok(event) => self.told(kind, event),
                    Err(error) => tracing::warn!(?kind, %error, "objects of Gateways are not seen for a while"),
                },
                changed = self.mesh.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.compiled();
                    if let Some(mesh) = self.mesh.borrow().clone().as_ref().and_then(|mesh| mesh.mesh()) {
                        classes.note(mesh);
                    }
                }
                () = classes.due() => classes.make().await,
                () = next, if self.store.is_complete() && self.works.len() < AT_A_TIME => {
                    if !self.leadership.holds() {
                        return;
                    }
                    self.look();
                }
            }
        }
    }

    /// There is another mesh.
    fn compiled(&mut self) {
        let Some(mesh) = self.mesh.borrow_and_update().clone() else { return };
        let Some(mesh) = mesh.mesh() else { return };
        let wanted = infrastructure(mesh);
        let now = Instant::now();
        for (key, own) in &wanted {
            if self.wanted.get(key) != Some(own) {
                self.due.insert(key.clone(), now);
                self.failures.remove(key);
            }
        }
        self.due.retain(|key, _| wanted.contains_key(key));
        self.failures.retain(|key, _| wanted.contains_key(key));
        let gateways = &mesh.inputs().api_gateways;
        let labels = wanted
            .keys()
            .map(|key| ((key.namespace.to_string(), palisade_compile::gateway_label(&key.name)), key.clone()));
        self.by_label = labels.collect();
        self.uids = gateways.iter().map(|(key, gateway)| (key.clone(), Arc::clone(&gateway.head.uid))).collect();
        self.wanted = wanted;
        let is_known = |key: &ObjectKey| self.wanted.contains_key(key);
        self.troubles.send_if_modified(|troubles| {
            let before = troubles.len();
            let kept: BTreeMap<ObjectKey, Trouble> =
                troubles.iter().filter(|(key, _)| is_known(key)).map(|(key, own)| (key.clone(), own.clone())).collect();
            let is_less = kept.len() < before;
            if is_less {
                *troubles = Arc::new(kept);
            }
            is_less
        });
    }

    fn told(&mut self, kind: Kind, event: kube::runtime::watcher::Event<kube::core::DynamicObject>) {
        for gateway in self.store.take(kind, event) {
            if let Some(key) = self.by_label.get(&gateway) {
                self.due.insert(key.clone(), Instant::now());
            }
        }
    }

    /// Looks at the Gateways that are due.
    fn look(&mut self) {
        let now = Instant::now();
        let due = self.due.iter().filter(|(key, due)| **due <= now && !self.flying.contains(*key));
        let due: Vec<ObjectKey> = due.map(|(key, _)| key.clone()).take(AT_A_TIME - self.works.len()).collect();
        for key in due {
            self.due.remove(&key);
            let Some(uid) = self.uids.get(&key).map(|uid| uid.to_string()).filter(|uid| !uid.is_empty()) else {
                continue;
            };
            let made = match self.wanted.get(&key) {
                Some(Wanted::Objects(own)) => {
                    match objects::objects(own, &self.settings.gateways, &self.settings.injection) {
                        Ok(made) => made,
                        Err(message) => {
                            self.tell(&key, Some(Trouble { is_parameters: true, message }));
                            continue;
                        }
                    }
                }
                Some(Wanted::Nothing) => BTreeMap::new(),
                Some(Wanted::Unchanged) | None => continue,
            };
            let label = palisade_compile::gateway_label(&key.name);
            let all = self.store.of_gateway(&key.namespace, &label);
            let steps = steps(&made, &uid, |name| self.store.get(name), all, &self.settled);
            if steps.is_empty() {
                self.failures.remove(&key);
                self.tell(&key, None);
                continue;
            }
            let (client, leadership) = (self.client.clone(), self.leadership.clone());
            self.flying.insert(key.clone());
            self.works.spawn(work(client, leadership, Work { gateway: key, uid, steps }));
        }
    }

    fn done(&mut self, done: Done) {
        let Done { gateway, seen, writes, stopped } = done;
        self.flying.remove(&gateway);
        for kind in writes {
            let labels = GatewayWriteLabels { kind: kind.resource().kind };
            self.metrics.gateway_writes.get_or_create(&labels).inc();
        }
        for (name, held) in seen {
            match held {
                Some(held) => {
                    self.settled.insert(name.clone(), (held.made_from.clone(), held.content().to_owned()));
                    drop(self.store.put(name, held));
                }
                None => {
                    self.settled.remove(&name);
                    drop(self.store.remove(&name));
                }
            }
        }
        let has_overlays = match self.wanted.get(&gateway) {
            Some(Wanted::Objects(own)) => !own.overlays.is_empty(),
            _ => false,
        };
        let (wait, trouble) = match stopped {
            None => {
                self.failures.remove(&gateway);
                (None, Some(None))
            }
            Some(Stopped::Foreign(message)) => {
                (Some(LOOK_AGAIN), Some(Some(Trouble { is_parameters: false, message })))
            }
            Some(Stopped::Refused(message)) => {
                tracing::warn!(%gateway, %message, "the objects of a Gateway are not as they should be");
                (Some(self.pause(&gateway)), Some(Some(Trouble { is_parameters: has_overlays, message })))
            }
            Some(Stopped::Later(message)) => {
                tracing::info!(%gateway, %message, "the objects of a Gateway are tried again");
                (Some(self.pause(&gateway)), None)
            }
        };
        if let Some(wait) = wait {
            let due = Instant::now() + wait;
            self.due.entry(gateway.clone()).and_modify(|own| *own = (*own).min(due)).or_insert(due);
        }
        if let Some(trouble) = trouble {
            self.tell(&gateway, trouble);
        }
    }

    /// How long the next attempt waits.
    fn pause(&mut self, gateway: &ObjectKey) -> Duration {
        let failures = self.failures.entry(gateway.clone()).or_default();
        let pause = RETRY * 2_u32.saturating_pow(*failures);
        *failures = failures.saturating_add(1).min(16);
        pause.min(LONGEST)
    }

    fn tell(&self, gateway: &ObjectKey, trouble: Option<Trouble>) {
        self.troubles.send_if_modified(|troubles| {
            if troubles.get(gateway) == trouble.as_ref() {
                return false;
            }
            let mut changed = BTreeMap::clone(troubles);
            match trouble {
                Some(trouble) => changed.insert(gateway.clone(), trouble),
                None => changed.remove(gateway),
            };
            *troubles = Arc::new(changed);
            true
        });
    }
}
