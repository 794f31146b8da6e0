//! Revoked leaves and intermediates, over real handshakes in both directions.

use rustls_pki_types::UnixTime;

use super::*;
use crate::tls::{
    AllowedPeers, CallerAuth, IdentityStore, MeshIdentity, MeshProtocol,
    alpn::AlpnOffer,
    testing::{Issued, TestCa, connect},
};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";

fn identity(own: &Issued, bundle: &str, lists: &str) -> Arc<MeshIdentity> {
    let revoked = Arc::new(Revoked::from_pem(lists).unwrap());
    IdentityStore::new().install(own.material(bundle).revoking(revoked), UnixTime::now()).unwrap()
}

/// Whether each side takes the other: the client the server, the server the client.
async fn meet(client: &MeshIdentity, server: &MeshIdentity) -> (Result<(), String>, Result<(), String>) {
    let client = client.client_config(&AllowedPeers::AnyInMesh, AlpnOffer::Http1);
    let server = server.server_config(MeshProtocol::Http, CallerAuth::Required, &["http/1.1"]);
    let ends = connect(client, server, "b").await;
    let text = |error: std::io::Error| error.to_string();
    (ends.client.map(drop).map_err(text), ends.server.map(drop).map_err(text))
}

#[tokio::test]
async fn a_revoked_leaf_or_intermediate_is_refused_in_both_directions() {
    let root = TestCa::new("root");
    let (good, bad) = (root.intermediate("good"), root.intermediate("bad"));
    let under = |authority: &TestCa, uri: &str| {
        let Issued { chain, key } = authority.mesh(uri);
        Issued { chain: format!("{chain}{}", authority.pem()), key }
    };
    let (a, b) = (under(&good, A), under(&bad, B));
    let lists = [
        ("a leaf", bad.revoking(&[&b.chain])),
        ("an intermediate", root.revoking(&[&bad.pem()])),
        ("among lists of others", format!("{}{}", good.revoking(&[]), root.revoking(&[&bad.pem()]))),
    ];
    for (name, lists) in &lists {
        // `a` knows what is revoked, `b` does not.
        let (knowing, revoked) = (identity(&a, &root.pem(), lists), identity(&b, &root.pem(), ""));
        let (client, _) = meet(&knowing, &revoked).await;
        assert!(client.as_ref().is_err_and(|error| error.contains("evoked")), "{name}, as server: {client:?}");
        let (_, server) = meet(&revoked, &knowing).await;
        assert!(server.as_ref().is_err_and(|error| error.contains("evoked")), "{name}, as client: {server:?}");
        assert!(identity(&b, &root.pem(), lists).is_revoked(UnixTime::now()), "{name}: it knows of itself");
    }
    // What is not taken back passes, whether its issuer has a list or not.
    for lists in [good.revoking(&[&b.chain]), bad.revoking(&[]), root.revoking(&[])] {
        let (knowing, other) = (identity(&a, &root.pem(), &lists), identity(&b, &root.pem(), ""));
        assert_eq!(meet(&knowing, &other).await, (Ok(()), Ok(())));
        assert_eq!(meet(&other, &knowing).await, (Ok(()), Ok(())));
    }
}

#[tokio::test]
async fn a_list_that_another_signed_trusts_nobody_of_that_authority() {
    let (root, forger) = (TestCa::new("root"), TestCa::new("root"));
    let (a, b) = (root.mesh(A), root.mesh(B));
    let (knowing, other) = (identity(&a, &root.pem(), &forger.revoking(&[])), identity(&b, &root.pem(), ""));
    let (client, _) = meet(&knowing, &other).await;
    assert!(client.as_ref().is_err_and(|error| error.contains("revocation lists")), "{client:?}");
    let (_, server) = meet(&other, &knowing).await;
    assert!(server.as_ref().is_err_and(|error| error.contains("revocation lists")), "{server:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_trusts_nobody() {
    let root = TestCa::new("root");
    let list = root.revoking(&[]);
    for text in ["garbage", &list.replace("END", "EN"), &root.pem(), &list.replacen("MI", "AA", 1)] {
        Revoked::from_pem(text).unwrap_err();
    }
    assert!(Revoked::from_pem(" \n").unwrap().lists().is_empty());
    let unknown = Arc::new(Revoked::unknown("it is torn".into()));
    let closed = root.mesh(A).material(&root.pem()).revoking(unknown);
    let closed = IdentityStore::new().install(closed, UnixTime::now()).unwrap();
    let other = identity(&root.mesh(B), &root.pem(), "");
    let (client, _) = meet(&closed, &other).await;
    assert!(client.as_ref().is_err_and(|error| error.contains("it is torn")), "{client:?}");
    let (_, server) = meet(&other, &closed).await;
    assert!(server.as_ref().is_err_and(|error| error.contains("it is torn")), "{server:?}");
}
