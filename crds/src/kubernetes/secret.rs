//! Secret, with content that no debug output shows.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::schema::{Bytes, Cursor, Decode, present};

/// A Secret. `stringData` is merged into `data`, as the API server does.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Such as `kubernetes.io/tls`; `Opaque` if not written.
    pub secret_type: String,
    /// The content, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret_type, data } = self;
        f.debug_struct("Secret")
            .field("secret_type", secret_type)
            .field("keys", &data.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

const KEYS: &[&str] = &["apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"];

impl Decode for Secret {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let fields = cursor.object(value, KEYS)?;
        let secret_type = match present(fields, "type") {
            Some(value) => cursor.within("type", |cursor| String::decode(value, cursor)),
            None => Some("Opaque".to_owned()),
        };
        let data: Option<BTreeMap<String, Bytes>> = present(fields, "data")
            .map_or(Some(BTreeMap::new()), |value| cursor.within("data", |cursor| Decode::decode(value, cursor)));
        let text: Option<BTreeMap<String, String>> = present(fields, "stringData")
            .map_or(Some(BTreeMap::new()), |value| cursor.within("stringData", |cursor| Decode::decode(value, cursor)));
        let mut data: BTreeMap<String, Vec<u8>> = data?.into_iter().map(|(key, Bytes(bytes))| (key, bytes)).collect();
        data.extend(text?.into_iter().map(|(key, text)| (key, text.into_bytes())));
        Some(Self { secret_type: secret_type?, data })
    }
}
