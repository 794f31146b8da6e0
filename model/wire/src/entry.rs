//! Entries on the wire: key and provenance in the open, content as bytes that only a reader with all features opens.

use std::collections::BTreeSet;

use bytes::Bytes;
use palisade_model::{
    hash::{ContentHash, HashError, InvalidContentHash},
    resource::{Entry, Feature, Meta, Resource, ResourceKey},
};
use prost::Message;

use crate::{
    field::{InvalidField, Wire, mapping},
    proto::v1,
};

/// Why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// Even its key cannot be read.
    #[error("a resource without a readable key: {0}")]
    Key(InvalidField),
    /// It needs a feature that this reader does not have. It is never read in part.
    #[error("{key} needs the feature `{}`, which is not understood here", feature.0)]
    UnknownFeature {
        /// The resource.
        key: ResourceKey,
        /// The feature.
        feature: Feature,
    },
    /// A field means nothing.
    #[error("{key}: {field}")]
    Field {
        /// The resource.
        key: ResourceKey,
        /// The field and its problem.
        field: InvalidField,
    },
    /// The content is not a protocol message.
    #[error("{key}: {message}")]
    Encoding {
        /// The resource.
        key: ResourceKey,
        /// The decoder's words.
        message: String,
    },
    /// The content belongs to another resource than the key says.
    #[error("{key} carries the content of {content}")]
    OtherKey {
        /// What the entry says it is.
        key: ResourceKey,
        /// What it is.
        content: ResourceKey,
    },
    /// The content is not what was hashed.
    #[error("{key} has the content hash {computed}, announced was {announced}")]
    Hash {
        /// The resource.
        key: ResourceKey,
        /// The hash in the message.
        announced: ContentHash,
        /// The hash of what arrived.
        computed: ContentHash,
    },
    /// The hash is not one.
    #[error("{key}: {source}")]
    HashLength {
        /// The resource.
        key: ResourceKey,
        /// What is wrong.
        source: InvalidContentHash,
    },
    /// The content cannot be hashed.
    #[error("{key}: {source}")]
    Hashing {
        /// The resource.
        key: ResourceKey,
        /// Why.
        source: HashError,
    },
}

impl InvalidEntry {
    /// The resource at fault, when it could be read.
    pub fn key(&self) -> Option<&ResourceKey> {
        match self {
            Self::Key(_) => None,
            Self::UnknownFeature { key, .. }
            | Self::Field { key, .. }
            | Self::Encoding { key, .. }
            | Self::OtherKey { key, .. }
            | Self::Hash { key, .. }
            | Self::HashLength { key, .. }
            | Self::Hashing { key, .. } => Some(key),
        }
    }
}

/// An entry as it travels.
pub fn encode_entry(entry: &Entry) -> v1::Entry {
    v1::Entry {
        key: Some(entry.key().encode()),
        meta: Some(entry.meta().encode()),
        hash: Bytes::copy_from_slice(entry.hash().as_bytes()),
        resource: entry.resource().encode().encode_to_vec().into(),
    }
}

/// An entry from its message, for a reader that understands `features`.
///
/// # Errors
/// When anything in it is missing, unknown, out of range, damaged, or needs another feature.
pub fn decode_entry(message: v1::Entry, features: &BTreeSet<Feature>) -> Result<Entry, InvalidEntry> {
    let v1::Entry { key, meta, hash, resource } = message;
    let key: ResourceKey =
        mapping::required().1(key).map_err(|error: InvalidField| InvalidEntry::Key(error.inside("key")))?;
    let meta: Meta = mapping::required().1(meta)
        .map_err(|field: InvalidField| InvalidEntry::Field { key: key.clone(), field: field.inside("meta") })?;
    if let Some(feature) = meta.requires.difference(features).next() {
        return Err(InvalidEntry::UnknownFeature { key, feature: feature.clone() });
    }
    let announced =
        ContentHash::try_from(hash.as_ref()).map_err(|source| InvalidEntry::HashLength { key: key.clone(), source })?;
    let resource = v1::Resource::decode(resource)
        .map_err(|error| InvalidEntry::Encoding { key: key.clone(), message: error.to_string() })?;
    let resource = Resource::decode(resource).map_err(|field| InvalidEntry::Field { key: key.clone(), field })?;
    let entry = Entry::new(resource, meta).map_err(|source| InvalidEntry::Hashing { key: key.clone(), source })?;
    if *entry.key() != key {
        return Err(InvalidEntry::OtherKey { key, content: entry.key().clone() });
    }
    if entry.hash() != announced {
        return Err(InvalidEntry::Hash { key, announced, computed: entry.hash() });
    }
    Ok(entry)
}
