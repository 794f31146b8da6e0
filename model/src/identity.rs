//! SPIFFE identities: the name that a mesh certificate proves.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A SPIFFE trust domain, lower-case by the SPIFFE specification (section 2.1), for example `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// A workload's SPIFFE id in the mesh's form `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
///
/// Any other SPIFFE id (a partner's, a virtual machine's) is not one of these; it stays a URI string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is not a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a trust domain: 1 to 255 characters of a-z, 0-9, `.`, `-`, `_` are allowed")]
pub struct InvalidTrustDomain(String);

/// Why a text is not a mesh identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Not `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[error("`{0}` is not of the form `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`")]
    Shape(String),
    /// The trust domain is malformed.
    #[error(transparent)]
    TrustDomain(#[from] InvalidTrustDomain),
}

impl TrustDomain {
    /// The domain's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// An identity from its parts.
    ///
    /// # Errors
    /// [`InvalidSpiffeId::Shape`] when a part is empty or contains `/`.
    pub fn new(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Result<Self, InvalidSpiffeId> {
        let is_segment = |s: &str| !s.is_empty() && !s.contains('/') && s.bytes().all(|b| b.is_ascii_graphic());
        if !is_segment(namespace) || !is_segment(service_account) {
            let text = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
            return Err(InvalidSpiffeId::Shape(text));
        }
        Ok(Self { trust_domain, namespace: namespace.into(), service_account: service_account.into() })
    }

    /// The trust domain that vouches for the identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The workload's Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The workload's Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidTrustDomain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
            return Err(InvalidTrustDomain(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || InvalidSpiffeId::Shape(text.to_owned());
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(shape)?.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(shape());
        };
        Self::new(domain.parse()?, namespace, account)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = InvalidTrustDomain;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.to_string()
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidSpiffeId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_identity_round_trips() {
        let id: SpiffeId = "spiffe://cluster.local/ns/foo/sa/httpbin".parse().unwrap();
        assert_eq!((id.namespace(), id.service_account()), ("foo", "httpbin"));
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/foo/sa/httpbin");
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://cluster.local/ns/foo/sa/",
            "spiffe://cluster.local/ns//sa/x",
            "spiffe://cluster.local/ns/foo/sa/x/y",
            "spiffe://Cluster.local/ns/foo/sa/x",
            "https://cluster.local/ns/foo/sa/x",
            "spiffe://cluster.local/ns/foo/sa/x y",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
