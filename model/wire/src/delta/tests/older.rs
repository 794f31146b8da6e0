//! Proxies of another version than control: what they say is kept as recorded bytes.
//!
//! `fixtures/` holds, in hexadecimal, what a proxy of the protocol's first feature set says and is told, and the hello and ack of
//! one that is newer than this code. They are recorded once (`PALISADE_GOLDEN=write`) and must be understood from then on: a
//! change to the model that changes the hash of what was written before shows here.

use std::{fs, path::PathBuf};

use prost::Message;

use super::*;
use crate::{decode_transaction, encode_transaction};

/// The feature that an older proxy lacks.
const LATER: &str = "later";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.hex"))
}

/// Bytes as they were recorded.
fn recorded(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(path(name)).unwrap();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn record(name: &str, bytes: &[u8]) {
    let lines: Vec<String> =
        bytes.chunks(64).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    fs::write(path(name), lines.join("\n") + "\n").unwrap();
}

fn proxy_message(sequence: u64, kind: v1::proxy_message::Kind) -> v1::ProxyMessage {
    v1::ProxyMessage { sequence, kind: Some(kind) }
}

fn hello(features: &[&str]) -> v1::Hello {
    v1::Hello {
        protocol: 1,
        features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        namespace: "foo".to_owned(),
        name: "a-1".to_owned(),
        build: "palisade-sidecar 0.0.1".to_owned(),
        ..v1::Hello::default()
    }
}

/// A message with a field of a version to come: number 60, the value 1.
fn with_later_field(kind_tag: u8, inner: &[u8], sequence: u64) -> Vec<u8> {
    let mut inner = inner.to_vec();
    inner.extend([0xe0, 0x03, 0x01]);
    let mut message = v1::ProxyMessage { sequence, kind: None }.encode_to_vec();
    message.push(kind_tag << 3 | 2);
    prost::encode_length_delimiter(inner.len(), &mut message).unwrap();
    message.extend(inner);
    message
}

/// What control wants a proxy to hold, where the recorded transaction is all that an older one can take of it.
fn target(transaction: &[u8]) -> Arc<Snapshot> {
    let update = decode_transaction(v1::Transaction::decode(transaction).unwrap(), &BTreeSet::new()).unwrap();
    let older = Offer::updated(None, update).unwrap();
    let new = Arc::new(secret("new", "n", &[LATER]));
    Arc::new(Snapshot::from_entries(older.snapshot().entries().values().cloned().chain([new])).unwrap())
}

/// Records what is not there yet, or everything when asked to.
fn keep_fixtures() {
    if std::env::var_os("PALISADE_GOLDEN").is_none_or(|value| value != "write") {
        return;
    }
    let older = Offer::whole(snapshot_of([secret("plain", "p", &[])]));
    let transaction = encode_transaction(&older.update_from(None)).encode_to_vec();
    let offer = withhold(&target(&transaction), &BTreeSet::new()).unwrap();
    let whole = Offer::whole(target(&transaction));
    let ack = |offer: &Offer| v1::Ack { offer: offer.version().encode(), unbound: Vec::new() };
    record("older-transaction", &transaction);
    record("older-hello", &proxy_message(1, v1::proxy_message::Kind::Hello(hello(&[]))).encode_to_vec());
    record("older-ack", &proxy_message(2, v1::proxy_message::Kind::Ack(ack(&offer))).encode_to_vec());
    let newer = hello(&[LATER, "even-later"]).encode_to_vec();
    record("newer-hello", &with_later_field(2, &newer, 1));
    record("newer-ack", &with_later_field(4, &ack(&whole).encode_to_vec(), 2));
}

/// A server that has got a recorded hello and a target, and what it does.
fn greeted(name: &str, target: &Arc<Snapshot>) -> (Server, Vec<server::Action>) {
    let now = Instant::now();
    let mut server = Server::new(now, Patience::default());
    let hello = v1::ProxyMessage::decode(&*recorded(name)).unwrap();
    let actions = server.message(now, hello);
    assert!(matches!(actions.as_slice(), [server::Action::Greeted(_)]), "{actions:?}");
    let actions = server.target(now, Arc::clone(target));
    (server, actions)
}

/// The update of the chunks that are sent, as a proxy with these features takes it.
fn sent(actions: &[server::Action], features: &BTreeSet<Feature>) -> Update {
    let mut bytes = Vec::new();
    for action in actions {
        let server::Action::Send(v1::ControlMessage { sequence: _, kind: Some(kind) }) = action else { continue };
        let v1::control_message::Kind::Chunk(chunk) = kind else { panic!("{kind:?}") };
        bytes.extend_from_slice(&chunk.data);
    }
    decode_transaction(v1::Transaction::decode(&*bytes).unwrap(), features).unwrap()
}

#[test]
fn an_older_proxy_gets_what_it_got_and_what_it_cannot_understand_is_withheld_by_name() {
    keep_fixtures();
    let transaction = recorded("older-transaction");
    let target = target(&transaction);
    let (mut server, actions) = greeted("older-hello", &target);
    let update = sent(&actions, server.features());
    let before = decode_transaction(v1::Transaction::decode(&*transaction).unwrap(), &BTreeSet::new()).unwrap();
    assert_eq!(update.upserts, before.upserts, "nothing is sent in another form than it was");
    assert_eq!(update.snapshot, before.snapshot);
    let [withheld] = &*update.withheld else { panic!("{:?}", update.withheld) };
    assert_eq!(&*withheld.key.name, "new");
    assert_eq!(withheld.missing, BTreeSet::from([Feature(LATER.into())]));
    assert_eq!(&*withheld.origins[0].name, "new", "status names the document");

    let ack = v1::ProxyMessage::decode(&*recorded("older-ack")).unwrap();
    let actions = server.message(Instant::now(), ack);
    let [server::Action::Acked { offer, unbound }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((offer.version(), unbound.len()), (update.to, 0));
    assert_eq!(offer.withheld(), &update.withheld);
}

#[test]
fn a_newer_proxy_is_served_by_an_older_control_plane() {
    keep_fixtures();
    let target = target(&recorded("older-transaction"));
    let (mut server, actions) = greeted("newer-hello", &target);
    assert!(server.features().contains(&Feature("even-later".into())), "what is not known here may be known to it");
    let update = sent(&actions, server.features());
    assert!(update.withheld.is_empty());
    assert_eq!(update.to, target.version());
    let ack = v1::ProxyMessage::decode(&*recorded("newer-ack")).unwrap();
    let actions = server.message(Instant::now(), ack);
    assert!(matches!(actions.as_slice(), [server::Action::Acked { .. }]), "{actions:?}");
}
