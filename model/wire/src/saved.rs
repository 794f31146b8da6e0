//! What a proxy keeps across its own restarts, as bytes: its subscriptions and the configuration in force.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use palisade_model::{
    hash::{ContentHash, HashError},
    resource::{Entry, Feature, ResourceKey},
    service::Query,
    snapshot::{InvalidSnapshot, Snapshot},
    transaction::diff,
};
use prost::Message;

use crate::{
    delta::{InvalidOffer, MAX_SUBSCRIPTIONS, Offer},
    entry::{InvalidEntry, decode_entry, encode_entry},
    field::{InvalidField, Wire, items},
    proto::v1,
    service::decode_query,
    transaction::{InvalidTransaction, decode_transaction, encode_transaction},
};

/// What a proxy knows and wants to know again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// What it is subscribed to.
    pub subscriptions: BTreeSet<Query>,
    /// The offer that it holds, and the snapshot in force that came of it.
    pub held: Option<(Offer, Arc<Snapshot>)>,
}

/// Why bytes are not a saved configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSaved {
    /// Not the message.
    #[error("not a saved configuration: {0}")]
    Encoding(String),
    /// A field of it.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// The offer's transaction.
    #[error(transparent)]
    Transaction(#[from] InvalidTransaction),
    /// The offer.
    #[error(transparent)]
    Offer(#[from] InvalidOffer),
    /// A resource that was kept.
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    /// What comes out is not a snapshot.
    #[error(transparent)]
    Snapshot(#[from] InvalidSnapshot),
    /// A resource that was kept cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// What comes out is not what was in force.
    #[error("it leads to {computed}, in force was {announced}")]
    WrongVersion {
        /// What was in force.
        announced: ContentHash,
        /// What came out.
        computed: ContentHash,
    },
}

/// Bytes of a saved configuration. They hold whatever the snapshot holds, private keys included.
pub fn encode_saved(saved: &Saved) -> Vec<u8> {
    let Saved { namespace, name, subscriptions, held } = saved;
    let (offer, kept, left_out, in_force) = match held {
        None => (None, Vec::new(), Vec::new(), Bytes::new()),
        Some((offer, snapshot)) => {
            let difference = diff(Some(offer.snapshot()), snapshot);
            (
                Some(encode_transaction(&offer.update_from(None))),
                difference.upserts.iter().map(|entry| encode_entry(entry)).collect(),
                difference.removals.iter().map(Wire::encode).collect(),
                snapshot.version().encode(),
            )
        }
    };
    let message = v1::SavedConfiguration {
        namespace: namespace.encode(),
        name: name.encode(),
        subscriptions: subscriptions.iter().map(Wire::encode).collect(),
        offer,
        kept,
        in_force,
        left_out,
    };
    message.encode_to_vec()
}

/// A saved configuration from its bytes, for a proxy that understands `features`.
///
/// # Errors
/// When the bytes are anything else, damaged, or need a feature that is not understood.
pub fn decode_saved(bytes: &[u8], features: &BTreeSet<Feature>) -> Result<Saved, InvalidSaved> {
    let message = v1::SavedConfiguration::decode(bytes).map_err(|error| InvalidSaved::Encoding(error.to_string()))?;
    let v1::SavedConfiguration { namespace, name, subscriptions, offer, kept, in_force, left_out } = message;
    // Whatever is too much is asked for again when it is needed.
    let subscriptions =
        subscriptions.into_iter().take(MAX_SUBSCRIPTIONS).map(decode_query).collect::<Result<_, _>>()?;
    let held = match offer {
        None => None,
        Some(offer) => {
            let offer = Offer::updated(None, decode_transaction(offer, features)?)?;
            let kept = kept.into_iter().map(|entry| decode_entry(entry, features)).collect::<Result<Vec<_>, _>>()?;
            let left_out: Vec<ResourceKey> = items(left_out).map_err(|error| error.inside("left_out"))?;
            let announced = ContentHash::decode(in_force).map_err(|error| error.inside("in_force"))?;
            let snapshot = in_force_of(&offer, kept, &left_out, announced)?;
            Some((offer, snapshot))
        }
    };
    Ok(Saved { namespace: namespace.into(), name: name.into(), subscriptions, held })
}

fn in_force_of(
    offer: &Offer,
    kept: Vec<Entry>,
    left_out: &[ResourceKey],
    announced: ContentHash,
) -> Result<Arc<Snapshot>, InvalidSaved> {
    if offer.snapshot().version() == announced {
        return Ok(Arc::clone(offer.snapshot()));
    }
    let mut entries = offer.snapshot().entries().clone();
    entries.retain(|key, _| !left_out.contains(key));
    entries.extend(kept.into_iter().map(|entry| (entry.key().clone(), Arc::new(entry))));
    let snapshot = Snapshot::new(entries)?;
    if snapshot.version() != announced {
        return Err(InvalidSaved::WrongVersion { announced, computed: snapshot.version() });
    }
    Ok(Arc::new(snapshot))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        arbitrary,
        delta::{retain, withhold},
    };

    fn features(names: &[&str]) -> BTreeSet<Feature> {
        names.iter().map(|name| Feature((*name).into())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_saved_is_known_again(
            before in arbitrary::snapshot(),
            after in arbitrary::snapshot(),
            queries in proptest::collection::btree_set(arbitrary::query(), 0..4),
        ) {
            let understood = features(&["x"]);
            let first = withhold(&before, &understood);
            prop_assume!(first.is_ok());
            let offer = withhold(&after, &understood);
            prop_assume!(offer.is_ok());
            let (first, offer) = (first.unwrap(), offer.unwrap());
            let snapshot = retain(Some(first.snapshot()), &offer);
            prop_assume!(snapshot.is_ok());
            let saved = Saved {
                namespace: "foo".into(),
                name: "a".into(),
                subscriptions: queries.into_iter().filter(|q| decode_query(q.encode()).is_ok()).collect(),
                held: Some((offer, snapshot.unwrap())),
            };
            prop_assert_eq!(decode_saved(&encode_saved(&saved), &understood), Ok(saved));
        }

        #[test]
        fn other_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(decode_saved(&bytes, &features(&[])));
        }
    }

    #[test]
    fn of_too_many_subscriptions_those_are_taken_that_may_be() {
        let hosts = (0..MAX_SUBSCRIPTIONS + 5).map(|number| Query::Host(format!("h{number}.example").into()));
        let saved = Saved { namespace: "foo".into(), name: "a".into(), subscriptions: hosts.collect(), held: None };
        let read = decode_saved(&encode_saved(&saved), &features(&[])).unwrap();
        assert_eq!(read.subscriptions.len(), MAX_SUBSCRIPTIONS);
        assert!(read.subscriptions.is_subset(&saved.subscriptions));
    }
}
