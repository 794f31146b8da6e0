//! The mesh's certificate authority: what it is made of, on disk under Istio's `cacerts` names, and what it signs.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use palisade_model::{
    identity::SpiffeId,
    trust::{Fingerprint, Trust},
};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

mod cacerts;
mod live;
mod material;
mod revoked;
mod steps;

pub(crate) use cacerts::{read_material, stamp, write_material};
pub use live::LiveAuthority;
pub(crate) use material::pem;
pub(crate) use material::{CERTIFICATE, CHAIN, KEY, Material, OTHER_CERTIFICATE, OTHER_KEY, PHASE, REVOKED, ROOTS};
pub use revoked::RevocationSummary;
pub(crate) use steps::Other;
pub use steps::{Direction, NoStep, Phase};

/// How far back certificates begin, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// Largest certificate request that is looked at.
const MAX_CSR_BYTES: usize = 64 * 1024;

/// The authority. Signing is a pure function of its arguments, random serial numbers aside.
pub struct CertificateAuthority {
    issuer: Issuer<'static, CaKey>,
    /// Between leaf and root, PEM; empty when the root signs by itself.
    intermediates: Vec<String>,
    /// All trusted roots, PEM.
    root_bundle: String,
    not_after: SystemTime,
    trust: Trust,
    trusted: BTreeMap<Fingerprint, RootSummary>,
    phase: Option<Phase>,
    is_own_root: bool,
    revocation: RevocationSummary,
    /// Judges certificates that callers show.
    callers: Arc<dyn ClientCertVerifier>,
}

/// A trusted root, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSummary {
    /// Its subject.
    pub subject: String,
    /// When it ends.
    pub not_after: SystemTime,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Reading or writing failed.
    #[error("`{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("`{path}`: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Some files are there, others are not.
    #[error("`{folder}` holds {present} but not {missing}: complete it, or remove it to get a new root")]
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// A file that is there.
        present: &'static str,
        /// A file that is not.
        missing: &'static str,
    },
    /// What is there does not work together.
    #[error("the certificate authority in `{folder}` cannot be used: {problem}")]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        problem: String,
    },
    /// A new root could not be made.
    #[error("a new root cannot be made: {0}")]
    Create(#[from] rcgen::Error),
}

/// Why a certificate is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request is not one, or its signature is wrong.
    #[error("the certificate request is malformed: {0}")]
    Request(String),
    /// The key is too weak, or of a kind that is not served.
    #[error("the key of the certificate request is not accepted: {0}")]
    Key(String),
    /// The authority's own certificate is over.
    #[error("the certificate authority has expired")]
    Expired,
    /// Signing failed.
    #[error("signing failed: {0}")]
    Sign(#[from] rcgen::Error),
    /// The system has no random numbers.
    #[error("no random numbers for a serial number")]
    Random,
}

/// A certificate with its key, for a server of this process.
pub struct ServingCertificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// The authority's key, in any form that rustls reads: PKCS#8, PKCS#1, SEC1; ECDSA or RSA.
struct CaKey {
    key: Arc<dyn rustls::sign::SigningKey>,
    public: SubjectPublicKeyInfo,
}

impl CertificateAuthority {
    /// Signs the key of a request for an identity. Whatever names and extensions the request carries are ignored.
    ///
    /// Returns PEM: the leaf, intermediates, last the root bundle. The lifetime ends with the authority's own.
    ///
    /// # Errors
    /// When the request is malformed, not signed by its own key, or its key is weak.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, SignError> {
        let key = requested_key(csr_pem)?;
        let mut params = self.leaf(lifetime, now)?;
        let uri = identity.to_string().try_into().map_err(SignError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let leaf = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![leaf.pem()];
        chain.extend(self.intermediates.iter().cloned());
        chain.push(self.root_bundle.clone());
        Ok(chain)
    }

    /// A certificate with a new key for a server of this process.
    ///
    /// # Errors
    /// When a name is not a DNS name, or signing fails.
    pub fn serving(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<ServingCertificate, SignError> {
        let key = KeyPair::generate()?;
        let mut params = self.leaf(lifetime, now)?;
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        let leaf = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        for pem in &self.intermediates {
            chain.extend(material::certificates(pem).map_err(SignError::Request)?);
        }
        Ok(ServingCertificate { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }

    /// What proxies are told of it.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The trusted roots.
    pub fn trusted(&self) -> &BTreeMap<Fingerprint, RootSummary> {
        &self.trusted
    }

    /// Where the replacement of its root is; `None` = none is under way.
    pub fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// Its own certificate and those between that and a root, PEM: other certificates, other chains of what it signs.
    pub(crate) fn own_chain(&self) -> (&[String], &[u8]) {
        (&self.intermediates, self.issuer.key().der_bytes())
    }

    /// Whether it is a root itself, as opposed to one that another authority signed.
    pub fn is_own_root(&self) -> bool {
        self.is_own_root
    }

    /// What is revoked, for people.
    pub fn revocation(&self) -> &RevocationSummary {
        &self.revocation
    }

    /// Whether a certificate that a caller proved to own counts now: chain, period, revocation.
    ///
    /// # Errors
    /// Says why not.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
        if let Some(refusal) = &self.trust.refusal {
            return Err(format!("nobody's certificate counts: {refusal}"));
        }
        let [leaf, intermediates @ ..] = chain else { return Err("none was shown".to_owned()) };
        let since = now.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        let judged = self.callers.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since));
        judged.map(drop).map_err(|error| error.to_string())
    }

    /// All trusted roots, PEM.
    pub fn root_bundle(&self) -> &str {
        &self.root_bundle
    }

    fn leaf(&self, lifetime: Duration, now: SystemTime) -> Result<CertificateParams, SignError> {
        if now >= self.not_after {
            return Err(SignError::Expired);
        }
        let mut serial = [0; 16];
        SystemRandom::new().fill(&mut serial).map_err(|_| SignError::Random)?;
        // Positive and without leading zeros, as DER wants it.
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = (now - BACKDATE).into();
        params.not_after = now.checked_add(lifetime).unwrap_or(self.not_after).min(self.not_after).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        use rustls::SignatureScheme as Scheme;
        // In the order of what `public` may be: rcgen names the matching algorithm in the certificate.
        let scheme = if *self.public.algorithm() == rcgen::PKCS_RSA_SHA256 {
            Scheme::RSA_PKCS1_SHA256
        } else if *self.public.algorithm() == rcgen::PKCS_ECDSA_P384_SHA384 {
            Scheme::ECDSA_NISTP384_SHA384
        } else if *self.public.algorithm() == rcgen::PKCS_ED25519 {
            Scheme::ED25519
        } else {
            Scheme::ECDSA_NISTP256_SHA256
        };
        let signer = self.key.choose_scheme(&[scheme]).ok_or(rcgen::Error::UnsupportedSignatureAlgorithm)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

/// The key of a request that is signed by that key.
pub(crate) fn requested_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, SignError> {
    use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
    if csr_pem.len() > MAX_CSR_BYTES {
        return Err(SignError::Request(format!("longer than {MAX_CSR_BYTES} bytes")));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|error| SignError::Request(error.to_string()))?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|error| SignError::Request(error.to_string()))?;
    if !rest.is_empty() {
        return Err(SignError::Request("bytes after its end".to_owned()));
    }
    request.verify_signature().map_err(|_| SignError::Request("it is not signed by its own key".to_owned()))?;
    let info = &request.certification_request_info.subject_pki;
    match info.parsed().map_err(|error| SignError::Key(error.to_string()))? {
        x509_parser::public_key::PublicKey::RSA(key) if key.key_size() < 2048 => {
            return Err(SignError::Key(format!("RSA with {} bits, at least 2048 are needed", key.key_size())));
        }
        _ => {}
    }
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|error| SignError::Key(error.to_string()))
}

#[cfg(test)]
mod tests;
