//! What a replica that does not lead tells about its proxies: what has changed since it told last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use palisade_model::settings::WorkloadRef;

use super::{Fleet, ObjectId, Part, ProxyRecord, SessionId, State, origins_of};

/// What is noted while somebody listens.
#[derive(Debug, Default)]
pub(super) struct Unreported {
    /// Streams that came, went, or of which something is new.
    sessions: BTreeSet<SessionId>,
    /// Streams that have been told.
    told: BTreeSet<SessionId>,
    /// Streams that were told to be behind.
    behind: BTreeSet<SessionId>,
}

/// What has changed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Proxies that are new, or of which something is; by the number of their stream.
    pub(crate) proxies: Vec<(u64, ReportedProxy)>,
    /// Streams that are over, or count no more.
    pub(crate) left: Vec<u64>,
    /// What proxies should hold and hold of objects.
    pub(crate) parts: BTreeMap<ObjectId, Vec<(u64, Part)>>,
    /// All proxies have been told of the mesh that was asked about, or are reported to be behind.
    pub(crate) is_told: bool,
}

/// A proxy as others are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReportedProxy {
    /// Its pod, proven.
    pub(crate) pod: WorkloadRef,
    /// Since when it is connected.
    pub(crate) connected: SystemTime,
    /// Why nothing at all can be offered to it.
    pub(crate) unofferable: Option<Arc<str>>,
    /// Why it refused what it was offered last.
    pub(crate) refused: Option<Arc<str>>,
    /// Features that it lacks of those that something withheld needs.
    pub(crate) lacking: BTreeSet<String>,
    /// It has not been told yet what is compiled.
    pub(crate) is_behind: bool,
    /// Objects with a listener that does not listen, and what there is to say about it.
    pub(crate) unbound: Vec<(ObjectId, Arc<str>)>,
}

impl Fleet {
    /// From now on it is noted what changes; all is new at first.
    pub(crate) fn begin_report(&self) {
        let mut state = self.state.lock();
        let sessions = state.sessions.keys().copied().collect();
        state.unreported = Some(Unreported { sessions, ..Unreported::default() });
        state.index.report();
    }

    /// Nobody listens any more.
    pub(crate) fn end_report(&self) {
        let mut state = self.state.lock();
        state.unreported = None;
        state.index.end_report();
    }

    /// What has changed since this was asked last. Proxies that have not been told of mesh `epoch` are reported to be behind only
    /// if it `is_late`: mostly they are told in the next moment.
    pub(crate) fn report(&self, epoch: u64, is_late: bool) -> Report {
        let mut state = self.state.lock();
        let Some(Unreported { mut sessions, mut told, behind: old }) = state.unreported.take() else {
            return Report::default();
        };
        let lagging: BTreeSet<SessionId> = state
            .newest
            .values()
            .filter(|id| state.sessions.get(id).is_some_and(|record| record.epoch < epoch))
            .copied()
            .collect();
        let behind = if is_late { lagging.clone() } else { old.intersection(&lagging).copied().collect() };
        sessions.extend(behind.symmetric_difference(&old));
        let mut report = Report { is_told: lagging.is_subset(&behind), ..Report::default() };
        for id in sessions {
            match state.sessions.get(&id) {
                Some(record) if state.newest.get(&record.pod) == Some(&id) => {
                    report.proxies.push((id.0, record.reported(behind.contains(&id))));
                    told.insert(id);
                }
                Some(_) | None if told.remove(&id) => report.left.push(id.0),
                Some(_) | None => {}
            }
        }
        for (object, id, part) in state.index.take_unreported() {
            // Of streams that are gone it is enough that they are.
            let Some(record) = state.sessions.get(&id).filter(|_| told.contains(&id)) else { continue };
            let part = Part { is_withheld: record.withholds(&object), ..part };
            report.parts.entry(object).or_default().push((id.0, part));
        }
        state.unreported = Some(Unreported { sessions: BTreeSet::new(), told, behind });
        report
    }
}

impl State {
    /// Something of a stream is new.
    pub(super) fn note_session(&mut self, id: SessionId) {
        if let Some(unreported) = &mut self.unreported {
            unreported.sessions.insert(id);
        }
    }
}

impl ProxyRecord {
    fn withholds(&self, object: &ObjectId) -> bool {
        self.withheld.iter().any(|item| item.origins.iter().any(|origin| ObjectId::of(origin) == *object))
    }

    fn reported(&self, is_behind: bool) -> ReportedProxy {
        let lacking = self.withheld.iter().flat_map(|item| item.missing.iter()).map(|feature| feature.0.to_string());
        let snapshot = self.acked.as_ref().map(|(offer, _)| offer.snapshot());
        let of_listener = |(listener, message): (&Arc<str>, &Arc<str>)| {
            let text: Arc<str> = format!("{listener} does not listen: {message}").into();
            let origins = snapshot.map_or(&[][..], |snapshot| origins_of(snapshot, listener));
            origins.iter().map(|origin| (ObjectId::of(origin), Arc::clone(&text))).collect::<Vec<_>>()
        };
        ReportedProxy {
            pod: self.pod.clone(),
            connected: self.connected,
            unofferable: self.unofferable.clone(),
            refused: self.nacked.as_ref().map(|(rejection, _)| Arc::clone(&rejection.message)),
            lacking: lacking.collect(),
            is_behind,
            unbound: self.unbound.iter().flat_map(of_listener).collect(),
        }
    }
}
