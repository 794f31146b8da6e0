//! What is revoked: certificates that their authority has taken back, leaves and intermediates alike.

use std::{fmt, sync::Arc};

use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
use webpki::{CertRevocationList, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder, UnknownStatusPolicy};

use super::{
    material::InvalidMaterial,
    peer::{InvalidPeer, PeerCertificate},
    provider,
};

/// Revocation lists, ready to be asked.
///
/// A certificate whose issuer has no list here is not revoked. A list that is past its `nextUpdate` goes on to count: what it takes
/// back stays taken back, and a mesh does not fall apart at an hour that nobody chose.
#[derive(Default)]
pub struct Revoked {
    der: Vec<CertificateRevocationListDer<'static>>,
    lists: Vec<CertRevocationList<'static>>,
    refusal: Option<Arc<str>>,
}

/// In which direction a certificate is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    ByServer,
    ByClient,
}

impl Revoked {
    /// The lists of a PEM text; an empty text holds none.
    ///
    /// # Errors
    /// When one of them cannot be read: what it takes back is not known.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidMaterial> {
        if pem.trim().is_empty() {
            return Ok(Self::default());
        }
        let what = "revocation list";
        let der = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| InvalidMaterial::Pem { what, source })?;
        if der.is_empty() {
            return Err(InvalidMaterial::Empty(what));
        }
        let lists = der.iter().map(|list| OwnedCertRevocationList::from_der(list).map(CertRevocationList::from));
        let lists =
            lists.collect::<Result<Vec<_>, _>>().map_err(|error| InvalidMaterial::Revocation(error.to_string()))?;
        Ok(Self { der, lists, refusal: None })
    }

    /// Nobody passes, for this reason: what is revoked is not known.
    pub fn unknown(reason: Arc<str>) -> Self {
        Self { refusal: Some(reason), ..Self::default() }
    }

    /// The lists as they came.
    pub(crate) fn lists(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.der
    }

    /// Why nobody passes.
    pub fn refusal(&self) -> Option<&Arc<str>> {
        self.refusal.as_ref()
    }

    /// Judges a chain that holds otherwise.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
        shown: Shown,
    ) -> Result<(), Error> {
        if let Some(reason) = &self.refusal {
            return Err(InvalidPeer::Unjudged(Arc::clone(reason)).into());
        }
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else { return Ok(()) };
        let options = options.with_status_policy(UnknownStatusPolicy::Allow).build();
        let usage = match shown {
            Shown::ByServer => KeyUsage::server_auth(),
            Shown::ByClient => KeyUsage::client_auth(),
        };
        let algorithms = provider().signature_verification_algorithms.all;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|_| InvalidPeer::Unreadable)?;
        let verified = leaf.verify_for_usage(algorithms, &roots.roots, intermediates, now, usage, Some(options), None);
        match verified {
            Ok(_path) => Ok(()),
            Err(webpki::Error::CertRevoked) => Err(CertificateError::Revoked.into()),
            Err(error) => Err(InvalidPeer::Unjudged(format!("the revocation lists: {error}").into()).into()),
        }
    }

    /// Whether our own certificate is taken back.
    pub(super) fn has(&self, own: &PeerCertificate, roots: &RootCertStore, now: UnixTime) -> bool {
        let Some((leaf, intermediates)) = own.chain().split_first() else { return false };
        let judged = self.check(leaf, intermediates, roots, now, Shown::ByServer);
        matches!(judged, Err(Error::InvalidCertificate(CertificateError::Revoked)))
    }
}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revoked").field("lists", &self.lists.len()).field("refusal", &self.refusal).finish()
    }
}

#[cfg(test)]
mod tests;
