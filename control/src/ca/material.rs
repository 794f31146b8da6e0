//! The texts that make an authority, wherever they are kept.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use palisade_model::identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SubjectPublicKeyInfo,
};
use rustls::{RootCertStore, client::danger::ServerCertVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CaError, CaKey, CertificateAuthority};

/// Istio's name of the authority's own certificate.
pub(crate) const CERTIFICATE: &str = "ca-cert.pem";
/// Istio's name of its key.
pub(crate) const KEY: &str = "ca-key.pem";
/// Istio's name of all trusted roots.
pub(crate) const ROOTS: &str = "root-cert.pem";
/// Istio's name of what leads from the certificate to a root.
pub(crate) const CHAIN: &str = "cert-chain.pem";

/// Lifetime of a root that is made here, as Istio's.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// An authority as PEM. It holds a private key and has no `Debug`.
pub(crate) struct Material {
    /// Its certificate; of several the first.
    pub(crate) certificate: String,
    /// The key of that.
    pub(crate) key: String,
    /// All trusted roots.
    pub(crate) roots: String,
    /// What leads from the certificate to a root; may hold both.
    pub(crate) chain: Option<String>,
}

impl Material {
    /// A new self-signed ECDSA P-256 root.
    pub(crate) fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
        params.distinguished_name.push(DnType::CommonName, "Palisade mesh root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - super::BACKDATE).into();
        params.not_after = (now + ROOT_LIFETIME).into();
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { roots: certificate.clone(), chain: Some(certificate.clone()), certificate, key: key.serialize_pem() })
    }

    /// The authority. `place` is where the texts are kept, for errors.
    pub(crate) fn authority(self, place: &Path, now: SystemTime) -> Result<CertificateAuthority, CaError> {
        let Self { certificate, key, roots: root_bundle, chain } = self;
        let malformed = |name: &str| {
            let path = place.join(name);
            move |problem: String| CaError::Malformed { path: path.clone(), problem }
        };
        let unusable = |problem: String| CaError::Unusable { folder: place.to_owned(), problem };
        let roots = certificates(&root_bundle).map_err(malformed(ROOTS))?;
        let certificate = certificates(&certificate)
            .map_err(malformed(CERTIFICATE))?
            .into_iter()
            .next()
            .ok_or_else(|| malformed(CERTIFICATE)("no certificate".to_owned()))?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| malformed(CERTIFICATE)(error.to_string()))?;
        if !parsed.is_ca() {
            return Err(malformed(CERTIFICATE)("it is not the certificate of an authority".to_owned()));
        }
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let key = ca_key(&key).map_err(malformed(KEY))?;
        if key.spki().is_none_or(|spki| spki != parsed.public_key().raw) {
            return Err(unusable(format!("{KEY} is not the key of {CERTIFICATE}")));
        }
        let mut between: Vec<CertificateDer<'static>> = vec![certificate.clone()];
        if let Some(chain) = chain {
            between.extend(certificates(&chain).map_err(malformed(CHAIN))?);
        }
        let mut seen: Vec<CertificateDer<'static>> = roots.clone();
        between.retain(|certificate| {
            let is_new = !seen.contains(certificate);
            seen.push(certificate.clone());
            is_new
        });
        let authority = CertificateAuthority {
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(error.to_string()))?,
            intermediates: between.iter().map(pem).collect(),
            root_bundle,
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
        };
        probe(&authority, &roots, now).map_err(unusable)?;
        Ok(authority)
    }
}

/// Signs something and verifies it as a proxy would: whatever does not fit together shows now, not at the first pod.
fn probe(authority: &CertificateAuthority, roots: &[CertificateDer<'static>], now: SystemTime) -> Result<(), String> {
    let serving = authority
        .serving(&["probe.palisade".to_owned()], &[], Duration::from_secs(3600), now)
        .map_err(|error| error.to_string())?;
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let (leaf, intermediates) = serving.chain.split_first().ok_or("an empty chain")?;
    let name = ServerName::try_from("probe.palisade").map_err(|error| error.to_string())?;
    let since = now.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    verifier
        .verify_server_cert(leaf, intermediates, &name, &[], UnixTime::since_unix_epoch(since))
        .map(drop)
        .map_err(|error| format!("what it signs does not verify against {ROOTS}: {error}"))
}

/// All certificates of a PEM text; at least one.
pub(super) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    if found.is_empty() { Err("no certificate in PEM".to_owned()) } else { Ok(found) }
}

fn ca_key(text: &str) -> Result<CaKey, String> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    let spki = key.public_key().ok_or("a key without a public half")?;
    let public = SubjectPublicKeyInfo::from_der(&spki).map_err(|error| error.to_string())?;
    Ok(CaKey { key, public })
}

impl CaKey {
    fn spki(&self) -> Option<Vec<u8>> {
        self.key.public_key().map(|spki| spki.to_vec())
    }
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = next;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
