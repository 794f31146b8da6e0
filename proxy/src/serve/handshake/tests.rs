//! Facts and refusals of terminated handshakes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{AllowedPeers, AlpnOffer, CallerAuth, MeshIdentity, MeshProtocol, server_name, testing::TestCa};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";

async fn handshake(
    client: &MeshIdentity,
    server: &MeshIdentity,
    now: UnixTime,
) -> Result<HandshakeFacts, HandshakeError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let config = server.server_config(MeshProtocol::Http, CallerAuth::Required, AlpnOffer::Http2.protocols());
        let (mut stream, facts) = terminate(Wire::new(tcp), config, Duration::from_secs(5), now).await?;
        let _ = stream.write_all(b"!").await;
        Ok(facts)
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let config = client.client_config(&AllowedPeers::only([B]), AlpnOffer::Http2);
        let mut stream = TlsConnector::from(config).connect(server_name("b.foo").unwrap(), tcp).await.unwrap();
        let _ = stream.read_exact(&mut [0]).await;
    };
    let (facts, ()) = tokio::join!(serve, dial);
    facts
}

#[tokio::test]
async fn a_handshake_tells_who_called_and_how() {
    let ca = TestCa::new("root");
    let ((_, a), (_, b)) = (ca.store(A), ca.store(B));
    for resumed in [false, true] {
        let facts = handshake(&a, &b, UnixTime::now()).await.unwrap();
        assert_eq!(facts.resumed, resumed);
        assert_eq!(&**facts.peer.unwrap().spiffe_uri().unwrap(), A);
        assert_eq!(facts.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(facts.version, Some(ProtocolVersion::TLSv1_3));
        assert!(facts.cipher_suite.unwrap().starts_with("TLS13_"));
    }
}

#[tokio::test]
async fn a_resumed_session_ends_with_its_certificate() {
    let ca = TestCa::new("root");
    let ((_, a), (_, b)) = (ca.store(A), ca.store(B));
    let now = UnixTime::now();
    handshake(&a, &b, now).await.unwrap();
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 7200));
    let refused = handshake(&a, &b, later).await;
    assert!(matches!(refused, Err(HandshakeError::Peer(InvalidPeer::Expired))), "{refused:?}");
}

#[tokio::test]
async fn a_client_that_says_nothing_runs_out_of_time() {
    let ca = TestCa::new("root");
    let (_, b) = ca.store(B);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let config = b.server_config::<&[u8]>(MeshProtocol::Tcp, CallerAuth::Required, &[]);
    let refused = terminate(Wire::new(tcp), config, Duration::from_millis(20), UnixTime::now()).await;
    assert!(matches!(refused, Err(HandshakeError::Timeout(_))));
}
