//! Fuzz target: bytes from the network and from the disk as every message that is read. Nothing panics, and what is accepted says one thing.
//!
//! The first byte of an input picks the message. The corpus, `fuzz/wire_decoding`, is written by `PALISADE_GOLDEN=write`.

use std::{fs, path::Path, time::Instant};

use palisade_model::service::Query;
use proptest::{strategy::ValueTree, test_runner::TestRunner};

use super::{
    inputs::{self, Inputs, run},
    *,
};
use crate::{
    delta::{
        Client, Server,
        client::{self, Profile},
        server::{self, Patience},
    },
    field::Wire,
    saved::{Saved, decode_saved, encode_saved},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The messages, in the order of the first byte.
const MESSAGES: [fn(&[u8]) -> bool; 8] =
    [transaction, entry, resource, query, saved, to_a_proxy, to_the_control_plane, damaged_by_one_who_can_hash];

fn read(bytes: &[u8]) -> bool {
    let Some((kind, bytes)) = bytes.split_first() else { return false };
    MESSAGES[usize::from(*kind) % MESSAGES.len()](bytes)
}

fn transaction(bytes: &[u8]) -> bool {
    let Ok(message) = v1::Transaction::decode(bytes) else { return false };
    let Ok(update) = decode_transaction(message, &everything()) else { return false };
    assert_eq!(decode_transaction(encode_transaction(&update), &everything()).as_ref(), Ok(&update));
    let version = update.snapshot;
    if let Ok(offer) = Offer::updated(None, update) {
        assert_eq!(offer.snapshot().version(), version, "the hash vouches for the whole");
    }
    true
}

fn entry(bytes: &[u8]) -> bool {
    let Ok(message) = v1::Entry::decode(bytes) else { return false };
    let Ok(entry) = decode_entry(message, &everything()) else { return false };
    assert_eq!(decode_entry(encode_entry(&entry), &everything()).as_ref(), Ok(&entry));
    true
}

/// The content by itself, so that no hash stands before the fields.
fn resource(bytes: &[u8]) -> bool {
    let Ok(message) = v1::Resource::decode(bytes) else { return false };
    let Ok(resource) = <Resource as Wire>::decode(message) else { return false };
    assert_eq!(<Resource as Wire>::decode(resource.encode()).as_ref(), Ok(&resource));
    true
}

fn query(bytes: &[u8]) -> bool {
    let Ok(message) = v1::Query::decode(bytes) else { return false };
    let Ok(query) = decode_query(message) else { return false };
    assert_eq!(decode_query(encode_query(&query)), Ok(query));
    true
}

fn saved(bytes: &[u8]) -> bool {
    let Ok(saved) = decode_saved(bytes, &everything()) else { return false };
    assert_eq!(decode_saved(&encode_saved(&saved), &everything()).as_ref(), Ok(&saved));
    true
}

/// A proxy that asked for something reads whatever comes; what it was never sent it never applies.
fn to_a_proxy(bytes: &[u8]) -> bool {
    let Ok(message) = v1::ControlMessage::decode(bytes) else { return false };
    let mut client = client();
    drop(client.connected());
    let now = Instant::now();
    drop(client.message(now, message.clone()));
    drop(client.message(now, message));
    drop(client.applied(&[]));
    true
}

fn to_the_control_plane(bytes: &[u8]) -> bool {
    let Ok(message) = v1::ProxyMessage::decode(bytes) else { return false };
    let now = Instant::now();
    let mut server = Server::new(now, Patience::default());
    drop(server.message(now, message.clone()));
    drop(server.message(now, message));
    drop(server.tick(now));
    true
}

/// An entry whose content was changed by somebody who made the hash anew is what its own fields say, or refused.
fn damaged_by_one_who_can_hash(bytes: &[u8]) -> bool {
    let Ok(mut message) = v1::Entry::decode(bytes) else { return false };
    let Ok(content) = v1::Resource::decode(message.resource.clone()) else { return false };
    let Ok(resource) = <Resource as Wire>::decode(content) else { return false };
    let Some(Ok(meta)) = message.meta.clone().map(<Meta as Wire>::decode) else { return false };
    let Ok(made) = Entry::new(resource, meta) else { return false };
    message.hash = bytes::Bytes::copy_from_slice(made.hash().as_bytes());
    match decode_entry(message, &everything()) {
        Ok(entry) => assert_eq!(entry, made),
        Err(InvalidEntry::OtherKey { .. } | InvalidEntry::UnknownFeature { .. } | InvalidEntry::Key(_)) => {
            return false;
        }
        Err(error) => panic!("{error}"),
    }
    true
}

#[test]
fn wire_decoding() {
    run(Inputs { root: ROOT, name: "wire_decoding", few: 4_000, longest: 64 * 1024, ..Inputs::default() }, |bytes| {
        read(bytes);
    });
}

/// What is accepted today of each message, so that the corpus tests more than refusals.
#[test]
fn the_corpus_is_accepted() {
    let folder = Path::new(ROOT).join("fuzz/wire_decoding");
    if std::env::var("PALISADE_GOLDEN").as_deref() == Ok("write") {
        write(&folder);
    }
    let mut accepted = [0; MESSAGES.len()];
    for input in inputs::corpus(&folder) {
        accepted[usize::from(input[0]) % MESSAGES.len()] += u32::from(read(&input));
    }
    assert!(accepted.iter().all(|count| *count > 0), "of each message one at least is read: {accepted:?}");
}

fn write(folder: &Path) {
    let mut runner = TestRunner::deterministic();
    let put = |kind: u8, name: &str, bytes: Vec<u8>| {
        fs::write(folder.join(name), [vec![kind], bytes].concat()).unwrap();
    };
    for number in 0..3 {
        let snapshot = loop {
            let snapshot = arbitrary::snapshot().new_tree(&mut runner).unwrap().current();
            if snapshot.entries().len() > 2 {
                break snapshot;
            }
        };
        let offer = offered(&snapshot);
        let transaction = encode_transaction(&offer.update_from(None));
        put(0, &format!("transaction-{number}"), transaction.encode_to_vec());
        for (place, message) in told(&snapshot).into_iter().enumerate() {
            put(5, &format!("to-a-proxy-{number}-{place}"), message.encode_to_vec());
        }
        let saved = Saved {
            namespace: "foo".into(),
            name: "a".into(),
            subscriptions: BTreeSet::from([Query::Host("a.example".into())]),
            held: Some((offer, Arc::clone(&snapshot))),
        };
        put(4, &format!("saved-{number}"), encode_saved(&saved));
    }
    // One of each kind of resource.
    let mut kinds = BTreeSet::new();
    while kinds.len() < 16 {
        let entry = arbitrary::entry().new_tree(&mut runner).unwrap().current();
        let kind = entry.key().kind;
        if kinds.insert(kind) {
            let name = format!("{kind:?}").to_lowercase();
            let message = encode_entry(&entry);
            put(2, &format!("resource-{name}"), message.resource.to_vec());
            if kinds.len() % 4 == 1 {
                put(1, &format!("entry-{name}"), message.encode_to_vec());
                put(7, &format!("hashed-{name}"), message.encode_to_vec());
            }
        }
    }
    let query = Query::Host("a.example".into());
    put(3, "query-host", encode_query(&query).encode_to_vec());
    for (place, message) in greeting().into_iter().enumerate() {
        put(6, &format!("to-the-control-plane-{place}"), message.encode_to_vec());
    }
}

/// A proxy that asks for one host.
fn client() -> Client {
    let mut client = Client::new(Profile {
        namespace: "foo".into(),
        name: "a".into(),
        build: "test".into(),
        features: everything(),
        short_id: "a".into(),
    });
    drop(client.subscribe([Query::Host("a.example".into())]));
    client
}

fn greeting() -> Vec<v1::ProxyMessage> {
    let sent = client().connected().into_iter().map(|action| match action {
        client::Action::Send(message) => message,
        other => panic!("{other:?}"),
    });
    sent.collect()
}

/// What the control plane tells a proxy that greets it.
fn told(snapshot: &Arc<palisade_model::snapshot::Snapshot>) -> Vec<v1::ControlMessage> {
    let now = Instant::now();
    let mut server = Server::new(now, Patience::default());
    let mut actions = server.target(now, Arc::clone(snapshot));
    actions.extend(greeting().into_iter().flat_map(|message| server.message(now, message)));
    actions.extend(server.target(now, Arc::clone(snapshot)));
    let sent = actions.into_iter().filter_map(|action| match action {
        server::Action::Send(message) => Some(message),
        _ => None,
    });
    sent.collect()
}
