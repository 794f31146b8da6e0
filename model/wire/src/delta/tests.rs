//! Both machines against each other, with time, losses and failures in the test's hand.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_model::{
    hash::ContentHash,
    origin::Origin,
    resource::{Entry, Feature, Meta, Resource, ResourceKey, ResourceKind},
    secret::Secret,
    service::{Lookup, Query},
    snapshot::Snapshot,
    trust::Standing,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    client::{self, Client, Knowledge, Profile},
    server::{self, Patience, Server},
    *,
};
use crate::{arbitrary, field::Wire, proto::v1};

mod older;
mod told;

/// Two machines and the wires between them.
struct Pair {
    now: Instant,
    client: Client,
    server: Option<Server>,
    to_server: VecDeque<v1::ProxyMessage>,
    to_client: VecDeque<v1::ControlMessage>,
    target: Arc<Snapshot>,
    /// What the client was asked to apply and has not decided.
    applying: Option<client::Apply>,
    acked: Vec<ContentHash>,
    nacked: Vec<server::Rejection>,
    /// Listeners that the client cannot bind, and those of which the server knows it.
    binds: Vec<Unbound>,
    unbound: Vec<Unbound>,
    standings: Vec<Standing>,
    in_sync: usize,
    chunks: usize,
    violations: Vec<Violation>,
}

fn profile(features: &[&str]) -> Profile {
    Profile {
        namespace: "foo".into(),
        name: "a-1".into(),
        build: "test".into(),
        features: features.iter().map(|feature| Feature((*feature).into())).collect(),
        short_id: "abcd".into(),
    }
}

fn draw<T>(runner: &mut TestRunner, strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

fn runner(seed: u8) -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

/// A small snapshot: settings and these resources.
fn snapshot_of(entries: impl IntoIterator<Item = Entry>) -> Arc<Snapshot> {
    let base = draw(&mut runner(0), arbitrary::snapshot());
    let settings = base.get(ResourceKind::Settings, "proxy").unwrap();
    let entries = entries.into_iter().map(Arc::new).chain([Arc::clone(settings)]);
    Arc::new(Snapshot::from_entries(entries).unwrap())
}

fn secret(name: &str, content: &str, requires: &[&str]) -> Entry {
    let secret = Secret { key: name.into(), certificate: Some(content.into()), private_key: None, ca: None };
    let origin = Origin {
        group: "".into(),
        kind: "Secret".into(),
        namespace: "foo".into(),
        name: name.into(),
        uid: "".into(),
        generation: 1,
    };
    let requires = requires.iter().map(|feature| Feature((*feature).into())).collect();
    Entry::new(Resource::Secret(secret), Meta { origins: Arc::from([origin]), requires }).unwrap()
}

fn content(snapshot: &Snapshot, name: &str) -> Option<String> {
    match snapshot.get(ResourceKind::Secret, name)?.resource() {
        Resource::Secret(secret) => secret.certificate.as_deref().map(str::to_owned),
        _ => None,
    }
}

impl Pair {
    fn new(target: Arc<Snapshot>, features: &[&str]) -> Self {
        Self {
            now: Instant::now(),
            client: Client::new(profile(features)),
            server: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            target,
            applying: None,
            acked: Vec::new(),
            nacked: Vec::new(),
            binds: Vec::new(),
            unbound: Vec::new(),
            standings: Vec::new(),
            in_sync: 0,
            chunks: 0,
            violations: Vec::new(),
        }
    }

    fn connect(&mut self) {
        self.disconnect();
        self.server = Some(Server::new(self.now, Patience::default()));
        let actions = self.client.connected();
        self.on_client(actions);
    }

    fn disconnect(&mut self) {
        self.server = None;
        self.to_server.clear();
        self.to_client.clear();
        self.client.disconnected();
    }

    fn change(&mut self, target: Arc<Snapshot>) {
        self.target = Arc::clone(&target);
        if let Some(server) = &mut self.server {
            let actions = server.target(self.now, target);
            self.on_server(actions);
        }
    }

    fn on_client(&mut self, actions: Vec<client::Action>) {
        for action in actions {
            match action {
                client::Action::Send(message) => self.to_server.push_back(message),
                client::Action::Apply(apply) => assert!(self.applying.replace(apply).is_none(), "one at a time"),
                client::Action::InSync => self.in_sync += 1,
                client::Action::Surplus(_) => {}
                client::Action::Trust(_) => {
                    let actions = self.client.standing(&Standing::default());
                    self.on_client(actions);
                }
                client::Action::Explain { request, decision } => {
                    let actions = self.client.explained(request, Some(decision.into()));
                    self.on_client(actions);
                }
                client::Action::Reconnect(violation) => {
                    self.violations.push(violation);
                    self.disconnect();
                }
            }
        }
    }

    fn on_server(&mut self, actions: Vec<server::Action>) {
        for action in actions {
            match action {
                server::Action::Send(message) => {
                    let is_chunk = matches!(message.kind, Some(v1::control_message::Kind::Chunk(_)));
                    self.chunks += usize::from(is_chunk);
                    self.to_client.push_back(message);
                }
                server::Action::Greeted(_) | server::Action::Subscribed(_) => {
                    let target = Arc::clone(&self.target);
                    self.change(target);
                }
                server::Action::Acked { offer, unbound } => {
                    self.acked.push(offer.version());
                    self.unbound.extend(unbound);
                }
                server::Action::Nacked(rejection) => self.nacked.push(rejection),
                server::Action::Standing(standing) => self.standings.push(standing),
                server::Action::Surplus(_) | server::Action::Unofferable(_) | server::Action::Explained { .. } => {}
                server::Action::Close(violation) => {
                    self.violations.push(violation);
                    self.disconnect();
                }
            }
        }
    }

    /// Delivers one message, if there is one; whether there was.
    fn deliver(&mut self, is_up: bool) -> bool {
        if is_up {
            let (Some(message), Some(server)) = (self.to_server.pop_front(), &mut self.server) else { return false };
            let actions = server.message(self.now, message);
            self.on_server(actions);
        } else {
            let Some(message) = self.to_client.pop_front() else { return false };
            let actions = self.client.message(self.now, message);
            self.on_client(actions);
        }
        true
    }

    fn apply(&mut self) -> bool {
        let is_some = self.applying.take().is_some();
        let actions = if is_some { self.client.applied(&self.binds) } else { Vec::new() };
        self.on_client(actions);
        is_some
    }

    fn refuse(&mut self, key: &ResourceKey) {
        assert!(self.applying.take().is_some(), "nothing to refuse");
        let actions = self.client.refused(Some(key), "no");
        self.on_client(actions);
    }

    /// Delivers and applies until nothing is left to do.
    fn settle(&mut self) {
        while self.deliver(true) || self.deliver(false) || self.apply() {}
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let actions = self.client.tick(self.now);
        self.on_client(actions);
        let actions = self.server.as_mut().map(|server| server.tick(self.now)).unwrap_or_default();
        self.on_server(actions);
    }

    fn held(&self) -> Option<ContentHash> {
        self.client.snapshot().map(|snapshot| snapshot.version())
    }
}

#[test]
fn the_first_transaction_leads_to_the_target() {
    let mut pair = Pair::new(snapshot_of([secret("s", "1", &[])]), &[]);
    pair.connect();
    pair.settle();
    assert_eq!(pair.held(), Some(pair.target.version()));
    assert_eq!(pair.acked, [pair.target.version()]);
}

#[test]
fn changes_while_one_is_in_flight_are_joined_into_the_next() {
    let mut pair = Pair::new(snapshot_of([secret("s", "0", &[])]), &[]);
    pair.connect();
    pair.deliver(true);
    for n in 1..10 {
        pair.change(snapshot_of([secret("s", &n.to_string(), &[])]));
    }
    pair.settle();
    assert_eq!(content(pair.client.snapshot().unwrap(), "s").as_deref(), Some("9"));
    assert_eq!((pair.acked.len(), pair.chunks), (2, 2), "the first and the newest, none between");
}

#[test]
fn a_reconnect_with_equal_content_sends_nothing() {
    let mut pair = Pair::new(snapshot_of([secret("s", "1", &[])]), &[]);
    pair.connect();
    pair.settle();
    let chunks = pair.chunks;
    pair.connect();
    pair.settle();
    assert_eq!((pair.chunks, pair.in_sync), (chunks, 1));
    assert_eq!(pair.acked.len(), 2, "the new stream knows what is held, too");
    pair.change(snapshot_of([secret("s", "2", &[])]));
    pair.settle();
    assert_eq!(content(pair.client.snapshot().unwrap(), "s").as_deref(), Some("2"));
}

#[test]
fn a_restarted_control_plane_resumes_a_large_proxy_with_a_few_bytes() {
    let content = "x".repeat(10_000);
    let large = || snapshot_of((0..100).map(|n| secret(&format!("s{n}"), &content, &[])));
    let mut pair = Pair::new(large(), &[]);
    pair.connect();
    pair.settle();
    // Another process: it compiles the same documents to the same snapshot and knows nothing of what was sent.
    pair.disconnect();
    pair.target = large();
    pair.connect();
    let mut bytes = 0;
    while pair.deliver(true) || {
        bytes += pair.to_client.iter().map(prost::Message::encoded_len).sum::<usize>();
        pair.deliver(false)
    } {}
    assert_eq!(pair.in_sync, 1);
    assert!(bytes < 100, "{bytes} bytes to say that nothing changed");
}

#[test]
fn a_reconnect_with_other_content_replaces_and_keeps_equal_entries() {
    let mut pair = Pair::new(snapshot_of([secret("s", "1", &[]), secret("t", "1", &[])]), &[]);
    pair.connect();
    pair.settle();
    let kept = Arc::clone(pair.client.snapshot().unwrap().get(ResourceKind::Secret, "t").unwrap());
    pair.disconnect();
    pair.change(snapshot_of([secret("s", "2", &[]), secret("t", "1", &[])]));
    pair.connect();
    while pair.deliver(true) || pair.deliver(false) {}
    let changed = pair.applying.as_ref().unwrap().changed.clone();
    assert_eq!(changed, [ResourceKey::new(ResourceKind::Secret, "s")]);
    pair.settle();
    let now = pair.client.snapshot().unwrap().get(ResourceKind::Secret, "t").unwrap();
    assert!(Arc::ptr_eq(&kept, now), "what is equal is shared");
}

#[test]
fn a_refused_offer_is_not_sent_again_before_something_changes() {
    let key = ResourceKey::new(ResourceKind::Secret, "s");
    let good = snapshot_of([secret("s", "good", &[])]);
    let bad = snapshot_of([secret("s", "bad", &[])]);
    let mut pair = Pair::new(Arc::clone(&good), &[]);
    pair.connect();
    pair.settle();
    pair.change(Arc::clone(&bad));
    while pair.deliver(true) || pair.deliver(false) {}
    pair.refuse(&key);
    pair.settle();
    assert_eq!(pair.held(), Some(good.version()), "it stays on what it had");
    assert_eq!(pair.nacked[0].key.as_ref(), Some(&key));
    assert_eq!(pair.nacked[0].origins[0].to_string(), "Secret foo/s");
    let chunks = pair.chunks;
    pair.change(Arc::clone(&bad));
    pair.settle();
    pair.connect();
    pair.settle();
    assert_eq!(pair.chunks, chunks, "not even on a new stream");
    pair.change(snapshot_of([secret("s", "better", &[])]));
    pair.settle();
    assert_eq!(content(pair.client.snapshot().unwrap(), "s").as_deref(), Some("better"));
}

#[test]
fn what_needs_an_unknown_feature_is_withheld_and_the_rest_moves_on() {
    let mut pair = Pair::new(snapshot_of([secret("s", "old", &[]), secret("t", "1", &[])]), &[]);
    pair.connect();
    pair.settle();
    pair.change(snapshot_of([secret("s", "new", &["future"]), secret("t", "2", &[]), secret("u", "1", &["future"])]));
    pair.settle();
    let held = pair.client.snapshot().unwrap();
    assert_eq!(content(held, "s").as_deref(), Some("old"), "it stays on what it had");
    assert_eq!(content(held, "t").as_deref(), Some("2"));
    assert_eq!(content(held, "u"), None, "it had nothing");
    let withheld = pair.client.offer().unwrap().withheld();
    assert_eq!(withheld.iter().map(|item| &*item.key.name).collect::<Vec<_>>(), ["s", "u"]);
    assert_eq!(withheld[0].missing, BTreeSet::from([Feature("future".into())]));
    // Control restarts: it knows nothing of the old version, the proxy keeps it all the same.
    pair.connect();
    pair.change(snapshot_of([secret("s", "new", &["future"]), secret("t", "3", &[])]));
    pair.settle();
    let held = pair.client.snapshot().unwrap();
    assert_eq!((content(held, "s").as_deref(), content(held, "t").as_deref()), (Some("old"), Some("3")));
    // The object is deleted: so is what was kept of it.
    pair.change(snapshot_of([secret("t", "3", &[])]));
    pair.settle();
    assert_eq!(content(pair.client.snapshot().unwrap(), "s"), None);
}

#[test]
fn a_proxy_with_the_feature_gets_it_all() {
    let mut pair = Pair::new(snapshot_of([secret("s", "new", &["future"])]), &["future"]);
    pair.connect();
    pair.settle();
    assert_eq!(content(pair.client.snapshot().unwrap(), "s").as_deref(), Some("new"));
    assert!(pair.client.offer().unwrap().withheld().is_empty());
}

#[test]
fn a_subscription_is_answered_by_the_next_target() {
    let query = Query::Host("a.example.com".into());
    let mut pair = Pair::new(snapshot_of([]), &[]);
    pair.connect();
    pair.settle();
    assert_eq!(pair.client.knowledge(&query), Knowledge::Unknown);
    let actions = pair.client.subscribe([query.clone()]);
    assert!(pair.client.subscribe([query.clone()]).is_empty(), "asked for once");
    pair.on_client(actions);
    let lookup = Lookup { query: query.clone(), services: Arc::from([]) };
    pair.target = snapshot_of([Entry::new(Resource::Lookup(lookup), Meta::default()).unwrap()]);
    pair.settle();
    assert_eq!(pair.client.knowledge(&query), Knowledge::Absent);
}

#[test]
fn silence_ends_the_stream() {
    let mut pair = Pair::new(snapshot_of([]), &[]);
    pair.connect();
    pair.to_server.clear();
    pair.pass(Patience::default().hello);
    assert_eq!(pair.violations, [Violation::Timeout("a hello")]);
    pair.connect();
    pair.deliver(true);
    pair.pass(Patience::default().ack);
    assert_eq!(pair.violations[1], Violation::Timeout("an ack"));
}

#[test]
fn an_application_that_outlives_its_stream_is_told_by_the_next_hello() {
    let mut pair = Pair::new(snapshot_of([secret("s", "1", &[])]), &[]);
    pair.connect();
    while pair.deliver(true) || pair.deliver(false) {}
    assert!(pair.applying.is_some());
    pair.connect();
    assert!(pair.to_server.is_empty(), "the hello waits");
    pair.settle();
    assert_eq!(pair.acked, [pair.target.version()]);
    assert_eq!((pair.chunks, pair.violations.len()), (1, 0));
}

#[test]
fn another_protocol_version_is_refused() {
    let mut server = Server::new(Instant::now(), Patience::default());
    let hello = v1::Hello { protocol: 2, ..Default::default() };
    let message = v1::ProxyMessage { sequence: 1, kind: Some(v1::proxy_message::Kind::Hello(hello)) };
    assert_eq!(server.message(Instant::now(), message), [server::Action::Close(Violation::Protocol { received: 2 })]);
}

#[test]
fn a_large_transaction_travels_in_pieces() {
    let large = "x".repeat(3 * CHUNK_BYTES);
    let mut pair = Pair::new(snapshot_of([secret("s", &large, &[])]), &[]);
    pair.connect();
    pair.settle();
    assert_eq!(pair.held(), Some(pair.target.version()));
    assert_eq!(pair.chunks, 4);
}

/// Random snapshots, losses, repetitions, reorderings, reconnects, refusals and waits. Whatever happens, the proxy holds a
/// version that control had, and in quiet it comes to the newest.
#[test]
fn in_disorder_the_proxy_holds_some_version_of_control_and_in_quiet_the_newest() {
    for seed in 0..24 {
        let mut runner = runner(seed);
        let mut versions: BTreeMap<ContentHash, Arc<Snapshot>> = BTreeMap::new();
        let everything = ["x", "y"];
        let pool: Vec<Arc<Snapshot>> = (0..4).map(|_| draw(&mut runner, arbitrary::snapshot())).collect();
        let mut pair = Pair::new(Arc::clone(&pool[0]), &everything);
        versions.insert(pool[0].version(), Arc::clone(&pool[0]));
        for _ in 0..200 {
            let (step, pick) = draw(&mut runner, (0..16u8, 0..4usize));
            match step {
                0 => pair.connect(),
                1 => pair.disconnect(),
                2 | 3 => {
                    versions.insert(pool[pick].version(), Arc::clone(&pool[pick]));
                    pair.change(Arc::clone(&pool[pick]));
                }
                4 => drop(pair.to_client.pop_front()),
                5 => drop(pair.to_server.pop_front()),
                6 => pair.to_client.make_contiguous().reverse(),
                7 => {
                    if let Some(message) = pair.to_client.front().cloned() {
                        pair.to_client.push_front(message);
                    }
                }
                8 if pair.applying.is_some() => {
                    pair.refuse(&ResourceKey::new(ResourceKind::Settings, "proxy"));
                }
                9 => pair.pass(Duration::from_secs(20)),
                10 | 11 => drop(pair.apply()),
                12 | 13 => drop(pair.deliver(true)),
                _ => drop(pair.deliver(false)),
            }
            if let Some(held) = pair.held() {
                assert!(versions.contains_key(&held), "seed {seed}");
            }
        }
        // What was refused last stays refused, so quiet begins with something new.
        let newest = draw(&mut runner, arbitrary::snapshot());
        pair.apply();
        pair.change(Arc::clone(&newest));
        pair.connect();
        pair.settle();
        assert_eq!(pair.held(), Some(newest.version()), "seed {seed}: {:?}", pair.violations.last());
    }
}
