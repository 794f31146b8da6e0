//! Whom a mesh trusts, and what a proxy has in force of it: told beside the configuration, so that a root can be replaced while all goes on.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::hash::{ContentHash, HashError};

/// SHA-256 of a certificate's DER bytes, as `openssl x509 -fingerprint -sha256` shows it.
pub type Fingerprint = ContentHash;

/// Whose certificates count from now on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trust {
    /// Every trusted root, PEM.
    pub roots: Arc<str>,
    /// The root under which certificates are signed now: a proxy whose own is of another one asks for a new one.
    pub signing: Option<Fingerprint>,
    /// Revocation lists, PEM; empty = none.
    pub revoked: Arc<str>,
    /// Nobody is trusted, for this reason: what is revoked cannot be known.
    pub refusal: Option<Arc<str>>,
}

impl Trust {
    /// What tells it apart from another.
    ///
    /// # Errors
    /// Never: see [`ContentHash::of`].
    pub fn version(&self) -> Result<ContentHash, HashError> {
        ContentHash::of(self)
    }
}

/// What a proxy has in force, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// The [`Trust`] that is in force; none before the first.
    pub trust: Option<ContentHash>,
    /// Roots that it trusts.
    pub roots: BTreeSet<Fingerprint>,
    /// Of those, the ones that its own certificate holds against; empty = it has none.
    pub leaf_roots: BTreeSet<Fingerprint>,
    /// When its certificate ends, in seconds since the Unix epoch; 0 = it has none.
    pub not_after: u64,
    /// Why what it was told last is not in force.
    pub problem: Option<Arc<str>>,
}
