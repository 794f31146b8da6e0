//! A peer's certificate as the proxy's other parts see it: its names, never its raw shape.

use std::{fmt, sync::Arc};

use palisade_model::identity::SpiffeId;
use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certificate chain that a peer proved to own, with the names read from its leaf.
///
/// That the chain is trusted follows from where the value came from (a completed handshake with a verifying
/// configuration), not from this type.
#[derive(Clone)]
pub struct PeerCertificate {
    chain: Arc<[CertificateDer<'static>]>,
    uris: Arc<[Arc<str>]>,
    dns_names: Arc<[Arc<str>]>,
}

/// Why a peer's certificate is refused, beyond what the chain check says.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeer {
    /// The peer sent no certificate.
    #[error("no certificate was presented")]
    Missing,
    /// Not a certificate that can be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// SPIFFE X.509-SVID section 2: exactly one URI SAN.
    #[error("the certificate holds {0} URI names instead of exactly one")]
    UriCount(usize),
    /// The one URI SAN is no SPIFFE id.
    #[error("the certificate's URI name `{0}` is not a SPIFFE id")]
    NotSpiffe(Arc<str>),
    /// The trust domain is neither the mesh's own nor one of its aliases.
    #[error("the trust domain of `{0}` is not one of the mesh's")]
    TrustDomain(Arc<str>),
    /// The peer is proven to be someone else than who was called.
    #[error("the peer is `{0}`, which is none of the expected identities")]
    Unexpected(Arc<str>),
    /// Outside its validity period at the time of a resumed handshake.
    #[error("the certificate is not valid at this time")]
    Expired,
    /// Whether it is revoked cannot be told.
    #[error("whether the certificate is revoked cannot be told: {0}")]
    Unjudged(Arc<str>),
    /// Not one of the certificates that the listener was told to accept.
    #[error("the certificate is not one of those that are accepted")]
    NotPinned,
}

impl PeerCertificate {
    /// Reads the names from a chain, leaf first.
    ///
    /// # Errors
    /// [`InvalidPeer::Missing`] for an empty chain, [`InvalidPeer::Unreadable`] for a leaf that is no certificate.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, InvalidPeer> {
        let leaf = chain.first().ok_or(InvalidPeer::Missing)?;
        let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|_| InvalidPeer::Unreadable)?;
        Ok(Self {
            uris: parsed.valid_uri_names().map(Arc::from).collect(),
            dns_names: parsed.valid_dns_names().map(Arc::from).collect(),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        })
    }

    /// The whole chain as the peer sent it, leaf first; never empty.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's DER bytes.
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], |leaf| leaf.as_ref())
    }

    /// URI names in the certificate's order.
    pub fn uris(&self) -> &[Arc<str>] {
        &self.uris
    }

    /// DNS names in the certificate's order; may hold wildcards.
    pub fn dns_names(&self) -> &[Arc<str>] {
        &self.dns_names
    }

    /// The SPIFFE URI, when the certificate holds exactly one URI name and that is one.
    ///
    /// # Errors
    /// [`InvalidPeer::UriCount`] or [`InvalidPeer::NotSpiffe`].
    pub fn spiffe_uri(&self) -> Result<&Arc<str>, InvalidPeer> {
        sole_spiffe_uri(&self.uris)
    }

    /// The identity in the mesh's own form. `None`: no SPIFFE URI, or one of another shape (a partner's).
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        self.spiffe_uri().ok().and_then(|uri| uri.parse().ok())
    }

    /// SHA-256 of the leaf's DER bytes, as in `x-forwarded-client-cert`'s `Hash`.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.leaf()).into()
    }

    /// The subject as RFC 2253 text, empty for a certificate without one. Parses the certificate: not for every request.
    pub fn subject(&self) -> String {
        X509Certificate::from_der(self.leaf()).map_or_else(|_| String::new(), |(_, leaf)| rfc2253(leaf.subject()))
    }

    /// Checks the leaf's validity period, which a resumed handshake does not.
    ///
    /// # Errors
    /// [`InvalidPeer::Expired`] outside the period, [`InvalidPeer::Unreadable`] when there is none to read.
    pub fn check_period(&self, now: UnixTime) -> Result<(), InvalidPeer> {
        let now = i64::try_from(now.as_secs()).map_err(|_| InvalidPeer::Expired)?;
        let (not_before, not_after) = self.period()?;
        if (not_before..=not_after).contains(&now) { Ok(()) } else { Err(InvalidPeer::Expired) }
    }

    /// The leaf's validity period: not before, not after, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`InvalidPeer::Unreadable`] when there is none to read.
    pub fn period(&self) -> Result<(i64, i64), InvalidPeer> {
        let (_, leaf) = X509Certificate::from_der(self.leaf()).map_err(|_| InvalidPeer::Unreadable)?;
        let validity = leaf.validity();
        Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCertificate")
            .field("uris", &self.uris)
            .field("dns_names", &self.dns_names)
            .field("certificates", &self.chain.len())
            .finish()
    }
}

impl fmt::Debug for InvalidPeer {
    /// The sentence: rustls prints this form where people read it, in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<InvalidPeer> for rustls::Error {
    fn from(invalid: InvalidPeer) -> Self {
        Self::InvalidCertificate(match invalid {
            InvalidPeer::Unreadable => CertificateError::BadEncoding,
            InvalidPeer::Expired => CertificateError::Expired,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// The one SPIFFE URI among a certificate's URI names.
pub(crate) fn sole_spiffe_uri(uris: &[Arc<str>]) -> Result<&Arc<str>, InvalidPeer> {
    let [uri] = uris else {
        return Err(InvalidPeer::UriCount(uris.len()));
    };
    if is_spiffe(uri) { Ok(uri) } else { Err(InvalidPeer::NotSpiffe(Arc::clone(uri))) }
}

/// Whether a URI is `spiffe://DOMAIN/PATH` with neither part empty. SPIFFE-ID section 2: no query, fragment, user or port.
fn is_spiffe(uri: &str) -> bool {
    uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).is_some_and(|(domain, path)| {
        let graphic = uri.bytes().all(|byte| byte.is_ascii_graphic());
        graphic && !domain.is_empty() && !path.is_empty() && !domain.contains(['@', ':']) && !uri.contains(['?', '#'])
    })
}

/// RFC 2253: most specific name first, special characters escaped.
fn rfc2253(name: &x509_parser::x509::X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let attributes: Vec<String> = rdn
                .iter()
                .map(|attribute| {
                    let key =
                        x509_parser::objects::oid2abbrev(attribute.attr_type(), x509_parser::objects::oid_registry())
                            .map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
                    format!("{key}={}", escape_rfc2253(attribute.as_str().unwrap_or_default()))
                })
                .collect();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escape_rfc2253(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (position, character) in value.chars().enumerate() {
        let is_edge_space = character == ' ' && (position == 0 || position == last);
        let is_leading_hash = character == '#' && position == 0;
        if matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';') || is_edge_space || is_leading_hash {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_spiffe_ids_count() {
        for (uri, expected) in [
            ("spiffe://cluster.local/ns/foo/sa/bar", true),
            ("spiffe://partner.example/anything", true),
            ("spiffe://cluster.local", false),
            ("spiffe://cluster.local/", false),
            ("spiffe:///ns/foo", false),
            ("SPIFFE://cluster.local/ns/foo/sa/bar", false),
            ("spiffe://a@cluster.local/x", false),
            ("spiffe://cluster.local/x?y", false),
            ("spiffe://cluster.local/x y", false),
            ("https://cluster.local/ns/foo", false),
        ] {
            assert_eq!(is_spiffe(uri), expected, "{uri}");
        }
    }

    #[test]
    fn subjects_are_escaped() {
        assert_eq!(escape_rfc2253("#a,b+c "), "\\#a\\,b\\+c\\ ");
    }

    #[test]
    fn an_empty_chain_is_no_peer() {
        assert_eq!(PeerCertificate::from_chain(&[]).unwrap_err(), InvalidPeer::Missing);
        let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        assert_eq!(PeerCertificate::from_chain(&[garbage]).unwrap_err(), InvalidPeer::Unreadable);
    }
}
