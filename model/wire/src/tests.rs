//! Random resources survive the wire; damaged ones are refused by name and never panic.

mod fuzz;
#[path = "../../../policy/src/tests/inputs.rs"]
mod inputs;

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::{
    resource::{Entry, Feature, Meta, Resource, ResourceKind},
    secret::Secret,
    settings::ProxySettings,
    transaction::{apply, diff},
};
use proptest::prelude::*;
use prost::Message;

use crate::{
    InvalidEntry, InvalidTransaction, arbitrary, decode_entry, decode_query, decode_transaction,
    delta::{Offer, retain, withhold},
    encode_entry, encode_query, encode_transaction,
    proto::v1,
};

fn everything() -> BTreeSet<Feature> {
    ["x", "y"].map(|feature| Feature(feature.into())).into()
}

fn offered(snapshot: &Arc<palisade_model::snapshot::Snapshot>) -> Offer {
    Offer::whole(Arc::clone(snapshot))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_entry_comes_back_as_it_went(entry in arbitrary::entry()) {
        let bytes = encode_entry(&entry).encode_to_vec();
        let back = decode_entry(v1::Entry::decode(&*bytes).unwrap(), &everything()).unwrap();
        prop_assert_eq!(&back, &*entry);
        prop_assert_eq!(back.hash(), entry.hash());
        if let Resource::Settings(settings) = entry.resource() {
            let settings = ProxySettings { egress_policies: Some("egress/a/b".into()), ..settings.clone() };
            let entry = Entry::new(Resource::Settings(settings), entry.meta().clone()).unwrap();
            let back = decode_entry(encode_entry(&entry), &everything()).unwrap();
            prop_assert_eq!(&back, &entry);
        }
    }

    #[test]
    fn a_query_comes_back_as_it_went(query in arbitrary::query()) {
        prop_assert_eq!(decode_query(encode_query(&query)), Ok(query));
    }

    #[test]
    fn a_difference_leads_to_the_other_snapshot(a in arbitrary::snapshot(), b in arbitrary::snapshot()) {
        prop_assert_eq!(apply(Some(&a), &diff(Some(&a), &b)).unwrap(), (*b).clone());
        prop_assert_eq!(apply(None, &diff(None, &b)).unwrap(), (*b).clone());
    }

    #[test]
    fn a_transaction_comes_back_as_it_went(a in arbitrary::snapshot(), b in arbitrary::snapshot()) {
        let update = offered(&b).update_from(Some(&offered(&a)));
        let bytes = encode_transaction(&update).encode_to_vec();
        let back = decode_transaction(v1::Transaction::decode(&*bytes).unwrap(), &everything()).unwrap();
        prop_assert_eq!(&back, &update);
        prop_assert_eq!(Offer::updated(Some(&offered(&a)), back).unwrap(), offered(&b));
    }

    #[test]
    fn damaged_bytes_never_panic_and_never_pass_as_the_original(
        a in arbitrary::snapshot(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode_transaction(&offered(&a).update_from(None)).encode_to_vec();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            let update = v1::Transaction::decode(bytes).ok().and_then(|m| decode_transaction(m, &everything()).ok());
            if let Some(Ok(offer)) = update.map(|update| Offer::updated(None, update)) {
                prop_assert_eq!(offer, offered(&a), "hashes vouch for whatever is accepted");
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = v1::Transaction::decode(&*bytes).map(|message| decode_transaction(message, &everything()));
        let _ = v1::Entry::decode(&*bytes).map(|message| decode_entry(message, &everything()));
    }

    #[test]
    fn what_is_withheld_leaves_a_snapshot_without_unknown_features(target in arbitrary::snapshot()) {
        let features = BTreeSet::from([Feature("x".into())]);
        let offer = withhold(&target, &features).unwrap();
        for entry in offer.snapshot().entries().values() {
            prop_assert!(entry.meta().requires.is_subset(&features));
            prop_assert_eq!(target.entries().get(entry.key()).map(|e| e.hash()), Some(entry.hash()));
        }
        prop_assert_eq!(offer.snapshot().entries().len() + offer.withheld().len(), target.entries().len());
    }

    #[test]
    fn what_was_held_stays_for_what_is_withheld(held in arbitrary::snapshot(), target in arbitrary::snapshot()) {
        let offer = withhold(&target, &BTreeSet::new()).unwrap();
        let kept = retain(Some(&held), &offer).unwrap();
        for item in offer.withheld().iter() {
            let hash = |snapshot: &palisade_model::snapshot::Snapshot| snapshot.entries().get(&item.key).map(|e| e.hash());
            prop_assert_eq!(hash(&kept), hash(&held), "{}", &item.key);
        }
        for entry in kept.entries().values() {
            let is_of = |snapshot: &palisade_model::snapshot::Snapshot| {
                snapshot.entries().get(entry.key()).is_some_and(|e| e.hash() == entry.hash())
            };
            prop_assert!(is_of(&held) || is_of(offer.snapshot()));
        }
        prop_assert_eq!(retain(Some(&kept), &offer).unwrap(), kept, "keeping twice changes nothing");
    }
}

fn secret(name: &str, requires: &[&str]) -> Entry {
    let secret = Secret { key: name.into(), certificate: None, private_key: None, ca: None };
    let requires = requires.iter().map(|feature| Feature((*feature).into())).collect();
    Entry::new(Resource::Secret(secret), Meta { origins: Arc::from([]), requires }).unwrap()
}

#[test]
fn an_unknown_required_feature_is_refused_by_name_before_the_content_is_read() {
    let mut message = encode_entry(&secret("s", &["future"]));
    message.resource = bytes::Bytes::from_static(b"\xff\xff from the future");
    let error = decode_entry(message, &everything()).unwrap_err();
    assert_eq!(error.to_string(), "secret `s` needs the feature `future`, which is not understood here");
}

#[test]
fn an_unknown_kind_of_resource_is_refused() {
    let mut message = encode_entry(&secret("s", &[]));
    message.key.as_mut().unwrap().kind = 99;
    let error = decode_entry(message, &everything()).unwrap_err();
    assert_eq!(error.to_string(), "a resource without a readable key: field `key.kind`: has the unknown value 99");
}

#[test]
fn content_of_another_key_is_refused() {
    let mut message = encode_entry(&secret("s", &[]));
    message.key.as_mut().unwrap().name = "t".into();
    assert!(matches!(decode_entry(message, &everything()), Err(InvalidEntry::OtherKey { .. })));
}

#[test]
fn content_of_another_hash_is_refused() {
    let mut message = encode_entry(&secret("s", &[]));
    message.hash = bytes::Bytes::from(vec![0; 32]);
    assert!(matches!(decode_entry(message, &everything()), Err(InvalidEntry::Hash { .. })));
}

#[test]
fn a_repeated_resource_is_refused() {
    let message = encode_entry(&secret("s", &[]));
    let transaction = v1::Transaction { upserts: vec![message.clone(), message], ..Default::default() };
    let Err(InvalidTransaction::Repeated(key)) = decode_transaction(transaction, &everything()) else {
        panic!("accepted")
    };
    assert_eq!((key.kind, &*key.name), (ResourceKind::Secret, "s"));
}

#[test]
fn no_debug_form_shows_a_key() {
    let secret = Secret {
        key: "s".into(),
        certificate: None,
        private_key: Some(palisade_model::secret::PrivateKey::new("TOP SECRET")),
        ca: None,
    };
    let entry = Entry::new(Resource::Secret(secret), Meta::default()).unwrap();
    let message = encode_entry(&entry);
    let opened = v1::Resource::decode(message.resource.clone()).unwrap();
    assert!(!format!("{message:?}{opened:?}").contains("TOP"));
}
