//! What a leader says of the proxies of another replica is what that replica says, whatever has happened.

use super::*;
use crate::replicas::{messages, told};

const REPLICA: &str = "other";

/// A replica that tells a leader, over messages as they travel.
struct Telling {
    leader: Fleet,
    other: Fleet,
    name: Arc<str>,
    objects: BTreeMap<ObjectId, i64>,
}

impl Telling {
    fn new() -> Self {
        let telling =
            Self { leader: Fleet::default(), other: Fleet::default(), name: REPLICA.into(), objects: BTreeMap::new() };
        telling.leader.replica_joined(&telling.name);
        telling.other.begin_report();
        telling
    }

    /// Tells what is new, with objects at their generations.
    fn tell(&mut self, objects: &[Origin]) {
        let report = self.other.report(0, true);
        assert!(report.is_told);
        let now: BTreeMap<ObjectId, i64> = objects.iter().map(|o| (ObjectId::of(o), o.generation)).collect();
        let fresh = now.iter().filter(|(id, g)| self.objects.get(id) != Some(g)).map(|(id, g)| (id.clone(), *g));
        let gone = self.objects.keys().filter(|id| !now.contains_key(id)).cloned();
        for message in messages(report, fresh.collect(), gone.collect()) {
            assert!(self.leader.replica_told(&self.name, told(message).unwrap()));
        }
        self.objects = now;
    }
}

fn join_at(fleet: &Fleet, pod: &WorkloadRef, second: u64) -> SessionId {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    fleet.joined(pod.clone(), &greeting(pod), mpsc::channel(1).0, now)
}

#[test]
fn the_leader_says_of_another_replicas_proxies_what_that_one_says() {
    let settings = settings();
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut telling = Telling::new();
        let mut sessions: Vec<(SessionId, Vec<Arc<Snapshot>>)> = Vec::new();
        let mut generations = [1_i64; 5];
        for second in 0..100 {
            match random.usize(0..10) {
                0 | 1 => {
                    let id = join_at(&telling.other, &pod(random.usize(0..4)), second);
                    sessions.push((id, Vec::new()));
                }
                2 if !sessions.is_empty() => {
                    let (id, _) = sessions.swap_remove(random.usize(0..sessions.len()));
                    telling.other.left(id);
                }
                3 => generations[random.usize(0..generations.len())] += 1,
                4 => {
                    // The stream breaks and comes again.
                    telling.other.end_report();
                    telling.leader.replica_joined(&telling.name);
                    telling.other.begin_report();
                    telling.objects.clear();
                }
                5..=7 if !sessions.is_empty() => {
                    let resources: Vec<(usize, Vec<Origin>)> = (0..4)
                        .map(|resource| {
                            let chosen = (0..generations.len()).filter(|_| random.u8(0..3) == 0);
                            (resource, chosen.map(|object| origin(object, 1, generations[object])).collect())
                        })
                        .collect();
                    let made = snapshot(&settings, &resources);
                    let which = random.usize(0..sessions.len());
                    target(&telling.other, sessions[which].0, &made);
                    sessions[which].1.push(made);
                }
                _ if !sessions.is_empty() => {
                    let (id, offered) = &sessions[random.usize(0..sessions.len())];
                    if let Some(made) = offered.last() {
                        ack(&telling.other, *id, made);
                    }
                }
                _ => {}
            }
            let objects: Vec<Origin> =
                generations.iter().enumerate().map(|(object, g)| origin(object, 1, *g)).collect();
            telling.tell(&objects);
            for object in &objects {
                assert_eq!(telling.leader.enforced(object), telling.other.enforced(object), "seed {seed}");
                assert_eq!(telling.leader.programmed(object), telling.other.programmed(object), "seed {seed}");
            }
            assert_eq!(telling.leader.connected(), telling.other.connected(), "seed {seed}");
        }
        telling.leader.replica_left(&telling.name);
        assert!(telling.leader.connected().is_empty());
        assert_eq!(telling.leader.enforced(&origin(0, 1, generations[0])), Enforced::default());
    }
}

#[test]
fn a_proxy_that_moves_is_counted_once_by_the_stream_that_came_last() {
    let settings = settings();
    let object = origin(0, 1, 1);
    let made = snapshot(&settings, &[(0, vec![object.clone()])]);
    let mut telling = Telling::new();
    let there = join_at(&telling.other, &pod(0), 1);
    target(&telling.other, there, &made);
    ack(&telling.other, there, &made);
    telling.tell(std::slice::from_ref(&object));
    assert_eq!((telling.leader.enforced(&object).by, telling.leader.enforced(&object).of), (1, 1));

    // It comes here before its old stream is known to be over.
    let here = join_at(&telling.leader, &pod(0), 2);
    target(&telling.leader, here, &made);
    let told = telling.leader.enforced(&object);
    assert_eq!((told.by, told.of), (0, 1), "what it has acknowledged elsewhere does not count here: {told:?}");
    ack(&telling.leader, here, &made);
    assert_eq!((telling.leader.enforced(&object).by, telling.leader.enforced(&object).of), (1, 1));
    // What the old stream says changes nothing.
    telling.other.update(there, |record| record.unofferable = Some("old".into()));
    telling.tell(std::slice::from_ref(&object));
    assert_eq!((telling.leader.enforced(&object).by, telling.leader.enforced(&object).of), (1, 1));

    // And back again, while the stream here is not known to be over.
    telling.other.left(there);
    let back = join_at(&telling.other, &pod(0), 3);
    target(&telling.other, back, &made);
    telling.tell(std::slice::from_ref(&object));
    assert_eq!((telling.leader.enforced(&object).by, telling.leader.enforced(&object).of), (0, 1));
    telling.other.left(back);
    telling.tell(std::slice::from_ref(&object));
    assert_eq!(telling.leader.enforced(&object).by, 1, "the stream here is all that is left");
    telling.leader.left(here);
    assert_eq!(telling.leader.enforced(&object).of, 0);
}

#[test]
fn what_a_replica_with_proxies_has_not_compiled_or_told_is_not_enforced() {
    let settings = settings();
    let (old, new) = (origin(0, 1, 1), origin(0, 1, 2));
    let mut telling = Telling::new();
    telling.tell(std::slice::from_ref(&old));
    assert!(telling.leader.enforced(&new).missing.is_empty(), "a replica without proxies concerns nobody");
    let id = join_at(&telling.other, &pod(0), 1);
    target(&telling.other, id, &snapshot(&settings, &[]));
    telling.tell(std::slice::from_ref(&old));
    let told = telling.leader.enforced(&new);
    assert_eq!((told.by, told.of, told.missing.len()), (0, 0, 1), "its proxy may be concerned by what it has not seen");
    telling.tell(std::slice::from_ref(&new));
    assert!(telling.leader.enforced(&new).missing.is_empty());

    // A proxy that has not been told of the newest mesh holds up nothing but what concerns everybody.
    telling.other.update(id, |record| record.epoch = 1);
    assert!(!telling.other.report(2, false).is_told, "mostly it is told in the next moment");
    let late = telling.other.report(2, true);
    assert!(late.is_told);
    for message in messages(late, Vec::new(), Vec::new()) {
        assert!(telling.leader.replica_told(&telling.name, told_of(message)));
    }
    assert_eq!(telling.leader.enforced(&new).missing["foo/0"], "not told yet");
    telling.other.update(id, |record| record.epoch = 2);
    for message in messages(telling.other.report(2, true), Vec::new(), Vec::new()) {
        assert!(telling.leader.replica_told(&telling.name, told_of(message)));
    }
    assert!(telling.leader.enforced(&new).missing.is_empty());
}

fn told_of(message: palisade_wire::proto::v1::FleetReport) -> Told {
    told(message).unwrap()
}

#[test]
fn a_part_of_a_stream_that_was_never_named_ends_the_telling() {
    let mut told = Told::default();
    told.parts.push((ObjectId::of(&origin(0, 1, 1)), vec![(7, super::super::Part::default())]));
    let telling = Telling::new();
    assert!(!telling.leader.replica_told(&telling.name, told));
    assert!(!telling.leader.replica_told(&"stranger".into(), Told::default()));
}
