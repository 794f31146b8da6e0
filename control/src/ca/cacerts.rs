//! The authority on disk: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
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

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ROOTS: &str = "root-cert.pem";
const CHAIN: &str = "cert-chain.pem";

/// Lifetime of a root that is made here, as Istio's.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

impl CertificateAuthority {
    /// Reads the authority of a folder, or makes a self-signed ECDSA P-256 root there, all files with mode 0600.
    ///
    /// A folder that an operator filled may hold an intermediate authority, RSA or ECDSA: `cert-chain.pem` then leads
    /// from it to `root-cert.pem`.
    ///
    /// # Errors
    /// When files are missing, damaged, do not belong together, or cannot be written.
    pub fn load_or_create(folder: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        if [CERTIFICATE, KEY, ROOTS, CHAIN].iter().all(|name| !folder.join(name).exists()) {
            create(folder, trust_domain, now)?;
        }
        load(folder, now)
    }
}

fn load(folder: &Path, now: SystemTime) -> Result<CertificateAuthority, CaError> {
    for missing in [CERTIFICATE, KEY, ROOTS] {
        if !folder.join(missing).exists() {
            let present = [CERTIFICATE, KEY, ROOTS, CHAIN].into_iter().find(|name| folder.join(name).exists());
            let folder = folder.to_owned();
            return Err(CaError::Incomplete { folder, present: present.unwrap_or("other files"), missing });
        }
    }
    let malformed = |name: &str| {
        let path = folder.join(name);
        move |problem: String| CaError::Malformed { path: path.clone(), problem }
    };
    let unusable = |problem: String| CaError::Unusable { folder: folder.to_owned(), problem };
    let root_bundle = read(folder, ROOTS)?;
    let roots = certificates(&root_bundle).map_err(malformed(ROOTS))?;
    let certificate = certificates(&read(folder, CERTIFICATE)?)
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
    let key = ca_key(&read(folder, KEY)?).map_err(malformed(KEY))?;
    if key.spki().is_none_or(|spki| spki != parsed.public_key().raw) {
        return Err(unusable(format!("{KEY} is not the key of {CERTIFICATE}")));
    }
    let mut between: Vec<CertificateDer<'static>> = vec![certificate.clone()];
    if folder.join(CHAIN).exists() {
        between.extend(certificates(&read(folder, CHAIN)?).map_err(malformed(CHAIN))?);
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

fn create(folder: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), CaError> {
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
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| CaError::Io { path: path.clone(), source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    let files = [
        (ROOTS, certificate.clone()),
        (CHAIN, certificate.clone()),
        (CERTIFICATE, certificate),
        (KEY, key.serialize_pem()),
    ];
    // Everything is on the disk before anything has its name: a full disk leaves nothing behind.
    let staged = |name: &str| folder.join(format!(".{name}.new-{}", std::process::id()));
    let result = files.iter().try_for_each(|(name, text)| {
        let path = staged(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(failed(&path))
    });
    let result = result.and_then(|()| {
        files.iter().try_for_each(|(name, _)| {
            let path = folder.join(name);
            fs::rename(staged(name), &path).map_err(failed(&path))
        })
    });
    if result.is_err() {
        for (name, _) in &files {
            // What is not there need not go; the first error is the one to tell.
            drop(fs::remove_file(staged(name)));
        }
    }
    result
}

fn read(folder: &Path, name: &str) -> Result<String, CaError> {
    let path = folder.join(name);
    let failed = |source| CaError::Io { path: path.clone(), source };
    let size = fs::metadata(&path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        return Err(CaError::Malformed { path, problem: format!("{size} bytes, at most {MAX_FILE_BYTES} are read") });
    }
    fs::read_to_string(&path).map_err(failed)
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
