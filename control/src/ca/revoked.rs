//! Revocation lists that are plugged in beside the authority, judged before proxies get them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use webpki::OwnedCertRevocationList;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// What the lists say, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RevocationSummary {
    /// Lists.
    pub lists: usize,
    /// Certificates that they take back.
    pub revoked: usize,
    /// When the first of them is out of date; its revocations go on to count.
    pub next_update: Option<SystemTime>,
}

/// Lists as proxies will read them, ready for rustls.
pub(super) struct Lists {
    pub(super) der: Vec<CertificateRevocationListDer<'static>>,
    pub(super) summary: RevocationSummary,
}

/// Reads lists. `issuers` are the certificates that may have signed them, as far as they are known here.
///
/// # Errors
/// When one cannot be read, or was not signed by the authority that it names: what is revoked is not known then.
pub(super) fn read(pem: &str, issuers: &[CertificateDer<'static>]) -> Result<Lists, String> {
    let mut lists = Lists { der: Vec::new(), summary: RevocationSummary::default() };
    if pem.trim().is_empty() {
        return Ok(lists);
    }
    let der = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    lists.der = der.map_err(|error| error.to_string())?;
    if lists.der.is_empty() {
        return Err("no revocation list in PEM".to_owned());
    }
    for (position, list) in lists.der.iter().enumerate() {
        let failed = |error: &dyn std::fmt::Display| format!("list {}: {error}", position + 1);
        OwnedCertRevocationList::from_der(list).map_err(|error| failed(&error))?;
        let (_, parsed) = CertificateRevocationList::from_der(list).map_err(|error| failed(&error))?;
        is_signed(&parsed, issuers).map_err(|error| failed(&error))?;
        lists.summary.lists += 1;
        lists.summary.revoked += parsed.iter_revoked_certificates().count();
        let next = parsed.next_update().and_then(|time| u64::try_from(time.timestamp()).ok());
        let next = next.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        lists.summary.next_update = match (lists.summary.next_update, next) {
            (Some(known), Some(next)) => Some(known.min(next)),
            (known, next) => known.or(next),
        };
    }
    Ok(lists)
}

/// A list of an authority that is not known here judges nobody here, or comes with its certificate in a chain.
fn is_signed(list: &CertificateRevocationList<'_>, issuers: &[CertificateDer<'static>]) -> Result<(), String> {
    let mut is_known = false;
    for issuer in issuers {
        let (_, issuer) = X509Certificate::from_der(issuer).map_err(|error| error.to_string())?;
        if issuer.subject().as_raw() != list.issuer().as_raw() {
            continue;
        }
        is_known = true;
        if list.verify_signature(issuer.public_key()).is_ok() {
            return Ok(());
        }
    }
    if is_known { Err(format!("it is not signed by `{}`, which it names", list.issuer())) } else { Ok(()) }
}
