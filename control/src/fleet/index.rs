//! Which proxies hold what of each user's object: kept current per target and per ack, so that asking costs nothing but the proxies
//! that the object concerns.
//!
//! A change from one snapshot to another is compared entry by entry once, however many proxies make it; what is counted anew is only
//! what differs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use palisade_model::{hash::ContentHash, origin::Origin, resource::Entry, snapshot::Snapshot};

use super::SessionId;

/// Differences between snapshots that are remembered for the next proxy that makes the same step.
const REMEMBERED: usize = 32;

/// An object whatever its generation; in order of its names, then its UID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// API group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// UID; empty where documents come from files.
    pub uid: Arc<str>,
}

/// What each of the proxies that count should hold and holds.
#[derive(Debug, Default)]
pub(super) struct Index {
    held: BTreeMap<SessionId, Held>,
    objects: BTreeMap<ObjectId, BTreeMap<SessionId, Part>>,
    steps: VecDeque<((Version, Version), Arc<Step>)>,
    changed: BTreeSet<ObjectId>,
    /// Parts that another replica is to hear of; `None` while nobody listens.
    unreported: Option<BTreeSet<(ObjectId, SessionId)>>,
}

/// How many proxies do what an object says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Proxies that do.
    pub(super) by: usize,
    /// Proxies that it concerns.
    pub(super) of: usize,
    /// Those that do not.
    pub(super) lagging: Vec<Lagging>,
}

/// A proxy that does not do what an object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lagging {
    /// Its stream.
    pub(super) session: SessionId,
    /// What it should hold is made from the asked generation.
    pub(super) is_generation: bool,
    /// A part of it is withheld, as another replica tells.
    pub(super) is_withheld: bool,
}

#[derive(Debug, Default)]
struct Held {
    wanted: Option<Arc<Snapshot>>,
    acked: Option<Arc<Snapshot>>,
}

/// What of an object one proxy should hold and holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// What it should hold.
    pub(crate) wanted: Sum,
    /// What it holds.
    pub(crate) acked: Sum,
    /// Of proxies of other replicas: some of it is withheld.
    pub(crate) is_withheld: bool,
}

/// Resources made from an object: how many, the sum of their hashes, and the object's generation in them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum {
    /// How many.
    pub(crate) count: u32,
    /// The sum of their hashes.
    pub(crate) hashes: u64,
    /// The object's generation in them.
    pub(crate) generation: i64,
}

/// What is added to and taken from a [`Sum`].
#[derive(Debug, Default, Clone, Copy)]
struct Change {
    added: u32,
    removed: u32,
    hashes: u64,
    /// Of what is added.
    generation: Option<i64>,
}

type Version = Option<ContentHash>;
type Step = Vec<(ObjectId, Change)>;

#[derive(Clone, Copy)]
enum Side {
    Wanted,
    Acked,
}

impl Index {
    /// What a proxy should hold and holds from now on.
    pub(super) fn set(&mut self, id: SessionId, wanted: Option<&Arc<Snapshot>>, acked: Option<&Arc<Snapshot>>) {
        let Held { wanted: old_wanted, acked: old_acked } = self.held.remove(&id).unwrap_or_default();
        self.step(id, Side::Wanted, old_wanted.as_ref(), wanted);
        self.step(id, Side::Acked, old_acked.as_ref(), acked);
        self.held.insert(id, Held { wanted: wanted.cloned(), acked: acked.cloned() });
    }

    /// A proxy counts no more.
    pub(super) fn drop(&mut self, id: SessionId) {
        self.set(id, None, None);
        self.held.remove(&id);
    }

    /// What there is to say about a proxy has changed: of all objects that it does not do, the view has.
    pub(super) fn touch(&mut self, id: SessionId) {
        let Some(Held { wanted, acked }) = self.held.get(&id) else { return };
        let step = difference(acked.as_deref(), wanted.as_deref());
        self.changed.extend(step.into_iter().map(|(object, _)| object));
    }

    /// Of these objects, too, some proxy has got another view.
    pub(super) fn note_changed(&mut self, objects: BTreeSet<ObjectId>) {
        self.changed.extend(objects);
    }

    /// Objects that some proxy has got another view of since this was asked last.
    pub(super) fn take_changed(&mut self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.changed)
    }

    /// Proxies that hold exactly what they should of an object, made from this generation of it. An empty uid stands for any.
    pub(super) fn enforced(&self, object: &Origin, counts: impl Fn(SessionId) -> bool) -> Count {
        self.count(object, counts, |part| {
            let is_generation = part.wanted.count == 0 || part.wanted.generation == object.generation;
            (is_generation && part.wanted.is_same(&part.acked), is_generation)
        })
    }

    /// Proxies that hold something made from this generation of an object. An empty uid stands for any.
    pub(super) fn programmed(&self, object: &Origin, counts: impl Fn(SessionId) -> bool) -> Count {
        self.count(object, counts, |part| {
            let is_acked = part.acked.count > 0 && part.acked.generation == object.generation;
            (is_acked, part.wanted.count == 0 || part.wanted.generation == object.generation)
        })
    }

    /// `judge` says of a proxy's part whether all is well, and whether it is about the asked generation.
    fn count(
        &self,
        object: &Origin,
        counts: impl Fn(SessionId) -> bool,
        judge: impl Fn(&Part) -> (bool, bool),
    ) -> Count {
        let mut verdicts: BTreeMap<SessionId, (bool, Lagging)> = BTreeMap::new();
        for (id, parts) in self.named(object) {
            if !object.uid.is_empty() && !id.uid.is_empty() && id.uid != object.uid {
                continue;
            }
            for (session, part) in parts.iter().filter(|(session, _)| counts(**session)) {
                let (is_well, is_generation) = judge(part);
                let fresh = Lagging { session: *session, is_generation: true, is_withheld: false };
                let (all_well, lagging) = verdicts.entry(*session).or_insert((true, fresh));
                *all_well &= is_well;
                lagging.is_generation &= is_generation;
                lagging.is_withheld |= part.is_withheld;
            }
        }
        let of = verdicts.len();
        let lagging: Vec<Lagging> =
            verdicts.into_values().filter(|(is_well, _)| !is_well).map(|(_, lagging)| lagging).collect();
        Count { by: of - lagging.len(), of, lagging }
    }

    /// All objects of a name, whatever their UIDs.
    fn named(&self, object: &Origin) -> impl Iterator<Item = (&ObjectId, &BTreeMap<SessionId, Part>)> {
        let first = ObjectId { uid: "".into(), ..ObjectId::of(object) };
        let wanted = first.clone();
        self.objects.range(first..).take_while(move |(id, _)| id.is_named_as(&wanted))
    }

    fn step(&mut self, id: SessionId, side: Side, from: Option<&Arc<Snapshot>>, to: Option<&Arc<Snapshot>>) {
        let version = |snapshot: Option<&Arc<Snapshot>>| snapshot.map(|snapshot| snapshot.version());
        let versions = (version(from), version(to));
        if versions.0 == versions.1 {
            return;
        }
        let known = self.steps.iter().find(|(known, _)| *known == versions).map(|(_, step)| Arc::clone(step));
        let step = known.unwrap_or_else(|| {
            let step = Arc::new(difference(from.map(|s| &**s), to.map(|s| &**s)));
            if self.steps.len() == REMEMBERED {
                self.steps.pop_front();
            }
            self.steps.push_back((versions, Arc::clone(&step)));
            step
        });
        for (object, change) in step.iter() {
            let parts = self.objects.entry(object.clone()).or_default();
            let part = parts.entry(id).or_default();
            let sum = match side {
                Side::Wanted => &mut part.wanted,
                Side::Acked => &mut part.acked,
            };
            sum.apply(change);
            if part.wanted.count == 0 && part.acked.count == 0 {
                parts.remove(&id);
            }
            if parts.is_empty() {
                self.objects.remove(object);
            }
            if !self.changed.contains(object) {
                self.changed.insert(object.clone());
            }
            if let Some(unreported) = &mut self.unreported {
                unreported.insert((object.clone(), id));
            }
        }
    }

    /// What a proxy of another replica should hold and holds of an object from now on, as that replica tells.
    pub(super) fn set_told(&mut self, id: SessionId, object: ObjectId, part: Part) {
        if part.wanted.count == 0 && part.acked.count == 0 {
            if let Some(parts) = self.objects.get_mut(&object) {
                parts.remove(&id);
                if parts.is_empty() {
                    self.objects.remove(&object);
                }
            }
        } else {
            self.objects.entry(object.clone()).or_default().insert(id, part);
        }
        self.changed.insert(object);
    }

    /// From now on it is noted which parts change; all of them have, at first.
    pub(super) fn report(&mut self) {
        let all = self.objects.iter().flat_map(|(object, parts)| parts.keys().map(|id| (object.clone(), *id)));
        self.unreported = Some(all.collect());
    }

    /// It is noted no more.
    pub(super) fn end_report(&mut self) {
        self.unreported = None;
    }

    /// Parts that have changed since this was asked last, as they are now.
    pub(super) fn take_unreported(&mut self) -> Vec<(ObjectId, SessionId, Part)> {
        let unreported = self.unreported.as_mut().map(std::mem::take).unwrap_or_default();
        let part = |object: &ObjectId, id| self.objects.get(object).and_then(|parts| parts.get(&id)).copied();
        let now = |(object, id): (ObjectId, SessionId)| {
            // What is not there any more is nothing.
            let part = part(&object, id).unwrap_or_default();
            (object, id, part)
        };
        unreported.into_iter().map(now).collect()
    }
}

impl ObjectId {
    /// The object of an origin.
    pub fn of(origin: &Origin) -> Self {
        let Origin { group, kind, namespace, name, uid, generation: _ } = origin.clone();
        Self { group, kind, namespace, name, uid }
    }

    /// An origin without a generation.
    pub(super) fn origin(&self) -> Origin {
        let Self { group, kind, namespace, name, uid } = self.clone();
        Origin { group, kind, namespace, name, uid, generation: 0 }
    }

    /// Whether it is called as an object is, whatever their UIDs.
    pub(super) fn is_named(&self, object: &Origin) -> bool {
        (&self.group, &self.kind, &self.namespace, &self.name)
            == (&object.group, &object.kind, &object.namespace, &object.name)
    }

    fn is_named_as(&self, other: &Self) -> bool {
        (&self.group, &self.kind, &self.namespace, &self.name)
            == (&other.group, &other.kind, &other.namespace, &other.name)
    }
}

impl Sum {
    fn apply(&mut self, change: &Change) {
        let Change { added, removed, hashes, generation } = change;
        self.count = (self.count + added).saturating_sub(*removed);
        self.hashes = self.hashes.wrapping_add(*hashes);
        if let Some(generation) = generation {
            self.generation = *generation;
        }
    }

    /// Whether both are made of the same resources.
    fn is_same(&self, other: &Self) -> bool {
        (self.count, self.hashes) == (other.count, other.hashes)
    }
}

/// What differs between two snapshots, by object.
fn difference(from: Option<&Snapshot>, to: Option<&Snapshot>) -> Step {
    let mut changes: BTreeMap<ObjectId, Change> = BTreeMap::new();
    let mut note = |entry: &Arc<Entry>, is_added: bool| {
        let hash = fingerprint(entry.hash());
        // An object is one of an entry's origins once.
        for origin in entry.meta().origins.iter() {
            let change = changes.entry(ObjectId::of(origin)).or_default();
            if is_added {
                change.added += 1;
                change.hashes = change.hashes.wrapping_add(hash);
                change.generation = Some(origin.generation);
            } else {
                change.removed += 1;
                change.hashes = change.hashes.wrapping_sub(hash);
            }
        }
    };
    let mut old = from.into_iter().flat_map(Snapshot::entries).peekable();
    let mut new = to.into_iter().flat_map(Snapshot::entries).peekable();
    loop {
        // Both are in key order.
        let order = match (old.peek(), new.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => break,
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        match (gone, come) {
            (Some((_, gone)), Some((_, come))) if Arc::ptr_eq(gone, come) || gone.hash() == come.hash() => {}
            (gone, come) => {
                if let Some((_, entry)) = gone {
                    note(entry, false);
                }
                if let Some((_, entry)) = come {
                    note(entry, true);
                }
            }
        }
    }
    changes.into_iter().collect()
}

/// The hash covers key, content and provenance; eight bytes are enough to tell sums apart.
fn fingerprint(hash: ContentHash) -> u64 {
    hash.as_bytes().iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte))
}
