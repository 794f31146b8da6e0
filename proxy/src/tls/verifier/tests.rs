//! Mesh peers, judged over real handshakes.

use rustls_pki_types::UnixTime;

use super::*;
use crate::tls::testing::{Issued, Leaf, RSA_LEAF_KEY, TestCa, connect, raw_client, raw_server};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";

/// Certificates that nobody may accept, with what the refusal says.
fn bad_certificates(ca: &TestCa, foreign: &TestCa) -> Vec<(&'static str, Issued, &'static str)> {
    let now = UnixTime::now().as_secs();
    vec![
        (
            "expired",
            ca.issue(&Leaf { uris: &[A], not_before: now - 100, not_after: now - 50, ..Leaf::default() }),
            "certificate expired",
        ),
        (
            "not yet valid",
            ca.issue(&Leaf { uris: &[A], not_before: now + 500, not_after: now + 900, ..Leaf::default() }),
            "not valid yet",
        ),
        ("foreign root of the same name", foreign.mesh(A), "BadSignature"),
        ("foreign root", TestCa::new("other").mesh(A), "UnknownIssuer"),
        ("two SPIFFE ids", ca.issue(&Leaf { uris: &[A, B], ..Leaf::default() }), "2 URI names"),
        ("a second URI of another kind", ca.issue(&Leaf { uris: &[A, "https://a"], ..Leaf::default() }), "2 URI names"),
        ("no name", ca.issue(&Leaf::default()), "0 URI names"),
        ("a DNS name only", ca.issue(&Leaf { dns: &["a.foo.svc"], ..Leaf::default() }), "0 URI names"),
        (
            "a URI that is no SPIFFE id",
            ca.issue(&Leaf { uris: &["https://cluster.local/ns/foo/sa/a"], ..Leaf::default() }),
            "not a SPIFFE id",
        ),
    ]
}

#[tokio::test]
async fn a_mesh_server_refuses_bad_clients() {
    let (ca, foreign) = (TestCa::new("root"), TestCa::new("root"));
    let own = ca.mesh(B);
    let mut cases = bad_certificates(&ca, &foreign);
    cases.push(("another trust domain", ca.mesh("spiffe://other.example/ns/foo/sa/a"), "not one of the mesh's"));
    cases.push((
        "a trust domain that begins like ours",
        ca.mesh("spiffe://cluster.local.evil/ns/foo/sa/a"),
        "not one of the mesh's",
    ));
    for auth in [CallerAuth::Required, CallerAuth::Offered] {
        let server = raw_server(&own, &ca.pem(), auth);
        for (name, issued, expected) in &cases {
            let client = raw_client(Some(issued), &ca.pem(), AllowedPeers::AnyInMesh);
            let ends = connect(client, Arc::clone(&server), "b").await;
            let error = ends.server.as_ref().expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
            assert!(ends.client.is_err(), "{name}: the client reads nothing");
        }
    }
}

#[tokio::test]
async fn a_mesh_client_refuses_bad_servers() {
    let (ca, foreign) = (TestCa::new("root"), TestCa::new("root"));
    let own = ca.mesh(B);
    for (name, issued, expected) in bad_certificates(&ca, &foreign) {
        let server = raw_server(&issued, &ca.pem(), CallerAuth::Required);
        let client = raw_client(Some(&own), &ca.pem(), AllowedPeers::AnyInMesh);
        let ends = connect(client, server, "a").await;
        let error = ends.client.as_ref().expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(ends.server.is_err(), "{name}: the server completes nothing");
    }
}

#[tokio::test]
async fn a_client_accepts_only_whom_it_expects() {
    let ca = TestCa::new("root");
    let own = ca.mesh(B);
    let peer = ca.issue(&Leaf { uris: &[A], dns: &["a.foo.example"], ..Leaf::default() });
    let server = raw_server(&peer, &ca.pem(), CallerAuth::Required);
    for (name, allowed, expected) in [
        ("anybody", AllowedPeers::AnyInMesh, true),
        ("its identity", AllowedPeers::only([A, B]), true),
        ("its DNS name", AllowedPeers::only(["a.foo.example"]), true),
        ("another identity", AllowedPeers::only([B]), false),
        ("nobody", AllowedPeers::only::<&str>([]), false),
    ] {
        let ends = connect(raw_client(Some(&own), &ca.pem(), allowed), Arc::clone(&server), "ignored.example").await;
        assert_eq!(ends.is_ok(), expected, "{name}: {}", ends.error());
        if !expected {
            assert!(ends.error().contains(A), "the refusal names who answered: {}", ends.error());
        }
    }
}

#[tokio::test]
async fn without_a_certificate_required_refuses_and_offered_accepts() {
    let ca = TestCa::new("root");
    let own = ca.mesh(B);
    let client = || raw_client(None, &ca.pem(), AllowedPeers::only([B]));
    let ends = connect(client(), raw_server(&own, &ca.pem(), CallerAuth::Required), "b").await;
    assert!(!ends.is_ok());
    let ends = connect(client(), raw_server(&own, &ca.pem(), CallerAuth::Offered), "b").await;
    assert!(ends.is_ok(), "{}", ends.error());
    assert!(ends.caller().is_none());
}

#[tokio::test]
async fn rsa_chains_are_accepted_both_ways_and_mix_with_ecdsa() {
    let (rsa, ecdsa) = (TestCa::rsa("rsa root"), TestCa::new("ecdsa root"));
    let bundle = format!("{}{}", rsa.pem(), ecdsa.pem());
    let rsa_leaf = rsa.issue(&Leaf { uris: &[A], key: Some(RSA_LEAF_KEY), ..Leaf::default() });
    let ecdsa_under_rsa = rsa.mesh(B);
    let ecdsa_leaf = ecdsa.mesh(B);
    for (name, client, server) in [
        ("RSA to RSA", &rsa_leaf, &rsa_leaf),
        ("RSA to ECDSA under RSA", &rsa_leaf, &ecdsa_under_rsa),
        ("ECDSA to RSA", &ecdsa_leaf, &rsa_leaf),
        ("RSA to ECDSA", &rsa_leaf, &ecdsa_leaf),
    ] {
        let client = raw_client(Some(client), &bundle, AllowedPeers::AnyInMesh);
        let ends = connect(client, raw_server(server, &bundle, CallerAuth::Required), "x").await;
        assert!(ends.is_ok(), "{name}: {}", ends.error());
        assert!(ends.caller().unwrap().spiffe_id().is_some(), "{name}");
    }
}

#[test]
fn certificates_that_are_garbage_are_errors_not_panics() {
    let ca = TestCa::new("root");
    let good = ca.mesh(A).chain_der().remove(0);
    let verifier = MeshClientVerifier::new(
        Arc::new({
            let mut roots = RootCertStore::empty();
            roots.add(good.clone()).unwrap();
            roots
        }),
        Arc::new(crate::tls::testing::domains()),
        CallerAuth::Required,
    )
    .unwrap();
    let server = MeshServerVerifier::new(Arc::new(RootCertStore::empty()), AllowedPeers::AnyInMesh);
    let name = ServerName::try_from("x").unwrap();
    for cut in 0..good.len() {
        for flip in [0x00, 0x01, 0x80, 0xff] {
            let mut bytes = good[..cut].to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= flip;
            }
            let broken = CertificateDer::from(bytes);
            assert!(verifier.verify_client_cert(&broken, &[], UnixTime::now()).is_err());
            assert!(server.verify_server_cert(&broken, &[], &name, &[], UnixTime::now()).is_err());
        }
    }
    for position in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[position] ^= 0x55;
        let broken = CertificateDer::from(bytes);
        if let Ok(peer) = PeerCertificate::from_chain(std::slice::from_ref(&broken)) {
            let _ = (peer.subject(), peer.check_period(UnixTime::now()), peer.spiffe_id(), peer.fingerprint());
        }
        assert!(server.verify_server_cert(&broken, &[], &name, &[], UnixTime::now()).is_err());
    }
}
