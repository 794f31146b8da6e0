//! Certificates and keys that a gateway serves or presents.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A certificate with its key, or a CA bundle, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Unique key, for example `secret/NS/NAME` or `configmap/NS/NAME`.
    pub key: Arc<str>,
    /// PEM certificate chain, leaf first.
    pub certificate: Option<Arc<str>>,
    /// PEM private key.
    pub private_key: Option<PrivateKey>,
    /// PEM CA certificates.
    pub ca: Option<Arc<str>>,
}

/// A PEM private key. Never printed, and left out of every human-readable form.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Arc<str>);

impl PrivateKey {
    /// Wraps a PEM key.
    pub fn new(pem: &str) -> Self {
        Self(pem.into())
    }

    /// The PEM text, for the TLS stack and the wire only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.serialize_str("redacted") } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Arc::<str>::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_printed() {
        let key = PrivateKey::new("-----BEGIN PRIVATE KEY-----");
        assert!(!format!("{key:?}").contains("BEGIN"));
        assert!(!serde_json::to_string(&key).unwrap().contains("BEGIN"));
    }
}
