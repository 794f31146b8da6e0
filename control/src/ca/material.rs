//! The texts that make an authority, wherever they are kept.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use palisade_model::{
    identity::TrustDomain,
    trust::{Fingerprint, Trust},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::{
    RootCertStore,
    client::danger::ServerCertVerifier,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    CaError, CaKey, CertificateAuthority, Other, Phase, RevocationSummary, RootSummary,
    revoked::{self, Lists},
};

/// Istio's name of the authority's own certificate.
pub(crate) const CERTIFICATE: &str = "ca-cert.pem";
/// Istio's name of its key.
pub(crate) const KEY: &str = "ca-key.pem";
/// Istio's name of all trusted roots.
pub(crate) const ROOTS: &str = "root-cert.pem";
/// Istio's name of what leads from the certificate to a root.
pub(crate) const CHAIN: &str = "cert-chain.pem";

/// Istio's name of what is revoked.
pub(crate) const REVOKED: &str = "ca-crl.pem";
/// While a root is replaced: where that is.
pub(crate) const PHASE: &str = "rotation";
/// The authority that does not sign.
pub(crate) const OTHER_CERTIFICATE: &str = "rotation-ca-cert.pem";
/// Its key.
pub(crate) const OTHER_KEY: &str = "rotation-ca-key.pem";

/// All names under which parts of an authority are kept.
pub(crate) const NAMES: [&str; 8] = [CERTIFICATE, KEY, ROOTS, CHAIN, REVOKED, PHASE, OTHER_CERTIFICATE, OTHER_KEY];

/// Lifetime of a root that is made here, as Istio's.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// An authority as PEM. It holds a private key and has no `Debug`.
#[derive(Clone)]
pub(crate) struct Material {
    /// Its certificate; of several the first.
    pub(crate) certificate: String,
    /// The key of that.
    pub(crate) key: String,
    /// All trusted roots.
    pub(crate) roots: String,
    /// What leads from the certificate to a root; may hold both.
    pub(crate) chain: Option<String>,
    /// What is revoked.
    pub(crate) revoked: Option<String>,
    /// While a root is replaced: the authority that does not sign.
    pub(crate) other: Option<Other>,
}

impl Material {
    /// A new self-signed ECDSA P-256 root.
    pub(crate) fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
        // Two roots of a mesh have two names: lists of what is revoked are found by them.
        let mut random = [0; 4];
        SystemRandom::new().fill(&mut random).map_err(|_| rcgen::Error::RingUnspecified)?;
        let number = u32::from_be_bytes(random);
        params.distinguished_name.push(DnType::CommonName, format!("Palisade mesh root {number:08x}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - super::BACKDATE).into();
        params.not_after = (now + ROOT_LIFETIME).into();
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            roots: certificate.clone(),
            chain: Some(certificate.clone()),
            certificate,
            key: key.serialize_pem(),
            revoked: None,
            other: None,
        })
    }

    /// Its parts by name; `None` = there is none, and what is kept under that name goes.
    pub(crate) fn texts(&self) -> [(&'static str, Option<String>); 8] {
        let other = |part: fn(&Other) -> String| self.other.as_ref().map(part);
        [
            (CERTIFICATE, Some(self.certificate.clone())),
            (KEY, Some(self.key.clone())),
            (ROOTS, Some(self.roots.clone())),
            (CHAIN, self.chain.clone()),
            (REVOKED, self.revoked.clone()),
            (PHASE, other(|other| other.phase.to_string())),
            (OTHER_CERTIFICATE, other(|other| other.certificate.clone())),
            (OTHER_KEY, other(|other| other.key.clone())),
        ]
    }

    /// The authority that does not sign, of its kept parts.
    ///
    /// # Errors
    /// When one of them is missing or unknown.
    pub(crate) fn other(
        phase: Option<String>,
        certificate: Option<String>,
        key: Option<String>,
    ) -> Result<Option<Other>, String> {
        match (phase, certificate, key) {
            (None, None, None) => Ok(None),
            (Some(phase), Some(certificate), Some(key)) => match Phase::parse(&phase) {
                Some(phase) => Ok(Some(Other { phase, certificate, key })),
                None => Err(format!("{PHASE} is none of `distributing` and `signing`")),
            },
            _ => Err(format!("of {PHASE}, {OTHER_CERTIFICATE} and {OTHER_KEY} some are there and others are not")),
        }
    }

    /// The authority. `place` is where the texts are kept, for errors.
    pub(crate) fn authority(self, place: &Path, now: SystemTime) -> Result<CertificateAuthority, CaError> {
        let Self { certificate, key, roots: root_bundle, chain, revoked, other } = self;
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
        let known: Vec<CertificateDer<'static>> = roots.iter().chain(&between).cloned().collect();
        let text = revoked.unwrap_or_default();
        let (lists, refusal) = match revoked::read(&text, &known) {
            Ok(lists) => (lists, None),
            Err(problem) => {
                let refusal = format!("{}: {problem}", place.join(REVOKED).display());
                tracing::error!(error = %refusal, "what is revoked is not known: nobody is trusted");
                (Lists { der: Vec::new(), summary: RevocationSummary::default() }, Some(refusal.into()))
            }
        };
        let is_own_root = roots.contains(&certificate);
        let callers = callers(&roots, lists.der).map_err(unusable)?;
        let mut authority = CertificateAuthority {
            trust: Trust { roots: root_bundle.as_str().into(), signing: None, revoked: text.into(), refusal },
            trusted: trusted(&roots).map_err(malformed(ROOTS))?,
            phase: other.map(|other| other.phase),
            is_own_root,
            revocation: lists.summary,
            callers,
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(error.to_string()))?,
            intermediates: between.iter().map(pem).collect(),
            root_bundle,
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
        };
        let root = probe(&authority, &roots, now).map_err(unusable)?;
        authority.trust.signing = Some(root);
        Ok(authority)
    }
}

/// Signs something and verifies it as a proxy would: whatever does not fit together shows now, not at the first pod.
/// Gives the root that it holds against.
fn probe(
    authority: &CertificateAuthority,
    roots: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<Fingerprint, String> {
    let serving = authority
        .serving(&["probe.palisade".to_owned()], &[], Duration::from_secs(3600), now)
        .map_err(|error| error.to_string())?;
    let mut last = "there is no root".to_owned();
    for root in roots {
        match verify(&serving.chain, root, now) {
            Ok(()) => return Ok(Fingerprint::of_bytes(root)),
            Err(error) => last = error,
        }
    }
    Err(format!("what it signs does not verify against {ROOTS}: {last}"))
}

fn verify(chain: &[CertificateDer<'static>], root: &CertificateDer<'static>, now: SystemTime) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    store.add(root.clone()).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let (leaf, intermediates) = chain.split_first().ok_or("an empty chain")?;
    let name = ServerName::try_from("probe.palisade").map_err(|error| error.to_string())?;
    let since = now.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    verifier
        .verify_server_cert(leaf, intermediates, &name, &[], UnixTime::since_unix_epoch(since))
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Judges callers by these roots and lists.
fn callers(
    roots: &[CertificateDer<'static>],
    lists: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).with_crls(lists);
    builder.allow_unknown_revocation_status().build().map_err(|error| error.to_string())
}

fn trusted(roots: &[CertificateDer<'static>]) -> Result<BTreeMap<Fingerprint, RootSummary>, String> {
    let summary = |root: &CertificateDer<'static>| {
        let (_, parsed) = X509Certificate::from_der(root).map_err(|error| error.to_string())?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let not_after = UNIX_EPOCH + Duration::from_secs(seconds);
        Ok((Fingerprint::of_bytes(root), RootSummary { subject: parsed.subject().to_string(), not_after }))
    };
    roots.iter().map(summary).collect()
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

pub(crate) fn pem(certificate: &CertificateDer<'static>) -> String {
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
