//! Certificates and keys as they arrive, parsed and checked against each other once.

use std::{collections::BTreeSet, fmt, sync::Arc};

use palisade_model::{identity::TrustDomain, listener::TlsLimits};
use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{provider, revoked::Revoked};

/// A workload's certificate chain, its key, and whom it trusts.
pub struct IdentityMaterial {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) bundle: Vec<CertificateDer<'static>>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) trust_domains: Arc<BTreeSet<TrustDomain>>,
    pub(super) limits: TlsLimits,
    pub(super) revoked: Arc<Revoked>,
}

/// Why certificates and keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMaterial {
    /// Not PEM, or a section that breaks off.
    #[error("the {what} is not readable PEM: {source}")]
    Pem {
        /// Which part.
        what: &'static str,
        /// What the reader said; holds no key bytes.
        source: rustls_pki_types::pem::Error,
    },
    /// No certificate where at least one is needed.
    #[error("the {0} holds no certificate")]
    Empty(&'static str),
    /// A certificate or key that rustls does not take.
    #[error("the {what} cannot be used: {source}")]
    Unusable {
        /// Which part.
        what: &'static str,
        /// The cause.
        source: rustls::Error,
    },
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A revocation list that cannot be used.
    #[error("a revocation list cannot be used: {0}")]
    Revocation(String),
    /// The verifier cannot be built.
    #[error("the trust bundle cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl IdentityMaterial {
    /// From PEM texts. `chain` is leaf first; `bundle` holds every trusted root; `trust_domains` are the domains whose
    /// identities may call this workload: the mesh's own and its aliases. Empty: nobody may.
    ///
    /// # Errors
    /// Says which part is unusable. Never quotes key bytes.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        bundle: &[u8],
        trust_domains: BTreeSet<TrustDomain>,
    ) -> Result<Self, InvalidMaterial> {
        let key = private_key_from_pem(key)?;
        Self::from_der(
            certificates_from_pem("certificate chain", chain)?,
            key,
            certificates_from_pem("trust bundle", bundle)?,
            trust_domains,
        )
    }

    /// As [`IdentityMaterial::from_pem`], from DER.
    ///
    /// # Errors
    /// Says which part is unusable.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        bundle: Vec<CertificateDer<'static>>,
        trust_domains: BTreeSet<TrustDomain>,
    ) -> Result<Self, InvalidMaterial> {
        Ok(Self {
            certified: certified_key(chain, &key)?,
            roots: Arc::new(root_store("trust bundle", &bundle)?),
            bundle,
            trust_domains: Arc::new(trust_domains),
            limits: TlsLimits::default(),
            revoked: Arc::default(),
        })
    }

    /// The same within bounds.
    #[must_use]
    pub fn limited(self, limits: TlsLimits) -> Self {
        Self { limits, ..self }
    }

    /// The same but for what is revoked.
    #[must_use]
    pub fn revoking(self, revoked: Arc<Revoked>) -> Self {
        Self { revoked, ..self }
    }
}

impl fmt::Debug for IdentityMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityMaterial")
            .field("certificates", &self.certified.cert.len())
            .field("roots", &self.roots.len())
            .field("trust_domains", &self.trust_domains)
            .finish_non_exhaustive()
    }
}

/// All certificates of a PEM text, at least one.
pub(super) fn certificates_from_pem(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, InvalidMaterial> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| InvalidMaterial::Pem { what, source })?;
    if certificates.is_empty() { Err(InvalidMaterial::Empty(what)) } else { Ok(certificates) }
}

/// The first private key of a PEM text: PKCS#8, PKCS#1 or SEC1.
pub(super) fn private_key_from_pem(pem: &[u8]) -> Result<PrivateKeyDer<'static>, InvalidMaterial> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| InvalidMaterial::Pem { what: "private key", source })
}

/// Chain and key as rustls signs with them; the key is checked to belong to the leaf.
pub(super) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, InvalidMaterial> {
    if chain.is_empty() {
        return Err(InvalidMaterial::Empty("certificate chain"));
    }
    let signer = provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(|source| InvalidMaterial::Unusable { what: "private key", source })?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(InvalidMaterial::KeyMismatch),
        Err(source) => Err(InvalidMaterial::Unusable { what: "certificate chain", source }),
    }
}

/// Trust anchors from certificates; every one must be usable.
pub(super) fn root_store(
    what: &'static str,
    certificates: &[CertificateDer<'_>],
) -> Result<RootCertStore, InvalidMaterial> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|source| InvalidMaterial::Unusable { what, source })?;
    }
    if roots.is_empty() { Err(InvalidMaterial::Empty(what)) } else { Ok(roots) }
}
