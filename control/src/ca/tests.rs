//! The authority signs for proven identities only, and says what is wrong with its files.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use palisade_model::identity::TrustDomain;
use rcgen::{BasicConstraints, DnType, PKCS_ED25519};
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::X509Certificate;

use super::*;

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/foo/sa/a".parse().unwrap()
}

fn load(folder: &Path) -> Result<CertificateAuthority, CaError> {
    CertificateAuthority::load_or_create(folder, &domain(), SystemTime::now())
}

fn csr(names: &[&str]) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.serialize_request(&key).unwrap().pem().unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_root_is_created_once_with_mode_0600() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca");
    let first = load(&path).unwrap().root_bundle().to_owned();
    for name in ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"] {
        assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(load(&path).unwrap().root_bundle(), first);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 4, "nothing is left behind");
}

#[test]
fn names_in_the_request_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let authority = load(folder.path()).unwrap();
    let chain = authority.sign(&csr(&["evil.example.com"]), &identity(), HOUR, SystemTime::now()).unwrap();
    assert_eq!(chain.len(), 2, "leaf and root bundle");
    let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "the subject is empty");
    assert_eq!(san.value.general_names.len(), 1);
    assert!(format!("{:?}", san.value.general_names[0]).contains("spiffe://cluster.local/ns/foo/sa/a"));
    assert_eq!(leaf.subject().iter().count(), 0);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !leaf.is_ca());
}

#[test]
fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = load(folder.path()).unwrap();
    let sign = |csr: &str| authority.sign(csr, &identity(), HOUR, SystemTime::now());
    let good = csr(&[]);
    let mut der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der)
    );
    for text in ["", "garbage", &"x".repeat(100_000), &forged] {
        assert!(matches!(sign(text), Err(SignError::Request(_))), "{text:.20}");
    }
}

#[test]
fn an_expired_authority_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = load(folder.path()).unwrap();
    let later = SystemTime::now() + Duration::from_secs(11 * 365 * 24 * 3600);
    assert!(matches!(authority.sign(&csr(&[]), &identity(), HOUR, later), Err(SignError::Expired)));
    let CaError::Unusable { problem, .. } =
        CertificateAuthority::load_or_create(folder.path(), &domain(), later).err().unwrap()
    else {
        panic!("accepted")
    };
    assert!(problem.contains("expired"), "{problem}");
}

#[test]
fn damaged_incomplete_and_foreign_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    drop(load(folder.path()).unwrap());
    let other = tempfile::tempdir().unwrap();
    drop(load(other.path()).unwrap());
    let error = |folder: &Path| load(folder).err().unwrap().to_string();
    let path = |name: &str| folder.path().join(name);
    let saved = fs::read(path("ca-key.pem")).unwrap();

    fs::remove_file(path("ca-key.pem")).unwrap();
    assert!(error(folder.path()).contains("ca-cert.pem but not ca-key.pem"), "{}", error(folder.path()));
    fs::write(path("ca-key.pem"), "garbage").unwrap();
    assert!(error(folder.path()).contains("ca-key.pem"), "{}", error(folder.path()));
    fs::copy(other.path().join("ca-key.pem"), path("ca-key.pem")).unwrap();
    assert!(error(folder.path()).contains("is not the key of"), "{}", error(folder.path()));
    fs::write(path("ca-key.pem"), saved).unwrap();
    assert!(load(folder.path()).is_ok());
    fs::copy(other.path().join("root-cert.pem"), path("root-cert.pem")).unwrap();
    assert!(error(folder.path()).contains("does not verify against root-cert.pem"), "{}", error(folder.path()));
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(load(&file.join("ca")).err().unwrap().to_string().contains("file/ca"));
}

#[test]
fn a_plugged_in_intermediate_sends_its_chain() {
    let folder = tempfile::tempdir().unwrap();
    let authority_of = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let root_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let root = authority_of("root").self_signed(&root_key).unwrap();
    let issuer = Issuer::new(authority_of("root"), root_key);
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let middle = authority_of("middle").signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("root-cert.pem", root.pem());
    write("ca-cert.pem", middle.pem());
    write("cert-chain.pem", middle.pem() + &root.pem());
    write("ca-key.pem", key.serialize_pem());
    let chain = load(folder.path()).unwrap().sign(&csr(&[]), &identity(), HOUR, SystemTime::now()).unwrap();
    assert_eq!(chain.len(), 3, "leaf, intermediate, root bundle");
    assert_eq!(chain[2], root.pem());
}

/// Made by OpenSSL 3 (`openssl req -x509 -newkey rsa:2048`, key as PKCS#1), as operators plug them in.
#[test]
fn a_plugged_in_rsa_root_signs() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let done = std::process::Command::new("openssl").args(args).current_dir(folder.path()).output();
        done.is_ok_and(|output| output.status.success())
    };
    let made = run(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/O=acme",
        "-keyout",
        "pkcs8.pem",
        "-out",
        "ca-cert.pem",
    ]) && run(&["rsa", "-traditional", "-in", "pkcs8.pem", "-out", "ca-key.pem"]);
    if !made {
        eprintln!("skipped: there is no openssl here");
        return;
    }
    fs::copy(folder.path().join("ca-cert.pem"), folder.path().join("root-cert.pem")).unwrap();
    assert!(fs::read_to_string(folder.path().join("ca-key.pem")).unwrap().contains("RSA PRIVATE KEY"));
    let authority = load(folder.path()).unwrap();
    assert!(authority.sign(&csr(&[]), &identity(), HOUR, SystemTime::now()).is_ok());
}
