//! Identities and their configurations, over real handshakes.

use std::time::Duration;

use palisade_model::listener::{TlsAlgorithms, TlsLimits};
use rustls_pki_types::UnixTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::tls::{
    HelloParse, parse_client_hello, server_name,
    testing::{Leaf, TestCa, connect, domains},
};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";
const NO_OFFER: [&[u8]; 0] = [];

fn http_server(identity: &MeshIdentity) -> Arc<ServerConfig> {
    identity.server_config(MeshProtocol::Http, CallerAuth::Required, AlpnOffer::Http1.protocols())
}

#[tokio::test]
async fn a_second_connection_resumes_and_still_shows_who_calls() {
    let ca = TestCa::new("root");
    let ((_, a), (_, b)) = (ca.store(A), ca.store(B));
    let client = a.client_config(&AllowedPeers::only([B]), AlpnOffer::Http1);
    let first = connect(Arc::clone(&client), http_server(&b), "b.foo").await;
    assert!(!first.resumed());
    let second = connect(client, http_server(&b), "b.foo").await;
    assert!(second.resumed());
    assert_eq!(&**second.caller().unwrap().spiffe_uri().unwrap(), A);
    let other_offer = a.client_config(&AllowedPeers::only([B]), AlpnOffer::Http2);
    let third = connect(other_offer, http_server(&b), "b.foo").await;
    assert!(third.resumed(), "the offers share their sessions");
    assert_eq!(third.alpn().as_deref(), Some("h2"), "the protocol is negotiated anew");
}

#[tokio::test]
async fn nothing_resumes_across_expected_identities_or_generations() {
    let ca = TestCa::new("root");
    let ((clients, a), (servers, b)) = (ca.store(A), ca.store(B));
    let narrow = a.client_config(&AllowedPeers::only([B]), AlpnOffer::Http1);
    assert!(!connect(Arc::clone(&narrow), http_server(&b), "b").await.resumed());
    let wide = a.client_config(&AllowedPeers::AnyInMesh, AlpnOffer::Http1);
    assert!(!connect(wide, http_server(&b), "b").await.resumed(), "other expected identities");

    let b2 = servers.install(ca.material(&ca.mesh(B)), UnixTime::now()).unwrap();
    assert!(!connect(Arc::clone(&narrow), http_server(&b2), "b").await.resumed(), "the server rotated");

    assert!(connect(Arc::clone(&narrow), http_server(&b2), "b").await.resumed());
    let a2 = clients.install(ca.material(&ca.mesh(A)), UnixTime::now()).unwrap();
    let rotated = a2.client_config(&AllowedPeers::only([B]), AlpnOffer::Http1);
    assert!(!connect(rotated, http_server(&b2), "b").await.resumed(), "the client rotated");
}

#[tokio::test]
async fn a_session_without_a_certificate_never_becomes_one_that_requires_it() {
    let ca = TestCa::new("root");
    let (_, b) = ca.store(B);
    let client = crate::tls::testing::raw_client(None, &ca.pem(), AllowedPeers::only([B]));
    let offered = b.server_config(MeshProtocol::Http, CallerAuth::Offered, &NO_OFFER);
    assert!(connect(Arc::clone(&client), offered, "b").await.is_ok());
    let required = b.server_config(MeshProtocol::Http, CallerAuth::Required, &NO_OFFER);
    assert!(!connect(client, required, "b").await.is_ok());
}

#[tokio::test]
async fn offers_are_answered_as_istio_answers_them() {
    let ca = TestCa::new("root");
    let ((_, a), (_, b)) = (ca.store(A), ca.store(B));
    for (offer, protocol, expected) in [
        (AlpnOffer::Http1, MeshProtocol::Http, Some("http/1.1")),
        (AlpnOffer::Http2, MeshProtocol::Http, Some("h2")),
        (AlpnOffer::Tcp, MeshProtocol::Tcp, Some("istio-peer-exchange")),
        (AlpnOffer::Http1, MeshProtocol::Tcp, Some("http/1.1")),
        // Nothing in common: Envoy goes on without ALPN.
        (AlpnOffer::Tcp, MeshProtocol::Http, None),
    ] {
        let server = b.server_config(protocol, CallerAuth::Required, offer.protocols());
        let ends = connect(a.client_config(&AllowedPeers::only([B]), offer), server, "b").await;
        assert!(ends.is_ok(), "{offer:?} {protocol:?}: {}", ends.error());
        assert_eq!(ends.alpn().as_deref(), expected, "{offer:?} {protocol:?}");
    }
}

#[test]
fn server_name_and_offer_go_out_as_istio_writes_them() {
    let ca = TestCa::new("root");
    let (_, a) = ca.store(A);
    for name in [
        "outbound_.9080_._.reviews.default.svc.cluster.local",
        "outbound_.9080_.v1_.reviews.default.svc.cluster.local",
        "outbound_.443_._.host.example.com",
    ] {
        for offer in [AlpnOffer::Http1, AlpnOffer::Http2, AlpnOffer::Tcp] {
            let config = a.client_config(&AllowedPeers::AnyInMesh, offer);
            let mut client = rustls::ClientConnection::new(config, server_name(name).unwrap()).unwrap();
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            let HelloParse::Complete(hello) = parse_client_hello(&wire) else { panic!("{name}") };
            assert_eq!(hello.server_name.as_deref(), Some(name));
            let names: Vec<&[u8]> = hello.alpn.iter().map(AsRef::as_ref).collect();
            assert_eq!(names, offer.protocols());
        }
    }
}

#[test]
fn equal_input_gives_the_same_configuration() {
    let ca = TestCa::new("root");
    let (_, a) = ca.store(A);
    let config = |names: [&str; 2], offer| a.client_config(&AllowedPeers::only(names), offer);
    assert!(Arc::ptr_eq(&config([A, B], AlpnOffer::Http1), &config([B, A], AlpnOffer::Http1)));
    assert!(!Arc::ptr_eq(&config([A, B], AlpnOffer::Http1), &config([A, B], AlpnOffer::Http2)));
    assert!(!Arc::ptr_eq(&config([A, B], AlpnOffer::Http1), &config([A, A], AlpnOffer::Http1)));
    assert!(Arc::ptr_eq(&http_server(&a), &http_server(&a)));
}

#[test]
fn what_cannot_serve_is_not_installed_and_the_former_identity_stays() {
    let (ca, foreign) = (TestCa::new("root"), TestCa::new("foreign"));
    let (store, first) = ca.store(A);
    let now = UnixTime::now();
    let install = |issued: &crate::tls::testing::Issued, bundle: &str, now| {
        store.install(issued.material(bundle), now).map(|identity| identity.generation()).map_err(|e| e.to_string())
    };
    let mesh = ca.mesh(A);
    assert!(install(&mesh, &foreign.pem(), now).unwrap_err().contains("does not chain"));
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 7200));
    assert!(install(&mesh, &ca.pem(), later).unwrap_err().contains("expired"));
    let two = ca.issue(&Leaf { uris: &[A, B], ..Leaf::default() });
    assert!(install(&two, &ca.pem(), now).unwrap_err().contains("2 URI names"));
    let swapped =
        IdentityMaterial::from_pem(mesh.chain.as_bytes(), ca.mesh(A).key.as_bytes(), ca.pem().as_bytes(), domains());
    assert!(matches!(swapped, Err(InvalidMaterial::KeyMismatch)));
    assert_eq!(store.current().unwrap().generation(), first.generation());
    assert_eq!(*store.generations().borrow(), 1);
    assert_eq!(install(&mesh, &ca.pem(), now), Ok(2));
    assert_eq!(*store.generations().borrow(), 2);
}

#[test]
fn debug_output_holds_no_key() {
    let ca = TestCa::new("root");
    let issued = ca.mesh(A);
    let material = ca.material(&issued);
    let (store, identity) = ca.store(A);
    let text = format!("{material:?} {store:?} {identity:?} {:?}", issued.server_certificate());
    assert!(text.contains(A));
    for line in issued.key.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!text.contains(line));
    }
    assert!(!text.contains("PRIVATE"));
    assert!(!text.to_lowercase().contains("secret"));
}

/// Clients keep connections open and open new ones while both sides rotate: none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_drops_no_connection() {
    const ROTATIONS: u64 = 20;
    let ca = Arc::new(TestCa::new("root"));
    let ((clients, _), (servers, _)) = (ca.store(A), ca.store(B));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Arc::clone(&servers);
    let server = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let config = http_server(&serving.current().unwrap());
            tokio::spawn(async move {
                let mut stream = TlsAcceptor::from(config).accept(tcp).await.unwrap();
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() {
                    stream.write_all(&byte).await.unwrap();
                }
            });
        }
    });
    let (stop, stopped) = watch::channel(false);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (clients, stopped) = (Arc::clone(&clients), stopped.clone());
            tokio::spawn(async move {
                let allowed = AllowedPeers::only([B]);
                let open = async || {
                    let config = clients.current().unwrap().client_config(&allowed, AlpnOffer::Http1);
                    let tcp = TcpStream::connect(address).await.unwrap();
                    TlsConnector::from(config).connect(server_name("b").unwrap(), tcp).await.unwrap()
                };
                let mut oldest = open().await;
                let mut echoes = 0_u64;
                while !*stopped.borrow() {
                    let mut fresh = open().await;
                    for stream in [&mut oldest, &mut fresh] {
                        stream.write_all(b"x").await.unwrap();
                        stream.read_exact(&mut [0]).await.unwrap();
                        echoes += 1;
                    }
                }
                echoes
            })
        })
        .collect();
    for _ in 0..ROTATIONS {
        clients.install(ca.material(&ca.mesh(A)), UnixTime::now()).unwrap();
        servers.install(ca.material(&ca.mesh(B)), UnixTime::now()).unwrap();
        let generation = servers.current().unwrap();
        let before = generation.server_handshakes();
        while generation.server_handshakes() < before + 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stop.send(true).unwrap();
    for worker in workers {
        assert!(worker.await.unwrap() > ROTATIONS);
    }
    server.abort();
}

#[tokio::test]
async fn handshakes_keep_within_the_mesh_s_bounds() {
    let ca = TestCa::new("root");
    let install = |uri: &str, min_version, curves: &[&str]| {
        let curves = curves.iter().map(|name| Arc::from(*name)).collect();
        let algorithms = TlsAlgorithms { curves, ..TlsAlgorithms::default() };
        let material = ca.material(&ca.mesh(uri)).limited(TlsLimits { min_version, algorithms });
        IdentityStore::new().install(material, UnixTime::now())
    };
    for (name, client, server, expected) in [
        ("a curve in common", &["X25519", "P-256"][..], &["P-256"][..], true),
        ("none in common", &["X25519"], &["P-256"], false),
    ] {
        let client = install(A, TlsVersion::V1_2, client).unwrap();
        let server = install(B, TlsVersion::V1_2, server).unwrap();
        let offer = client.client_config(&AllowedPeers::only([B]), AlpnOffer::Http1);
        let ends = connect(offer, http_server(&server), "b.foo").await;
        assert_eq!(ends.is_ok(), expected, "{name}: {}", ends.error());
    }
    let old = || {
        let issued = ca.mesh(A);
        let (_, own) = ca.store(A);
        let verifier = MeshServerVerifier::new(Arc::clone(own.roots()), AllowedPeers::AnyInMesh);
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap().dangerous();
        let builder = builder.with_custom_certificate_verifier(Arc::new(verifier));
        Arc::new(builder.with_client_auth_cert(issued.chain_der(), issued.key_der()).unwrap())
    };
    for (version, expected) in [(TlsVersion::V1_2, true), (TlsVersion::V1_3, false)] {
        let server = install(B, version, &[]).unwrap();
        let ends = connect(old(), http_server(&server), "b.foo").await;
        assert_eq!(ends.is_ok(), expected, "TLS 1.2 where {version:?} is the least: {}", ends.error());
    }
    assert!(install(A, TlsVersion::V1_2, &["P-521"]).is_err(), "no curve is left");
}
