//! The index says what a pass over all snapshots says, whatever has happened.

use std::{collections::BTreeMap, time::Duration};

use palisade_compile::{Inputs, ProxyRef, SourceOptions, compile, scope};
use palisade_model::{
    endpoint::Endpoints,
    hash::ContentHash,
    resource::{Entry, Meta, Resource, ResourceKey, ResourceKind},
};

use super::*;

mod shared;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: foo}
spec: {serviceAccountName: a, containers: [{name: app, image: a}]}
";

/// What every snapshot has.
fn settings() -> Arc<Entry> {
    let texts = palisade_crds::document::read("in.yaml", POD.as_bytes());
    let compiled = compile(&Arc::new(Inputs::from_texts(texts, "default", &SourceOptions::default())));
    let snapshot = scope(&compiled.mesh, &ProxyRef::sidecar("foo", "a"), &BTreeSet::new()).unwrap();
    let Resource::Settings(mut settings) = snapshot.get(ResourceKind::Settings, "proxy").unwrap().resource().clone()
    else {
        panic!("these are settings")
    };
    settings.egress_policies = None;
    Arc::new(Entry::new(Resource::Settings(settings), Meta::default()).unwrap())
}

fn origin(name: usize, uid: usize, generation: i64) -> Origin {
    let uid = if uid == 0 { String::new() } else { uid.to_string() };
    Origin {
        group: "g".into(),
        kind: "K".into(),
        namespace: "n".into(),
        name: name.to_string().into(),
        uid: uid.into(),
        generation,
    }
}

/// A snapshot with one resource for each list of objects.
fn snapshot(settings: &Arc<Entry>, resources: &[(usize, Vec<Origin>)]) -> Arc<Snapshot> {
    let entry = |(name, origins): &(usize, Vec<Origin>)| {
        let endpoints = Endpoints { key: name.to_string().into(), endpoints: [].into(), identities: BTreeSet::new() };
        let meta = Meta { origins: origins.as_slice().into(), requires: BTreeSet::new() };
        Arc::new(Entry::new(Resource::Endpoints(endpoints), meta).unwrap())
    };
    Arc::new(Snapshot::from_entries(resources.iter().map(entry).chain([Arc::clone(settings)])).unwrap())
}

type Part = (ResourceKey, i64, ContentHash);

fn made_from(snapshot: &Snapshot, object: &Origin) -> Vec<Part> {
    let part = |entry: &Arc<Entry>| {
        let origin = entry.meta().origins.iter().find(|origin| is_same(origin, object))?;
        Some((entry.key().clone(), origin.generation, entry.hash()))
    };
    snapshot.entries().values().filter_map(part).collect()
}

/// The same by a pass over everything.
fn plain(fleet: &Fleet, object: &Origin) -> (usize, usize, Vec<String>) {
    let mut newest: BTreeMap<WorkloadRef, ProxyRecord> = BTreeMap::new();
    for record in fleet.proxies() {
        newest.insert(record.pod.clone(), record);
    }
    let (mut by, mut of, mut missing) = (0, 0, Vec::new());
    for (pod, record) in newest {
        let wanted = record.target.as_deref().map(|snapshot| made_from(snapshot, object)).unwrap_or_default();
        let acked = record.acked.as_ref().map(|(offer, _)| made_from(offer.snapshot(), object)).unwrap_or_default();
        if wanted.is_empty() && acked.is_empty() {
            continue;
        }
        of += 1;
        if wanted.iter().all(|(_, generation, _)| *generation == object.generation) && wanted == acked {
            by += 1;
        } else {
            missing.push(name(&pod));
        }
    }
    (by, of, missing)
}

fn greeting(pod: &WorkloadRef) -> Greeting {
    Greeting {
        namespace: Arc::clone(&pod.namespace),
        name: Arc::clone(&pod.name),
        build: "test".into(),
        features: BTreeSet::new(),
        held: None,
        subscriptions: BTreeSet::new(),
        short_id: "".into(),
    }
}

fn join(fleet: &Fleet, pod: &WorkloadRef) -> SessionId {
    fleet.joined(pod.clone(), &greeting(pod), mpsc::channel(1).0, SystemTime::UNIX_EPOCH)
}

fn pod(name: usize) -> WorkloadRef {
    WorkloadRef { namespace: "foo".into(), name: name.to_string().into() }
}

fn target(fleet: &Fleet, id: SessionId, snapshot: &Arc<Snapshot>) {
    fleet.update(id, |record| record.target = Some(Arc::clone(snapshot)));
}

fn ack(fleet: &Fleet, id: SessionId, snapshot: &Arc<Snapshot>) {
    let offer = Offer::whole(Arc::clone(snapshot));
    fleet.update(id, |record| record.acked = Some((offer, SystemTime::UNIX_EPOCH)));
}

#[test]
fn the_index_agrees_with_a_pass_over_all_snapshots() {
    let settings = settings();
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let fleet = Fleet::default();
        let mut sessions: Vec<(SessionId, Vec<Arc<Snapshot>>)> = Vec::new();
        // A mesh in which objects change, go, and come back under another UID.
        let mut objects: Vec<(usize, i64)> = vec![(usize::from(seed % 2 == 0), 1); 6];
        for _ in 0..120 {
            match random.usize(0..10) {
                0 | 1 => sessions.push((join(&fleet, &pod(random.usize(0..4))), Vec::new())),
                2 if !sessions.is_empty() => {
                    let (id, _) = sessions.swap_remove(random.usize(0..sessions.len()));
                    fleet.left(id);
                }
                3 | 4 => {
                    let object = random.usize(0..objects.len());
                    objects[object].1 += 1;
                    if objects[object].0 > 0 && random.u8(0..4) == 0 {
                        objects[object] = (objects[object].0 + 1, 1);
                    }
                }
                5..=7 if !sessions.is_empty() => {
                    let mut resources: Vec<(usize, Vec<Origin>)> = Vec::new();
                    for resource in (0..5).filter(|_| random.bool()).collect::<Vec<usize>>() {
                        let mut origins: Vec<Origin> = (0..objects.len())
                            .filter(|_| random.u8(0..3) == 0)
                            .map(|object| origin(object, objects[object].0, objects[object].1))
                            .collect();
                        origins.sort();
                        resources.push((resource, origins));
                    }
                    let made = snapshot(&settings, &resources);
                    let which = random.usize(0..sessions.len());
                    target(&fleet, sessions[which].0, &made);
                    sessions[which].1.push(made);
                }
                _ if !sessions.is_empty() => {
                    let (id, offered) = &sessions[random.usize(0..sessions.len())];
                    if !offered.is_empty() {
                        // Mostly the newest, at times one that is late.
                        let late = random.usize(0..offered.len().min(2));
                        ack(&fleet, *id, &offered[offered.len() - 1 - late]);
                    }
                }
                _ => {}
            }
            for (object, (uid, generation)) in objects.iter().enumerate() {
                for asked in [origin(object, *uid, *generation), origin(object, 0, *generation)] {
                    let told = fleet.enforced(&asked);
                    let missing: Vec<String> = told.missing.keys().cloned().collect();
                    assert_eq!((told.by, told.of, missing), plain(&fleet, &asked), "seed {seed}: {asked:?}");
                }
            }
        }
    }
}

#[test]
fn a_late_stream_of_a_pod_changes_nothing() {
    let settings = settings();
    let fleet = Fleet::default();
    let made = snapshot(&settings, &[(0, vec![origin(0, 1, 1)])]);
    let old = join(&fleet, &pod(0));
    target(&fleet, old, &made);
    ack(&fleet, old, &made);
    assert_eq!(fleet.enforced(&origin(0, 1, 1)).by, 1);
    let new = join(&fleet, &pod(0));
    target(&fleet, new, &made);
    ack(&fleet, old, &made);
    let told = fleet.enforced(&origin(0, 1, 1));
    assert_eq!((told.by, told.of), (0, 1));
    fleet.left(old);
    assert_eq!(fleet.enforced(&origin(0, 1, 1)).of, 1, "the newer stream is still there");
    ack(&fleet, new, &made);
    assert_eq!(fleet.enforced(&origin(0, 1, 1)).by, 1);
    fleet.left(new);
    assert_eq!(fleet.enforced(&origin(0, 1, 1)).of, 0);
}

#[test]
fn another_incarnation_of_an_object_is_another_object() {
    let settings = settings();
    let fleet = Fleet::default();
    let id = join(&fleet, &pod(0));
    let old = snapshot(&settings, &[(0, vec![origin(0, 1, 7)])]);
    target(&fleet, id, &old);
    ack(&fleet, id, &old);
    let new = snapshot(&settings, &[(0, vec![origin(0, 2, 1)])]);
    target(&fleet, id, &new);
    let told = fleet.enforced(&origin(0, 2, 1));
    assert_eq!((told.by, told.of), (0, 1), "what it holds was made from the old one");
    ack(&fleet, id, &new);
    assert_eq!(fleet.enforced(&origin(0, 2, 1)).by, 1);
    assert_eq!(fleet.enforced(&origin(0, 1, 7)).of, 0);
}

#[test]
fn only_what_changed_is_told_as_changed() {
    let settings = settings();
    let fleet = Fleet::default();
    let id = join(&fleet, &pod(0));
    let resources = |generation| -> Vec<(usize, Vec<Origin>)> {
        (0..50).map(|n| (n, vec![origin(n, 0, if n == 7 { generation } else { 1 })])).collect()
    };
    let first = snapshot(&settings, &resources(1));
    target(&fleet, id, &first);
    ack(&fleet, id, &first);
    assert_eq!(fleet.take_changed().len(), 50);
    let second = snapshot(&settings, &resources(2));
    target(&fleet, id, &second);
    let changed: Vec<String> = fleet.take_changed().iter().map(|object| object.name.to_string()).collect();
    assert_eq!(changed, ["7"]);
    fleet.update(id, |record| {
        let offer = Offer::whole(Arc::clone(&second)).version();
        let rejection = Rejection { offer, key: None, origins: [].into(), message: "no".into() };
        record.nacked = Some((rejection, SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
    });
    assert_eq!(fleet.take_changed().len(), 1, "the reason is another one");
    assert_eq!(fleet.enforced(&origin(7, 0, 2)).missing.values().next().unwrap(), "refused: no");
    // It still holds the first generation, and something of the object at all.
    assert_eq!(fleet.programmed(&origin(7, 0, 1)).by, 1);
    assert_eq!(fleet.programmed(&origin(7, 0, 2)).by, 0);
}

#[test]
fn a_gateway_with_a_listener_that_does_not_listen_is_not_programmed() {
    const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: foo}
spec: {gatewayClassName: palisade, listeners: [{name: http, port: 80, protocol: HTTP}]}
";
    let texts = palisade_crds::document::read("in.yaml", GATEWAY.as_bytes());
    let options = SourceOptions { is_files: true, ..SourceOptions::default() };
    let compiled = compile(&Arc::new(Inputs::from_texts(texts, "default", &options)));
    let snapshot = scope(&compiled.mesh, &ProxyRef::gateway("foo", "edge"), &BTreeSet::new()).map(Arc::new).unwrap();
    let listener = snapshot.of_kind(ResourceKind::Listener).next().unwrap();
    let object = listener.meta().origins.first().unwrap().clone();
    let fleet = Fleet::default();
    let id = join(&fleet, &pod(0));
    target(&fleet, id, &snapshot);
    ack(&fleet, id, &snapshot);
    let programmed = fleet.programmed(&object);
    assert_eq!((programmed.by, programmed.of), (1, 1));
    fleet.take_changed();
    let unbound = BTreeMap::from([(Arc::clone(&listener.key().name), "address in use".into())]);
    fleet.update(id, |record| record.unbound = unbound);
    let programmed = fleet.programmed(&object);
    assert_eq!((programmed.by, programmed.of), (0, 1));
    assert!(programmed.missing["foo/0"].ends_with("does not listen: address in use"), "{programmed:?}");
    assert!(!fleet.take_changed().is_empty(), "its status is written anew");
}
