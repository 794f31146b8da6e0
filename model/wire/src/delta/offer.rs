//! Offers: a snapshot as one proxy may have it, with the list of what is withheld from it.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::{
    hash::{ContentHash, HashError},
    origin::Origin,
    resource::{Entry, Feature, ResourceKey},
    snapshot::Snapshot,
    transaction::{ApplyError, Transaction, apply, diff},
};
use serde::Serialize;

/// What control offers one proxy. Its version stands for both parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    snapshot: Arc<Snapshot>,
    withheld: Arc<[Withheld]>,
    version: ContentHash,
}

/// A resource that the proxy would need, and is not sent: the proxy stays on what it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// The resource.
    pub key: ResourceKey,
    /// The user's objects that it was made from.
    pub origins: Arc<[Origin]>,
    /// Features that the proxy lacks; empty: it is withheld because it belongs with one that is.
    pub missing: BTreeSet<Feature>,
    /// The route table, for a virtual host. All hosts of a table stay or move together.
    pub table: Option<Arc<str>>,
}

/// The difference between two offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Offer that it starts from; `None` = it replaces whatever is held.
    pub from: Option<ContentHash>,
    /// Offer that it leads to.
    pub to: ContentHash,
    /// Version of the snapshot that it leads to.
    pub snapshot: ContentHash,
    /// Resources that are new or different, in key order.
    pub upserts: Vec<Arc<Entry>>,
    /// Resources that go, in key order.
    pub removals: Vec<ResourceKey>,
    /// Everything that is withheld, in key order.
    pub withheld: Arc<[Withheld]>,
}

/// Why an update does not lead to an offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOffer {
    /// The snapshot part.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// It leads to another offer than it says.
    #[error("the transaction says it leads to offer {announced}, it leads to {computed}")]
    WrongVersion {
        /// What it says.
        announced: ContentHash,
        /// What came out.
        computed: ContentHash,
    },
    /// The list of withheld resources cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

impl Offer {
    /// A snapshot with nothing withheld; its version is the snapshot's own.
    pub fn whole(snapshot: Arc<Snapshot>) -> Self {
        let version = snapshot.version();
        Self { snapshot, withheld: Arc::from([]), version }
    }

    /// A snapshot from which these resources were left out; they must be in key order.
    ///
    /// # Errors
    /// Never for the model's own types.
    pub fn partial(snapshot: Arc<Snapshot>, withheld: Arc<[Withheld]>) -> Result<Self, HashError> {
        if withheld.is_empty() {
            return Ok(Self::whole(snapshot));
        }
        let version = ContentHash::of(&(snapshot.version(), &withheld))?;
        Ok(Self { snapshot, withheld, version })
    }

    /// Equal exactly when snapshot and withheld resources are.
    pub fn version(&self) -> ContentHash {
        self.version
    }

    /// The snapshot as sent.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What was left out, in key order.
    pub fn withheld(&self) -> &Arc<[Withheld]> {
        &self.withheld
    }

    /// The update that leads from `from` (or from anything at all) to `self`.
    pub fn update_from(&self, from: Option<&Self>) -> Update {
        let Transaction { from: _, to, upserts, removals } = diff(from.map(|offer| &*offer.snapshot), &self.snapshot);
        Update {
            from: from.map(Self::version),
            to: self.version,
            snapshot: to,
            upserts,
            removals,
            withheld: Arc::clone(&self.withheld),
        }
    }

    /// The offer that an update leads to. An update from nothing replaces `held`; what is equal in both is shared.
    ///
    /// # Errors
    /// When the update does not lead to what it announces. `held` is unchanged.
    pub fn updated(held: Option<&Self>, update: Update) -> Result<Self, InvalidOffer> {
        let Update { from, to, snapshot, upserts, removals, withheld } = update;
        let upserts = upserts
            .into_iter()
            .map(|entry| {
                let same = held
                    .and_then(|offer| offer.snapshot.entries().get(entry.key()))
                    .filter(|known| known.hash() == entry.hash());
                same.map_or(entry, Arc::clone)
            })
            .collect();
        let base = if from.is_some() { held.map(|offer| &*offer.snapshot) } else { None };
        let transaction = Transaction { from: base.map(Snapshot::version), to: snapshot, upserts, removals };
        let offer = Self::partial(Arc::new(apply(base, &transaction)?), withheld)?;
        if offer.version != to {
            return Err(InvalidOffer::WrongVersion { announced: to, computed: offer.version });
        }
        Ok(offer)
    }
}

impl InvalidOffer {
    /// The resource at fault, when it is known.
    pub fn key(&self) -> Option<&ResourceKey> {
        use palisade_model::snapshot::InvalidSnapshot;
        match self {
            Self::Apply(ApplyError::UnknownRemoval(key)) => Some(key),
            Self::Apply(ApplyError::Invalid(
                InvalidSnapshot::Dangling { from: key, .. } | InvalidSnapshot::DuplicateDomain { second: key, .. },
            )) => Some(key),
            Self::Apply(_) | Self::WrongVersion { .. } | Self::Hash(_) => None,
        }
    }
}
