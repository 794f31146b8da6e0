//! Mirrors `palisade_model::transaction`: how one offer becomes the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use palisade_model::{
    hash::ContentHash,
    resource::{Entry, Feature, ResourceKey},
};

use crate::{
    delta::offer::{Update, Withheld},
    entry::{InvalidEntry, decode_entry, encode_entry},
    field::{InvalidField, Problem, Wire, items, mapping, wire_struct},
    proto::v1,
    shared::sharing,
};

wire_struct!(Withheld => v1::WithheldResource { key: required, origins: list, missing: set, table: optional });

/// Why a transaction is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransaction {
    /// One of its resources.
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    /// One of its own fields.
    #[error("transaction: {0}")]
    Field(#[from] InvalidField),
    /// It says two things about one resource.
    #[error("the transaction names {0} twice")]
    Repeated(ResourceKey),
}

impl InvalidTransaction {
    /// The resource at fault, when it is known.
    pub fn key(&self) -> Option<&ResourceKey> {
        match self {
            Self::Entry(error) => error.key(),
            Self::Repeated(key) => Some(key),
            Self::Field(_) => None,
        }
    }
}

impl Wire for ContentHash {
    type Message = Bytes;

    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn decode(bytes: Bytes) -> Result<Self, InvalidField> {
        Self::try_from(bytes.as_ref()).map_err(InvalidField::malformed)
    }
}

/// An update as it travels.
pub fn encode_transaction(update: &Update) -> v1::Transaction {
    let Update { from, to, snapshot, upserts, removals, withheld } = update;
    v1::Transaction {
        from_offer: mapping::optional().0(from),
        to_offer: to.encode(),
        to_version: snapshot.encode(),
        upserts: upserts.iter().map(|entry| encode_entry(entry)).collect(),
        removals: removals.iter().map(Wire::encode).collect(),
        withheld: mapping::list().0(withheld),
    }
}

/// An update from its message, for a reader that understands `features`.
///
/// # Errors
/// When a resource or field is refused, or a resource is named twice.
pub fn decode_transaction(
    message: v1::Transaction,
    features: &BTreeSet<Feature>,
) -> Result<Update, InvalidTransaction> {
    sharing(|| decode(message, features))
}

fn decode(message: v1::Transaction, features: &BTreeSet<Feature>) -> Result<Update, InvalidTransaction> {
    let v1::Transaction { from_offer, to_offer, to_version, upserts, removals, withheld } = message;
    let inside = |field: &'static str| move |error: InvalidField| error.inside(field);
    let mut entries: BTreeMap<ResourceKey, Arc<Entry>> = BTreeMap::new();
    for upsert in upserts {
        let entry = Arc::new(decode_entry(upsert, features)?);
        if let Some(first) = entries.insert(entry.key().clone(), entry) {
            return Err(InvalidTransaction::Repeated(first.key().clone()));
        }
    }
    let removals: Vec<ResourceKey> = items(removals).map_err(inside("removals"))?;
    let mut removed = BTreeSet::new();
    for key in &removals {
        if entries.contains_key(key) || !removed.insert(key) {
            return Err(InvalidTransaction::Repeated(key.clone()));
        }
    }
    let withheld: Arc<[Withheld]> = mapping::list().1(withheld).map_err(inside("withheld"))?;
    if let Some((first, _)) =
        withheld.iter().zip(withheld.iter().skip(1)).find(|(first, second)| first.key >= second.key)
    {
        return Err(InvalidTransaction::Repeated(first.key.clone()));
    }
    if withheld.iter().any(|item| item.key.name.is_empty()) {
        return Err(InvalidField::new(Problem::Missing).inside("withheld.key.name").into());
    }
    Ok(Update {
        from: mapping::optional().1(from_offer).map_err(inside("from_offer"))?,
        to: Wire::decode(to_offer).map_err(inside("to_offer"))?,
        snapshot: Wire::decode(to_version).map_err(inside("to_version"))?,
        upserts: entries.into_values().collect(),
        removals,
        withheld,
    })
}
