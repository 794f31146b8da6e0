//! Replicas of one control plane: each serves proxies, one leads, and the leader knows what the proxies of all of them hold.
//!
//! A replica that does not lead opens a stream to the one that does, whose address is in the Lease, and tells what changes: which
//! proxies are connected to it, what of each object they should hold and hold, and which objects it has compiled. Nothing of this
//! is written into the API server. Questions about all proxies go the same ways: from any replica to the leader, and from the
//! leader to every replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use palisade_compile::Revisions;
use palisade_model::settings::WorkloadRef;
use palisade_wire::proto::v1::{PageAnswer, PageQuestion, replicas_client::ReplicasClient};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::leader::Leadership;

mod link;
mod proof;
mod server;
mod whole;
mod wire;

pub(crate) use link::follow;
pub(crate) use server::Sharing;
pub(crate) use whole::whole;
#[cfg(test)]
pub(crate) use wire::{messages, told};

/// Version of what replicas tell each other.
const PROTOCOL: u32 = 1;

/// Replicas that tell at a time.
const MAX_PEERS: usize = 64;

/// Questions that wait for one replica.
const QUESTIONS: usize = 16;

/// Largest message between replicas: a page about thousands of proxies.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Which replica this is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Who it is in the Lease.
    pub name: Arc<str>,
    /// Its revision, and what else it is called.
    pub revisions: Revisions,
    /// Whether it leads.
    pub leadership: Leadership,
}

/// The other replicas, as this one knows them.
#[derive(Debug, Default)]
pub struct Replicas {
    place: OnceLock<Place>,
    links: Mutex<Links>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Links {
    /// Those that tell this one.
    peers: BTreeMap<Arc<str>, Link>,
    /// Those that told and have gone silent, with the proxies that they had.
    silent: BTreeMap<Arc<str>, BTreeSet<WorkloadRef>>,
    /// The one that this one tells.
    leader: Option<(Arc<str>, ReplicasClient<Channel>)>,
}

/// A replica that tells.
#[derive(Debug)]
struct Link {
    number: u64,
    questions: mpsc::Sender<Question>,
    end: CancellationToken,
}

/// A question to a replica.
#[derive(Debug)]
struct Question {
    question: PageQuestion,
    answer: oneshot::Sender<PageAnswer>,
}

/// A replica has begun to tell.
struct Joined {
    number: u64,
    questions: mpsc::Receiver<Question>,
    end: CancellationToken,
}

impl Replicas {
    /// This process is one of several from now on.
    pub fn take_place(&self, place: Place) {
        drop(self.place.set(place));
    }

    /// Whether there can be others: in a cluster.
    fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// The revision of the control plane, in a cluster.
    pub(crate) fn revisions(&self) -> Option<&Revisions> {
        self.place().map(|place| &place.revisions)
    }

    /// A stream of this replica begins; an older one of it ends. `None` = there are too many.
    fn join(&self, name: &Arc<str>) -> Option<Joined> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, questions) = mpsc::channel(QUESTIONS);
        let end = CancellationToken::new();
        let mut links = self.links.lock();
        if links.peers.len() >= MAX_PEERS && !links.peers.contains_key(name) {
            return None;
        }
        links.silent.remove(name);
        if let Some(old) = links.peers.insert(Arc::clone(name), Link { number, questions: sender, end: end.clone() }) {
            old.end.cancel();
        }
        Some(Joined { number, questions, end })
    }

    /// A stream has ended. `pods` gives the proxies that the replica had, unless a newer stream of it is there.
    fn leave(&self, name: &Arc<str>, number: u64, pods: impl FnOnce() -> BTreeSet<WorkloadRef>) {
        let mut links = self.links.lock();
        if links.peers.get(name).is_none_or(|link| link.number != number) {
            return;
        }
        links.peers.remove(name);
        links.silent.insert(Arc::clone(name), pods());
    }

    /// Replicas that have gone silent and whose proxies have not all come back elsewhere; `is_missing` says of a pod that its
    /// proxy has not.
    fn silent(&self, is_missing: impl Fn(&WorkloadRef) -> bool) -> Vec<String> {
        let mut links = self.links.lock();
        links.silent.retain(|_, pods| {
            pods.retain(|pod| is_missing(pod));
            !pods.is_empty()
        });
        let told = |(name, pods): (&Arc<str>, &BTreeSet<WorkloadRef>)| {
            format!("replica {name} is gone, and {} of its proxies have not come back", pods.len())
        };
        links.silent.iter().map(told).collect()
    }
}
