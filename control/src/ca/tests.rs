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

fn generated() -> Material {
    Material::generate(&domain(), SystemTime::now()).unwrap()
}

fn made(material: &Material) -> CertificateAuthority {
    material.clone().authority(Path::new("here"), SystemTime::now()).unwrap()
}

#[test]
fn a_root_is_replaced_in_steps_that_can_be_taken_back() {
    let step = |material: &Material, way| material.clone().step(way, &domain(), SystemTime::now());
    let start = generated();
    let old = made(&start).trust().signing;
    assert!(matches!(step(&start, Direction::Back), Err(NoStep::NothingToTakeBack)));
    let distributing = step(&start, Direction::Forward).unwrap();
    let signing = step(&distributing, Direction::Forward).unwrap();
    let end = step(&signing, Direction::Forward).unwrap();
    let (first, second, last) = (made(&distributing), made(&signing), made(&end));
    assert_eq!((first.phase(), first.trust().signing, first.trusted().len()), (Some(Phase::Distributing), old, 2));
    assert_eq!((second.phase(), second.trusted().len()), (Some(Phase::Signing), 2));
    assert_ne!(second.trust().signing, old);
    assert_eq!((last.phase(), last.trusted().len(), last.trust().signing), (None, 1, second.trust().signing));
    let subjects: Vec<_> = second.trusted().values().map(|root| &root.subject).collect();
    assert_ne!(subjects[0], subjects[1], "lists of what is revoked find them by name");

    let back = made(&step(&signing, Direction::Back).unwrap());
    assert_eq!((back.trust(), back.phase()), (first.trust(), first.phase()));
    let dropped = made(&step(&distributing, Direction::Back).unwrap());
    assert_eq!((dropped.trust().signing, dropped.trusted().len()), (old, 1));
    for name in [CERTIFICATE, KEY, ROOTS, CHAIN, REVOKED, PHASE, OTHER_CERTIFICATE, OTHER_KEY] {
        assert_eq!(end.texts().iter().filter(|(own, _)| *own == name).count(), 1, "{name} is kept");
    }
}

#[test]
fn a_plugged_in_intermediate_is_replaced_by_whoever_plugged_it_in() {
    let mut material = generated();
    material.roots = generated().roots;
    assert!(matches!(material.step(Direction::Forward, &domain(), SystemTime::now()), Err(NoStep::PluggedIn)));
}

#[test]
fn an_authority_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    drop(load(folder.path()).unwrap());
    let old = read_material(folder.path()).unwrap();
    let next = old.clone().step(Direction::Forward, &domain(), SystemTime::now()).unwrap();
    let expected = made(&next).trust().clone();
    // A crash before all is written: the old one.
    fs::create_dir(folder.path().join(".palisade-draft")).unwrap();
    fs::write(folder.path().join(".palisade-draft/ca-cert.pem"), "torn").unwrap();
    assert_eq!(load(folder.path()).unwrap().trust(), made(&old).trust());
    // A crash when all is written and some of it is in its place: the new one.
    let elsewhere = tempfile::tempdir().unwrap();
    write_material(elsewhere.path(), &next).unwrap();
    let coming = folder.path().join(".palisade-coming");
    fs::create_dir(&coming).unwrap();
    for (name, text) in next.texts() {
        let Some(text) = text else { continue };
        let place = if name == KEY { folder.path() } else { &coming };
        fs::write(place.join(name), text).unwrap();
    }
    fs::write(coming.join("gone"), "ca-crl.pem\nother.txt\n").unwrap();
    fs::write(folder.path().join("ca-crl.pem"), "to go").unwrap();
    fs::write(folder.path().join("other.txt"), "not ours").unwrap();
    assert_eq!(load(folder.path()).unwrap().trust(), &expected);
    assert!(!coming.exists() && !folder.path().join("ca-crl.pem").exists() && folder.path().join("other.txt").exists());
    // Back: what belonged to the step is gone.
    write_material(folder.path(), &old).unwrap();
    assert_eq!(load(folder.path()).unwrap().trust(), made(&old).trust());
    assert!(!folder.path().join("rotation").exists());
}

#[test]
fn half_of_a_step_is_named() {
    let folder = tempfile::tempdir().unwrap();
    drop(load(folder.path()).unwrap());
    fs::write(folder.path().join("rotation"), "signing").unwrap();
    assert!(load(folder.path()).err().unwrap().to_string().contains("rotation-ca-key.pem"));
    for name in ["rotation-ca-cert.pem", "rotation-ca-key.pem"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    fs::write(folder.path().join("rotation"), "waltzing").unwrap();
    assert!(load(folder.path()).err().unwrap().to_string().contains("`distributing`"));
}

#[test]
fn what_is_revoked_is_judged_and_what_cannot_be_read_closes() {
    let mut material = generated();
    let chain = made(&material).sign(&csr(&[]), &identity(), HOUR, SystemTime::now()).unwrap();
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let judge = |material: &Material| made(material).judge(std::slice::from_ref(&leaf), SystemTime::now());
    judge(&material).unwrap();
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    let revoked = |serial: &[u8], key: &str| {
        let issuer = Issuer::from_ca_cert_pem(&material.certificate, KeyPair::from_pem(key).unwrap()).unwrap();
        let revoked = rcgen::RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&issuer).unwrap().pem().unwrap()
    };
    let (its, other) = (revoked(parsed.raw_serial(), &material.key), revoked(&[7], &material.key));
    let forged = revoked(&[7], &generated().key);
    material.revoked = Some(other);
    judge(&material).unwrap();
    assert_eq!(made(&material).revocation().revoked, 1);
    assert!(made(&material).revocation().next_update.is_some_and(|next| next < SystemTime::now()));
    material.revoked = Some(its);
    assert!(judge(&material).unwrap_err().contains("evoked"));
    for (text, expected) in
        [("garbage", "no revocation list"), (&forged, "is not signed by"), (&chain[0], "no revocation")]
    {
        material.revoked = Some(text.to_owned());
        let authority = made(&material);
        let refusal = authority.trust().refusal.clone().unwrap();
        assert!(refusal.contains("here/ca-crl.pem") && refusal.contains(expected), "{refusal}");
        assert!(judge(&material).is_err());
    }
}
