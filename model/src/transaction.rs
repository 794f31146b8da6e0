//! Transactions: the difference between two snapshots, applied whole or not at all.

use std::sync::Arc;

use crate::{
    hash::ContentHash,
    resource::{Entries, Entry, ResourceKey},
    snapshot::{InvalidSnapshot, Snapshot},
};

/// Upserts and removals that lead from version `from` to version `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Version that it starts from; `None` = from nothing.
    pub from: Option<ContentHash>,
    /// Version that it leads to.
    pub to: ContentHash,
    /// Resources that are new or different, in key order.
    pub upserts: Vec<Arc<Entry>>,
    /// Resources that go, in key order.
    pub removals: Vec<ResourceKey>,
}

/// Why a transaction cannot be applied. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It starts from another version.
    #[error("the transaction starts from version {expected:?}, the proxy holds {held:?}")]
    WrongBase {
        /// What the transaction starts from.
        expected: Option<ContentHash>,
        /// What is held.
        held: Option<ContentHash>,
    },
    /// It removes what is not there.
    #[error("the transaction removes {0}, which is not held")]
    UnknownRemoval(ResourceKey),
    /// It leads to another version than it says: something was lost or damaged on the way.
    #[error("the transaction says it leads to {announced}, it leads to {computed}")]
    WrongVersion {
        /// What it says.
        announced: ContentHash,
        /// What came out.
        computed: ContentHash,
    },
    /// What it leads to is not a snapshot.
    #[error(transparent)]
    Invalid(#[from] InvalidSnapshot),
}

/// The transaction from `from` (or from nothing) to `to`.
pub fn diff(from: Option<&Snapshot>, to: &Snapshot) -> Transaction {
    let empty = Entries::new();
    let old = from.map_or(&empty, Snapshot::entries);
    let upserts = to
        .entries()
        .iter()
        .filter(|(key, entry)| old.get(*key).is_none_or(|held| held.hash() != entry.hash()))
        .map(|(_, entry)| Arc::clone(entry))
        .collect();
    let removals = old.keys().filter(|key| !to.entries().contains_key(*key)).cloned().collect();
    Transaction { from: from.map(Snapshot::version), to: to.version(), upserts, removals }
}

/// The snapshot that a transaction leads to. `held` is not changed.
///
/// # Errors
/// When the transaction does not start from `held`, removes what is not there, or does not lead to a closed snapshot of
/// the announced version.
pub fn apply(held: Option<&Snapshot>, transaction: &Transaction) -> Result<Snapshot, ApplyError> {
    let version = held.map(Snapshot::version);
    if transaction.from != version {
        return Err(ApplyError::WrongBase { expected: transaction.from, held: version });
    }
    let mut entries = held.map(|snapshot| snapshot.entries().clone()).unwrap_or_default();
    for key in &transaction.removals {
        if entries.remove(key).is_none() {
            return Err(ApplyError::UnknownRemoval(key.clone()));
        }
    }
    for entry in &transaction.upserts {
        entries.insert(entry.key().clone(), Arc::clone(entry));
    }
    let snapshot = Snapshot::new(entries)?;
    if snapshot.version() != transaction.to {
        return Err(ApplyError::WrongVersion { announced: transaction.to, computed: snapshot.version() });
    }
    Ok(snapshot)
}
