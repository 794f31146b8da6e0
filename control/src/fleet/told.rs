//! Proxies of other replicas, as those tell it to the one that leads: counted as its own are, each pod once.
//!
//! What a replica tells is believed because it has proven to be one. What it has not told yet is held against the object: a
//! replica with proxies that has not compiled an object as it is asked about may have proxies that do not do it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use palisade_model::{origin::Origin, settings::WorkloadRef};

use super::{Enforced, Fleet, ObjectId, Part, ReportedProxy, SessionId, State, is_same, name};

/// A proxy that is connected to another replica.
#[derive(Debug)]
pub(super) struct RemoteProxy {
    pub(super) pod: WorkloadRef,
    connected: SystemTime,
    unofferable: Option<Arc<str>>,
    refused: Option<Arc<str>>,
    lacking: BTreeSet<String>,
    unbound: Vec<(ObjectId, Arc<str>)>,
}

/// Another replica.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Its numbers of streams, and those here.
    sessions: BTreeMap<u64, SessionId>,
    /// Objects of which it has a part, by stream: they go with the stream.
    parts: BTreeMap<SessionId, BTreeSet<ObjectId>>,
    /// Streams of proxies that have not been told what is compiled.
    behind: BTreeSet<SessionId>,
    /// Objects as all others of its proxies have been told, with their generation.
    compiled: BTreeMap<ObjectId, i64>,
}

/// What a replica tells at a time.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Proxies that are new, or of which something is; by the replica's own number of the stream.
    pub(crate) proxies: Vec<(u64, ReportedProxy)>,
    /// Streams that are over.
    pub(crate) left: Vec<u64>,
    /// What proxies should hold and hold of objects.
    pub(crate) parts: Vec<(ObjectId, Vec<(u64, Part)>)>,
    /// Objects that all its proxies have been told of at a generation.
    pub(crate) compiled: Vec<(ObjectId, i64)>,
    /// Objects that are no more.
    pub(crate) removed: Vec<ObjectId>,
}

impl Fleet {
    /// A replica begins to tell; what it told before is forgotten.
    pub(crate) fn replica_joined(&self, replica: &Arc<str>) {
        let mut state = self.state.lock();
        state.forget_peer(replica);
        state.peers.insert(Arc::clone(replica), Peer::default());
        drop(state);
        self.changed();
    }

    /// A replica tells no more: what its proxies do nobody knows. Returns their pods.
    pub(crate) fn replica_left(&self, replica: &Arc<str>) -> BTreeSet<WorkloadRef> {
        let mut state = self.state.lock();
        let pods = state.forget_peer(replica);
        drop(state);
        self.changed();
        pods
    }

    /// A replica tells something. False: it counts as gone, or speaks of streams that it never named.
    pub(crate) fn replica_told(&self, replica: &Arc<str>, told: Told) -> bool {
        let Told { proxies, left, parts, compiled, removed } = told;
        let mut state = self.state.lock();
        let Some(mut peer) = state.peers.remove(replica) else { return false };
        for (number, proxy) in proxies {
            let fresh = || SessionId(self.next.fetch_add(1, Ordering::Relaxed));
            let id = *peer.sessions.entry(number).or_insert_with(fresh);
            if proxy.is_behind {
                peer.behind.insert(id);
            } else {
                peer.behind.remove(&id);
            }
            state.see(id, RemoteProxy::from(proxy), peer.parts.get(&id));
        }
        for id in left.iter().filter_map(|number| peer.sessions.remove(number)) {
            peer.behind.remove(&id);
            state.unsee(id, peer.parts.remove(&id).unwrap_or_default());
        }
        let mut is_known = true;
        for (object, parts) in parts {
            for (number, part) in parts {
                let Some(id) = peer.sessions.get(&number) else {
                    is_known = false;
                    continue;
                };
                let objects = peer.parts.entry(*id).or_default();
                if part.wanted.count == 0 && part.acked.count == 0 {
                    objects.remove(&object);
                } else {
                    objects.insert(object.clone());
                }
                state.index.set_told(*id, object.clone(), part);
            }
        }
        let news = compiled.iter().map(|(object, _)| object).chain(&removed).cloned().collect();
        for object in &removed {
            peer.compiled.remove(object);
        }
        peer.compiled.extend(compiled);
        state.index.note_changed(news);
        state.peers.insert(Arc::clone(replica), peer);
        drop(state);
        self.changed();
        is_known
    }
}

impl State {
    /// Whether a stream, at whichever replica, is the one of its pod that counts.
    pub(super) fn is_counted(&self, id: SessionId) -> bool {
        let pod = match self.sessions.get(&id) {
            Some(record) => Some(&record.pod),
            None => self.remote.get(&id).map(|proxy| &proxy.pod),
        };
        pod.is_some_and(|pod| self.newest.get(pod) == Some(&id))
    }

    /// The newest stream of a pod, at whichever replica.
    pub(super) fn newest_of(&self, pod: &WorkloadRef) -> Option<SessionId> {
        let here = self.sessions.iter().filter(|(_, record)| record.pod == *pod).map(|(id, r)| (r.connected, *id));
        let there = self.remote.iter().filter(|(_, proxy)| proxy.pod == *pod).map(|(id, p)| (p.connected, *id));
        here.chain(there).max().map(|(_, id)| id)
    }

    fn connected_at(&self, id: SessionId) -> Option<SystemTime> {
        let here = self.sessions.get(&id).map(|record| record.connected);
        here.or_else(|| self.remote.get(&id).map(|proxy| proxy.connected))
    }

    /// A proxy of another replica is there, or something of it is new. Of two streams of a pod the one that came later counts:
    /// clocks may differ, but whichever counts has acknowledged what it says, and the other one ends within a minute.
    fn see(&mut self, id: SessionId, proxy: RemoteProxy, objects: Option<&BTreeSet<ObjectId>>) {
        let (pod, connected) = (proxy.pod.clone(), proxy.connected);
        self.remote.insert(id, proxy);
        self.index.note_changed(objects.cloned().unwrap_or_default());
        let before = self.newest.get(&pod).copied();
        if before != Some(id) && before.and_then(|other| self.connected_at(other)).is_none_or(|at| at <= connected) {
            self.count(pod, Some(id));
        }
    }

    fn unsee(&mut self, id: SessionId, objects: BTreeSet<ObjectId>) {
        for object in objects {
            self.index.set_told(id, object, Part::default());
        }
        if let Some(proxy) = self.remote.remove(&id)
            && self.newest.get(&proxy.pod) == Some(&id)
        {
            let next = self.newest_of(&proxy.pod);
            self.count(proxy.pod, next);
        }
    }

    fn forget_peer(&mut self, replica: &Arc<str>) -> BTreeSet<WorkloadRef> {
        let Some(Peer { sessions, mut parts, behind: _, compiled }) = self.peers.remove(replica) else {
            return BTreeSet::new();
        };
        let pods = sessions.values().filter_map(|id| self.remote.get(id)).map(|proxy| proxy.pod.clone()).collect();
        for id in sessions.into_values() {
            self.unsee(id, parts.remove(&id).unwrap_or_default());
        }
        self.index.note_changed(compiled.into_keys().collect());
        pods
    }

    /// With what replicas have not told: of an object that one of them has not compiled as it is, and of proxies that have not
    /// been told yet.
    pub(super) fn with_replicas(&self, mut enforced: Enforced, object: &Origin) -> Enforced {
        let is_compiled = |peer: &Peer| {
            let first = ObjectId { uid: "".into(), ..ObjectId::of(object) };
            let named = peer.compiled.range(first..).take_while(|(id, _)| id.is_named(object));
            named.filter(|(id, _)| is_same(&id.origin(), object)).any(|(_, g)| *g == object.generation)
        };
        for (replica, peer) in &self.peers {
            let has_proxies = peer.sessions.values().any(|id| self.is_counted(*id));
            if has_proxies && !is_compiled(peer) {
                let reason = format!("has not compiled generation {}", object.generation);
                enforced.missing.insert(format!("replica {replica}"), reason);
            }
            let behind = peer.behind.iter().filter(|id| self.is_counted(**id));
            for proxy in behind.filter_map(|id| self.remote.get(id)) {
                enforced.missing.entry(name(&proxy.pod)).or_insert_with(|| "not told yet".to_owned());
            }
        }
        enforced
    }
}

impl RemoteProxy {
    /// The first listener made from an object that does not listen, and why.
    pub(super) fn not_listening(&self, object: &Origin) -> Option<String> {
        self.unbound.iter().find(|(id, _)| is_same(&id.origin(), object)).map(|(_, message)| message.to_string())
    }

    /// Why it does not do what an object says.
    pub(super) fn problem(&self, is_generation: bool, is_withheld: bool) -> String {
        if let Some(reason) = &self.unofferable {
            reason.to_string()
        } else if is_withheld {
            format!("withheld: the proxy lacks {:?}", self.lacking)
        } else if !is_generation {
            "not compiled at this generation".to_owned()
        } else if let Some(message) = &self.refused {
            format!("refused: {message}")
        } else {
            "not acknowledged yet".to_owned()
        }
    }
}

impl From<ReportedProxy> for RemoteProxy {
    fn from(proxy: ReportedProxy) -> Self {
        let ReportedProxy { pod, connected, unofferable, refused, lacking, is_behind: _, unbound } = proxy;
        Self { pod, connected, unofferable, refused, lacking, unbound }
    }
}
