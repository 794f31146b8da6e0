//! The proxies that are connected: what each should hold, holds, and has refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use palisade_model::{
    origin::Origin,
    resource::{Feature, ResourceKey, ResourceKind},
    service::Query,
    settings::WorkloadRef,
    snapshot::Snapshot,
    trust::Standing,
};
use palisade_policy::ShortId;
use palisade_wire::delta::{
    Offer, Withheld,
    server::{Greeting, Rejection},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

mod index;
mod report;
mod told;

pub use index::ObjectId;
use index::{Count, Index, Lagging};
pub(crate) use index::{Part, Sum};
pub(crate) use report::{Report, ReportedProxy};
pub(crate) use told::Told;
use told::{Peer, RemoteProxy};

/// All connected proxies. Locks are held for moments, never across an await.
#[derive(Debug, Default)]
pub struct Fleet {
    state: Mutex<State>,
    next: AtomicU64,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeMap<SessionId, ProxyRecord>,
    /// Of each pod the stream that counts: the newest, at whichever replica.
    newest: BTreeMap<WorkloadRef, SessionId>,
    /// Those that were connected and are not, with what they said last: they may live on.
    departed: BTreeMap<WorkloadRef, Departed>,
    index: Index,
    /// Streams of proxies at other replicas, as those tell.
    remote: BTreeMap<SessionId, RemoteProxy>,
    /// Replicas that tell.
    peers: BTreeMap<Arc<str>, Peer>,
    /// What another replica is to hear of the streams here; `None` while nobody listens.
    unreported: Option<report::Unreported>,
}

/// One stream of one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(u64);

/// What is known of one connected proxy.
#[derive(Debug, Clone)]
pub struct ProxyRecord {
    /// The pod that it runs in, proven.
    pub pod: WorkloadRef,
    /// Its build.
    pub build: Arc<str>,
    /// Features that it understands.
    pub features: BTreeSet<Feature>,
    /// Since when it is connected.
    pub connected: SystemTime,
    /// What it is subscribed to.
    pub subscriptions: BTreeSet<Query>,
    /// What it should hold.
    pub target: Option<Arc<Snapshot>>,
    /// What it has swapped in on all workers, and since when control knows.
    pub acked: Option<(Offer, SystemTime)>,
    /// Listeners of what it has swapped in that do not listen, with the reason.
    pub unbound: BTreeMap<Arc<str>, Arc<str>>,
    /// What it refused last.
    pub nacked: Option<(Rejection, SystemTime)>,
    /// What is withheld from it, or why nothing can be offered.
    pub withheld: Arc<[Withheld]>,
    /// Why nothing at all can be offered to it.
    pub unofferable: Option<Arc<str>>,
    /// Short id that the ids of its decisions begin with.
    pub short_id: Arc<str>,
    /// What it trusts and is trusted by, as it says; `None` = it does not say.
    pub standing: Option<Standing>,
    /// The mesh that its target was cut out of.
    pub epoch: u64,
    /// Asks its session for explanations.
    pub explain: mpsc::Sender<ExplainRequest>,
}

/// A proxy that was connected.
#[derive(Debug, Clone)]
pub struct Departed {
    /// What it said last.
    pub standing: Option<Standing>,
    /// Since when control knows.
    pub left: SystemTime,
}

/// Proxies that are remembered after they have left.
const DEPARTED: usize = 20_000;

/// A question to one proxy.
#[derive(Debug)]
pub struct ExplainRequest {
    /// The decision's id.
    pub decision: String,
    /// JSON, or `None` when the proxy does not know it; dropped when the proxy goes.
    pub answer: oneshot::Sender<Option<Bytes>>,
}

/// How many proxies do what an object says.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Enforced {
    /// Proxies that have swapped in all that the object means for them, and nothing older of it.
    pub by: usize,
    /// Connected proxies that it concerns.
    pub of: usize,
    /// Those that do not, with the reason as far as it is known.
    pub missing: BTreeMap<String, String>,
}

impl Fleet {
    /// A proxy has said hello.
    pub fn joined(
        &self,
        pod: WorkloadRef,
        greeting: &Greeting,
        explain: mpsc::Sender<ExplainRequest>,
        now: SystemTime,
    ) -> SessionId {
        let Greeting { namespace: _, name: _, build, features, held: _, subscriptions, short_id: _ } = greeting;
        // Never as the proxy says: it would be asked about, and could forge, the decisions of others.
        let short_id = ShortId::of(&format!("{}/{}", pod.namespace, pod.name)).to_string().into();
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let record = ProxyRecord {
            pod,
            build: Arc::clone(build),
            features: features.clone(),
            connected: now,
            subscriptions: subscriptions.clone(),
            target: None,
            acked: None,
            unbound: BTreeMap::new(),
            nacked: None,
            withheld: Arc::from([]),
            unofferable: None,
            short_id,
            standing: None,
            epoch: 0,
            explain,
        };
        let mut state = self.state.lock();
        let pod = record.pod.clone();
        state.departed.remove(&pod);
        state.sessions.insert(id, record);
        state.count(pod, Some(id));
        drop(state);
        self.changed();
        id
    }

    /// Its stream is gone.
    pub fn left(&self, id: SessionId) {
        let mut state = self.state.lock();
        if let Some(record) = state.sessions.remove(&id)
            && state.newest.get(&record.pod) == Some(&id)
        {
            let next = state.newest_of(&record.pod);
            if next.is_none() && state.departed.len() < DEPARTED {
                let departed = Departed { standing: record.standing, left: SystemTime::now() };
                state.departed.insert(record.pod.clone(), departed);
            }
            state.count(record.pod, next);
        }
        drop(state);
        self.changed();
    }

    /// Changes a proxy's record.
    pub fn update(&self, id: SessionId, change: impl FnOnce(&mut ProxyRecord)) {
        let mut state = self.state.lock();
        let Some(record) = state.sessions.get_mut(&id) else { return };
        let refused = record.nacked.as_ref().map(|(_, at)| *at);
        let (unofferable, unbound) = (record.unofferable.clone(), record.unbound.clone());
        let withheld = Arc::clone(&record.withheld);
        change(record);
        let is_refusal = record.nacked.as_ref().map(|(_, at)| *at) != refused || record.unofferable != unofferable;
        let is_news = is_refusal || record.unbound != unbound || record.withheld != withheld;
        let heard: BTreeSet<ObjectId> = match &record.acked {
            Some((offer, _)) if record.unbound != unbound => {
                let listeners = record.unbound.keys().chain(unbound.keys());
                listeners.flat_map(|listener| origins_of(offer.snapshot(), listener)).map(ObjectId::of).collect()
            }
            Some(_) | None => BTreeSet::new(),
        };
        let pod = record.pod.clone();
        // A stream that a newer one of the pod has replaced counts no more.
        if state.newest.get(&pod) == Some(&id) {
            state.count(pod, Some(id));
            if is_refusal {
                state.index.touch(id);
            }
            state.index.note_changed(heard);
            if is_news {
                state.note_session(id);
            }
        }
        drop(state);
        self.changed();
    }

    /// A mesh says to a proxy what it was told already.
    pub fn told(&self, id: SessionId, epoch: u64) {
        if let Some(record) = self.state.lock().sessions.get_mut(&id) {
            record.epoch = epoch;
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// All records; of a proxy with several streams the newest comes last.
    pub fn proxies(&self) -> Vec<ProxyRecord> {
        self.state.lock().sessions.values().cloned().collect()
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.state.lock().sessions.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The explanation of a decision: from the proxy whose short id it begins with, else from whichever knows it.
    pub async fn explain(&self, decision: &str, patience: Duration) -> Option<Bytes> {
        let mut asked = self.proxies();
        let is_owner = |record: &ProxyRecord| decision.starts_with(&*record.short_id);
        if asked.iter().any(is_owner) {
            asked.retain(is_owner);
        }
        let mut answers: FuturesUnordered<_> = asked
            .into_iter()
            .map(|record| async move {
                let (answer, answered) = oneshot::channel();
                let request = ExplainRequest { decision: decision.to_owned(), answer };
                record.explain.send(request).await.ok()?;
                answered.await.ok()?
            })
            .collect();
        let first = async {
            while let Some(answer) = answers.next().await {
                if answer.is_some() {
                    return answer;
                }
            }
            None
        };
        tokio::time::timeout(patience, first).await.unwrap_or(None)
    }

    /// How many proxies of all replicas enforce a user's object at a generation (where documents have none: as it is now).
    pub fn enforced(&self, object: &Origin) -> Enforced {
        let state = self.state.lock();
        let count = state.index.enforced(object, |id| state.is_counted(id));
        state.with_replicas(state.told(count, object), object)
    }

    /// How many proxies of this replica enforce it.
    pub fn enforced_here(&self, object: &Origin) -> Enforced {
        let state = self.state.lock();
        state.told(state.index.enforced(object, |id| state.sessions.contains_key(&id)), object)
    }

    /// How many proxies of all replicas have swapped in something made from a user's object at a generation.
    pub fn programmed(&self, object: &Origin) -> Enforced {
        let state = self.state.lock();
        let count = state.index.programmed(object, |id| state.is_counted(id));
        let mut programmed = state.listening(state.told(count, object), object);
        for proxy in state.remote.iter().filter(|(id, _)| state.is_counted(**id)).map(|(_, proxy)| proxy) {
            programmed.without_listener(&proxy.pod, proxy.not_listening(object));
        }
        state.with_replicas(programmed, object)
    }

    /// How many proxies of this replica have.
    pub fn programmed_here(&self, object: &Origin) -> Enforced {
        let state = self.state.lock();
        let count = state.index.programmed(object, |id| state.sessions.contains_key(&id));
        state.listening(state.told(count, object), object)
    }

    /// How many proxies of this replica do all that they should.
    pub fn in_step(&self) -> Enforced {
        let state = self.state.lock();
        let mut enforced = Enforced { of: state.counted().count(), ..Enforced::default() };
        for record in state.counted() {
            let target = record.target.as_ref().map(|target| target.version());
            let acked = record.acked.as_ref().map(|(offer, _)| offer.snapshot().version());
            if target.is_some() && target == acked {
                enforced.by += 1;
            } else {
                enforced.missing.insert(name(&record.pod), record.problem(true, None));
            }
        }
        enforced
    }

    /// What each connected proxy says of its trust, one a pod.
    pub fn standings(&self) -> Vec<(WorkloadRef, Option<Standing>)> {
        self.state.lock().counted().map(|record| (record.pod.clone(), record.standing.clone())).collect()
    }

    /// Proxies that were connected and may live on. Those that `is_over` says so of are forgotten.
    pub fn departed(&self, is_over: impl Fn(&WorkloadRef, &Departed) -> bool) -> Vec<(WorkloadRef, Departed)> {
        let mut state = self.state.lock();
        state.departed.retain(|pod, departed| !is_over(pod, departed));
        state.departed.iter().map(|(pod, departed)| (pod.clone(), departed.clone())).collect()
    }

    /// Pods whose proxies are connected, to whichever replica.
    pub fn connected(&self) -> BTreeSet<WorkloadRef> {
        self.state.lock().newest.keys().cloned().collect()
    }

    /// Pods whose proxies, at this replica, have not been told yet what a mesh says.
    pub fn behind(&self, epoch: u64) -> BTreeSet<WorkloadRef> {
        let state = self.state.lock();
        state.counted().filter(|record| record.epoch < epoch).map(|record| record.pod.clone()).collect()
    }

    /// Changes with each target, ack, refusal, arrival and leave.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Objects that some proxy has got another view of since this was asked last. For one who asks: the status writer.
    pub fn take_changed(&self) -> BTreeSet<ObjectId> {
        self.state.lock().index.take_changed()
    }
}

impl State {
    /// Of each pod the newest stream, where it is one of this replica.
    fn counted(&self) -> impl Iterator<Item = &ProxyRecord> {
        self.newest.values().filter_map(|id| self.sessions.get(id))
    }

    /// Of a pod this stream counts from now on, with what it holds now.
    fn count(&mut self, pod: WorkloadRef, newest: Option<SessionId>) {
        let before = self.newest.get(&pod).copied();
        if let Some(before) = before.filter(|before| Some(*before) != newest) {
            self.index.drop(before);
            self.note_session(before);
        }
        if let Some(newest) = newest.filter(|newest| before != Some(*newest)) {
            self.note_session(newest);
        }
        if let Some(id) = newest.filter(|id| self.remote.contains_key(id)) {
            self.newest.insert(pod, id);
            return;
        }
        let Some((id, record)) = newest.and_then(|id| Some((id, self.sessions.get(&id)?))) else {
            self.newest.remove(&pod);
            return;
        };
        let acked = record.acked.as_ref().map(|(offer, _)| offer.snapshot());
        self.index.set(id, record.target.as_ref(), acked);
        self.newest.insert(pod, id);
    }

    fn told(&self, count: Count, object: &Origin) -> Enforced {
        let Count { by, of, lagging } = count;
        let reason = |lagging: Lagging| {
            let Lagging { session, is_generation, is_withheld } = lagging;
            if let Some(record) = self.sessions.get(&session) {
                return Some((name(&record.pod), record.problem(is_generation, Some(object))));
            }
            let proxy = self.remote.get(&session)?;
            Some((name(&proxy.pod), proxy.problem(is_generation, is_withheld)))
        };
        Enforced { by, of, missing: lagging.into_iter().filter_map(reason).collect() }
    }

    /// Without those of this replica that do not listen where the object says.
    fn listening(&self, mut programmed: Enforced, object: &Origin) -> Enforced {
        for record in self.counted().filter(|record| !record.unbound.is_empty()) {
            programmed.without_listener(&record.pod, record.not_listening(object));
        }
        programmed
    }
}

impl Enforced {
    /// A proxy does not listen, for this reason.
    fn without_listener(&mut self, pod: &WorkloadRef, problem: Option<String>) {
        if let Some(problem) = problem
            && self.missing.insert(name(pod), problem).is_none()
        {
            self.by = self.by.saturating_sub(1);
        }
    }
}

impl ProxyRecord {
    /// The first listener made from an object that does not listen, and why.
    fn not_listening(&self, object: &Origin) -> Option<String> {
        let (offer, _) = self.acked.as_ref()?;
        self.unbound.iter().find_map(|(listener, message)| {
            let is_meant = origins_of(offer.snapshot(), listener).iter().any(|origin| is_same(origin, object));
            is_meant.then(|| format!("{listener} does not listen: {message}"))
        })
    }

    /// Why it does not do what an object says, or anything that it should.
    fn problem(&self, is_generation: bool, object: Option<&Origin>) -> String {
        let is_meant = |origin: &Origin| object.is_none_or(|object| is_same(origin, object));
        let withheld = || self.withheld.iter().filter(|item| item.origins.iter().any(is_meant));
        if let Some(reason) = &self.unofferable {
            reason.to_string()
        } else if withheld().next().is_some() {
            let missing: BTreeSet<&str> =
                self.withheld.iter().flat_map(|item| item.missing.iter()).map(|feature| &*feature.0).collect();
            format!("withheld: the proxy lacks {missing:?}")
        } else if !is_generation {
            "not compiled at this generation".to_owned()
        } else if let Some((rejection, _)) = &self.nacked {
            format!("refused: {}", rejection.message)
        } else {
            "not acknowledged yet".to_owned()
        }
    }
}

/// What a listener was made from.
fn origins_of<'a>(snapshot: &'a Snapshot, listener: &Arc<str>) -> &'a [Origin] {
    let key = ResourceKey { kind: ResourceKind::Listener, name: Arc::clone(listener) };
    snapshot.entries().get(&key).map_or(&[], |entry| &entry.meta().origins)
}

/// `NAMESPACE/NAME`.
fn name(pod: &WorkloadRef) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// The same object, whatever its generation. An empty uid stands for any.
fn is_same(a: &Origin, b: &Origin) -> bool {
    let names = |origin: &Origin| [&origin.group, &origin.kind, &origin.namespace, &origin.name].map(Arc::clone);
    names(a) == names(b) && (a.uid == b.uid || a.uid.is_empty() || b.uid.is_empty())
}

#[cfg(test)]
mod tests;
