//! User certificates, over real handshakes.

use rustls::{
    ClientConfig,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;
use crate::tls::{
    NameCheck, Origination, OriginationSettings, PeerCertificate, TrustAnchors,
    testing::{Issued, Leaf, RSA_LEAF_KEY, TestCa, connect},
};

const HOST: &str = "shop.example.com";

fn site(ca: &TestCa) -> ServerCertificate {
    ca.issue(&Leaf { dns: &[HOST], ..Leaf::default() }).server_certificate()
}

fn client(ca: &TestCa, certificate: Option<&Issued>) -> Arc<ClientConfig> {
    let origination = Origination::new(OriginationSettings {
        anchors: TrustAnchors::from_pem(ca.pem().as_bytes()).unwrap(),
        names: NameCheck::DialledName,
        sni: None,
        certificate: certificate.map(Issued::client_certificate),
        alpn: vec![b"h2".to_vec()],
        limits: Default::default(),
    });
    Arc::clone(origination.unwrap().config())
}

fn mutual(ca: &TestCa, trust: ClientTrust) -> Arc<ServerConfig> {
    let settings = TerminationSettings { client: ClientAuth::Required(trust), ..TerminationSettings::simple(site(ca)) };
    Termination::new(settings).unwrap().config(&[b"h2"])
}

#[tokio::test]
async fn a_simple_listener_serves_and_negotiates() {
    let ca = TestCa::new("web");
    let termination = Termination::new(TerminationSettings::simple(site(&ca))).unwrap();
    let ends = connect(client(&ca, None), termination.config(&[b"h2"]), HOST).await;
    assert!(ends.is_ok(), "{}", ends.error());
    assert_eq!(ends.alpn().as_deref(), Some("h2"));
    let unknown_offer = termination.config(&[b"acme-tls/1"]);
    assert!(unknown_offer.alpn_protocols.is_empty(), "no common name: ALPN is left out, as Envoy does");
}

#[tokio::test]
async fn mutual_asks_for_a_certificate_of_its_own_ca() {
    let (web, users, foreign) = (TestCa::new("web"), TestCa::new("users"), TestCa::new("foreign"));
    let trust = || ClientTrust::from_pem(users.pem().as_bytes(), None).unwrap();
    let user = users.issue(&Leaf { dns: &["alice.example"], ..Leaf::default() });
    let stranger = foreign.issue(&Leaf::default());
    for (name, certificate, required, optional) in [
        ("a user", Some(&user), true, true),
        ("nobody", None, false, true),
        ("a stranger", Some(&stranger), false, false),
    ] {
        let ends = connect(client(&web, certificate), mutual(&web, trust()), HOST).await;
        assert_eq!(ends.is_ok(), required, "required, {name}: {}", ends.error());
        let settings =
            TerminationSettings { client: ClientAuth::Optional(trust()), ..TerminationSettings::simple(site(&web)) };
        let ends = connect(client(&web, certificate), Termination::new(settings).unwrap().config(&[b"h2"]), HOST).await;
        assert_eq!(ends.is_ok(), optional, "optional, {name}: {}", ends.error());
    }
}

#[tokio::test]
async fn a_fallback_takes_everyone_and_believes_only_its_own_ca() {
    let (web, users, foreign) = (TestCa::new("web"), TestCa::new("users"), TestCa::new("foreign"));
    let user = users.issue(&Leaf { dns: &["alice.example"], ..Leaf::default() });
    let stranger = foreign.issue(&Leaf { dns: &["alice.example"], ..Leaf::default() });
    let trust = ClientTrust::from_pem(users.pem().as_bytes(), None).unwrap();
    let settings =
        TerminationSettings { client: ClientAuth::Fallback(trust), ..TerminationSettings::simple(site(&web)) };
    let termination = Termination::new(settings).unwrap();
    for (name, certificate, is_proven) in
        [("a user", Some(&user), true), ("nobody", None, false), ("a stranger", Some(&stranger), false)]
    {
        let ends = connect(client(&web, certificate), termination.config(&[b"h2"]), HOST).await;
        assert!(ends.is_ok(), "{name}: {}", ends.error());
        let shown = certificate.map(|issued| PeerCertificate::from_chain(&issued.chain_der()).unwrap());
        assert_eq!(termination.proven(shown, UnixTime::now()).is_some(), is_proven, "{name}");
    }
}

#[tokio::test]
async fn names_and_hashes_narrow_the_users_further() {
    let (web, users) = (TestCa::new("web"), TestCa::new("users"));
    let alice = users.issue(&Leaf { dns: &["alice.example"], uris: &["spiffe://a/b"], ..Leaf::default() });
    let hash = PeerCertificate::from_chain(&alice.chain_der()).unwrap().fingerprint();
    let trust = |names: &[&str], hashes: &[[u8; 32]]| {
        let mut trust = ClientTrust::from_pem(users.pem().as_bytes(), None).unwrap();
        trust.subject_alt_names = names.iter().map(|name| Arc::from(*name)).collect();
        trust.certificate_hashes = hashes.iter().copied().collect();
        trust
    };
    for (name, trust, expected) in [
        ("her name", trust(&["alice.example"], &[]), true),
        ("her URI", trust(&["bob.example", "spiffe://a/b"], &[]), true),
        ("another name", trust(&["bob.example"], &[]), false),
        ("her certificate", trust(&[], &[hash]), true),
        ("another certificate", trust(&[], &[[7; 32]]), false),
    ] {
        let ends = connect(client(&web, Some(&alice)), mutual(&web, trust), HOST).await;
        assert_eq!(ends.is_ok(), expected, "{name}: {}", ends.error());
    }
}

/// Believes everything, and understands only some signatures.
#[derive(Debug)]
struct Credulous(Vec<SignatureScheme>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

fn credulous(schemes: &[SignatureScheme], versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(schemes.to_vec())))
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn of_two_certificates_the_one_that_the_client_understands_serves() {
    let ca = TestCa::new("web");
    let ecdsa = ca.issue(&Leaf { dns: &[HOST], ..Leaf::default() });
    let rsa = ca.issue(&Leaf { dns: &[HOST], key: Some(RSA_LEAF_KEY), ..Leaf::default() });
    let both = TerminationSettings {
        certificates: vec![rsa.server_certificate(), ecdsa.server_certificate()],
        ..TerminationSettings::simple(site(&ca))
    };
    let termination = Termination::new(both).unwrap();
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
    const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    for versions in [&[&TLS12][..], &[&TLS13]] {
        for (schemes, expected) in [(&[RSA, ECDSA][..], &ecdsa), (&[RSA], &rsa), (&[ECDSA], &ecdsa)] {
            let ends = connect(credulous(schemes, versions), termination.config(&[b"h2"]), HOST).await;
            assert!(ends.is_ok(), "{schemes:?}: {}", ends.error());
            let session = ends.client.as_ref().unwrap().get_ref().1;
            assert_eq!(session.peer_certificates().unwrap(), expected.chain_der(), "{schemes:?} {versions:?}");
        }
    }
}

#[tokio::test]
async fn versions_and_suites_outside_the_range_are_refused() {
    let ca = TestCa::new("web");
    let schemes = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    let build = |min_version, max_version, suites: &[&str]| {
        let cipher_suites = suites.iter().map(|name| Arc::from(*name)).collect();
        let algorithms = TlsAlgorithms { cipher_suites, ..TlsAlgorithms::default() };
        let simple = TerminationSettings::simple(site(&ca));
        Termination::new(TerminationSettings { min_version, max_version, algorithms, ..simple })
    };
    let (old, new) = (TlsVersion::V1_2, TlsVersion::V1_3);
    for (name, min, max, client, expected) in [
        ("1.2 to 1.3-only", new, new, &TLS12, false),
        ("1.3 to 1.3-only", new, new, &TLS13, true),
        ("1.3 to 1.2-only", old, old, &TLS13, false),
        ("1.2 to both", old, new, &TLS12, true),
    ] {
        let server = build(min, max, &[]).unwrap().config(&[b"h2"]);
        let ends = connect(credulous(schemes, &[client]), server, HOST).await;
        assert_eq!(ends.is_ok(), expected, "{name}: {}", ends.error());
    }
    let one = build(old, new, &["ECDHE-ECDSA-CHACHA20-POLY1305", "AES128-SHA"]).unwrap().config(&[b"h2"]);
    let ends = connect(credulous(schemes, &[&TLS12]), one, HOST).await;
    let suite = ends.client.as_ref().unwrap().get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
    for (name, client, expected) in [("1.2", &TLS12, false), ("1.3", &TLS13, true)] {
        let none = build(old, new, &["AES128-SHA"]).unwrap().config(&[b"h2"]);
        let ends = connect(credulous(schemes, &[client]), none, HOST).await;
        assert_eq!(ends.is_ok(), expected, "no suite is left, {name}: {}", ends.error());
    }
    assert!(build(old, old, &["AES128-SHA"]).is_err(), "nothing is left");
    assert!(build(new, old, &[]).is_err(), "an empty range");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = TestCa::new("web");
    let (one, other) = (ca.issue(&Leaf::default()), ca.issue(&Leaf::default()));
    let mixed = ServerCertificate::from_pem(one.chain.as_bytes(), other.key.as_bytes());
    assert!(matches!(mixed, Err(InvalidMaterial::KeyMismatch)));
    assert!(ServerCertificate::from_pem(b"", one.key.as_bytes()).is_err());
    assert!(ServerCertificate::from_pem(one.chain.as_bytes(), b"-----BEGIN PRIVATE KEY-----\nAA").is_err());
}
