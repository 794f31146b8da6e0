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
    hash::ContentHash,
    origin::Origin,
    resource::{Entry, Feature},
    service::Query,
    settings::WorkloadRef,
    snapshot::Snapshot,
};
use palisade_wire::delta::{
    Offer, Withheld,
    server::{Greeting, Rejection},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// All connected proxies. Locks are held for moments, never across an await.
#[derive(Debug, Default)]
pub struct Fleet {
    sessions: Mutex<BTreeMap<SessionId, ProxyRecord>>,
    next: AtomicU64,
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
    /// What it refused last.
    pub nacked: Option<(Rejection, SystemTime)>,
    /// What is withheld from it, or why nothing can be offered.
    pub withheld: Arc<[Withheld]>,
    /// Why nothing at all can be offered to it.
    pub unofferable: Option<Arc<str>>,
    /// Short id that the ids of its decisions begin with; empty = unknown.
    pub short_id: Arc<str>,
    /// Asks its session for explanations.
    pub explain: mpsc::Sender<ExplainRequest>,
}

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
        let Greeting { namespace: _, name: _, build, features, held: _, subscriptions, short_id } = greeting;
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let record = ProxyRecord {
            pod,
            build: Arc::clone(build),
            features: features.clone(),
            connected: now,
            subscriptions: subscriptions.clone(),
            target: None,
            acked: None,
            nacked: None,
            withheld: Arc::from([]),
            unofferable: None,
            short_id: Arc::clone(short_id),
            explain,
        };
        self.sessions.lock().insert(id, record);
        id
    }

    /// Its stream is gone.
    pub fn left(&self, id: SessionId) {
        self.sessions.lock().remove(&id);
    }

    /// Changes a proxy's record.
    pub fn update(&self, id: SessionId, change: impl FnOnce(&mut ProxyRecord)) {
        if let Some(record) = self.sessions.lock().get_mut(&id) {
            change(record);
        }
    }

    /// All records; of a proxy with several streams the newest comes last.
    pub fn proxies(&self) -> Vec<ProxyRecord> {
        self.sessions.lock().values().cloned().collect()
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The explanation of a decision: from the proxy whose short id it begins with, else from whichever knows it.
    pub async fn explain(&self, decision: &str, patience: Duration) -> Option<Bytes> {
        let mut asked = self.proxies();
        let is_owner = |record: &ProxyRecord| !record.short_id.is_empty() && decision.starts_with(&*record.short_id);
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

    /// How many proxies enforce a user's object at a generation (where documents have none: as it is now).
    ///
    /// Costs a pass over all snapshots: for status and people, not for a request's path.
    pub fn enforced(&self, object: &Origin) -> Enforced {
        let mut newest: BTreeMap<WorkloadRef, ProxyRecord> = BTreeMap::new();
        for record in self.proxies() {
            newest.insert(record.pod.clone(), record);
        }
        let mut enforced = Enforced::default();
        for (pod, record) in newest {
            let wanted = record.target.as_deref().map(|snapshot| made_from(snapshot, object)).unwrap_or_default();
            let acked = record.acked.as_ref().map(|(offer, _)| made_from(offer.snapshot(), object)).unwrap_or_default();
            if wanted.is_empty() && acked.is_empty() {
                continue;
            }
            enforced.of += 1;
            let is_generation = wanted.iter().all(|(_, generation, _)| *generation == object.generation);
            let is_withheld = record.withheld.iter().any(|item| item.origins.iter().any(|o| is_same(o, object)));
            if !is_withheld && is_generation && wanted == acked {
                enforced.by += 1;
                continue;
            }
            let reason = if let Some(reason) = &record.unofferable {
                reason.to_string()
            } else if is_withheld {
                let missing: BTreeSet<&str> =
                    record.withheld.iter().flat_map(|item| item.missing.iter()).map(|feature| &*feature.0).collect();
                format!("withheld: the proxy lacks {missing:?}")
            } else if !is_generation {
                "not compiled at this generation".to_owned()
            } else if let Some((rejection, _)) = &record.nacked {
                format!("refused: {}", rejection.message)
            } else {
                "not acknowledged yet".to_owned()
            };
            enforced.missing.insert(format!("{}/{}", pod.namespace, pod.name), reason);
        }
        enforced
    }
}

type Part = (palisade_model::resource::ResourceKey, i64, ContentHash);

/// What of a snapshot was made from an object, as key, generation and hash.
fn made_from(snapshot: &Snapshot, object: &Origin) -> Vec<Part> {
    let part = |entry: &Arc<Entry>| {
        let origin = entry.meta().origins.iter().find(|origin| is_same(origin, object))?;
        Some((entry.key().clone(), origin.generation, entry.hash()))
    };
    snapshot.entries().values().filter_map(part).collect()
}

/// The same object, whatever its generation. An empty uid stands for any.
fn is_same(a: &Origin, b: &Origin) -> bool {
    let names = |origin: &Origin| [&origin.group, &origin.kind, &origin.namespace, &origin.name].map(Arc::clone);
    names(a) == names(b) && (a.uid == b.uid || a.uid.is_empty() || b.uid.is_empty())
}
