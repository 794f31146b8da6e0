//! Admission on real sockets: sidecar inbound, captured outbound, gateway.

use futures::{FutureExt, future::BoxFuture};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    serve::listener::{Bind, ListenerOptions, ListenerSet, ServeConnection},
    tls::{
        AllowedPeers, AlpnOffer, NameCheck, Origination, OriginationSettings, TerminationSettings, TrustAnchors,
        server_name,
        testing::{Leaf, TestCa, raw_client},
    },
};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";
const TIMEOUTS: AdmissionTimeouts =
    AdmissionTimeouts { detection: Some(Duration::from_millis(100)), handshake: Duration::from_secs(5) };

/// Hands accepted connections to the test. One at a time: tests open one after the other.
struct HandOver(mpsc::Sender<Accepted>);

impl ServeConnection for HandOver {
    fn serve(&self, connection: Accepted) -> BoxFuture<'static, ()> {
        let sender = self.0.clone();
        async move {
            let _ = sender.send(connection).await;
        }
        .boxed()
    }
}

struct Bench {
    _set: ListenerSet,
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
    ca: TestCa,
    identities: Arc<IdentityStore>,
    registry: LiveRegistry,
}

impl Bench {
    async fn new() -> Self {
        let (sender, accepted) = mpsc::channel(1);
        let mut set = ListenerSet::new(Arc::new(HandOver(sender)));
        let key = ListenerKey::new("in");
        let address = "127.0.0.1:0".parse().unwrap();
        assert!(
            set.reconcile(vec![Bind { key: key.clone(), address, options: ListenerOptions::default() }])
                .await
                .is_empty()
        );
        let ca = TestCa::new("root");
        let (identities, _) = ca.store(B);
        let address = set.local_address(&key).unwrap();
        Self { _set: set, address, accepted, ca, identities, registry: LiveRegistry::new() }
    }

    async fn open(&mut self) -> (TcpStream, Accepted) {
        let client = TcpStream::connect(self.address).await.unwrap();
        (client, self.accepted.recv().await.unwrap())
    }

    /// What becomes of a client that sends `bytes` to a port.
    async fn plain(&mut self, mode: MtlsMode, declared: DeclaredProtocol, bytes: &[u8]) -> (TcpStream, Admitted) {
        let (mut client, accepted) = self.open().await;
        client.write_all(bytes).await.unwrap();
        let port = InboundPort { mode, declared, timeouts: TIMEOUTS };
        let admitted = admit_mesh(accepted, None, port, &self.identities, &self.registry).await;
        (client, admitted)
    }

    /// What becomes of a TLS client.
    async fn tls(
        &mut self,
        mode: MtlsMode,
        declared: DeclaredProtocol,
        config: Arc<ClientConfig>,
    ) -> (io::Result<TlsStream<TcpStream>>, Admitted) {
        let (client, accepted) = self.open().await;
        let port = InboundPort { mode, declared, timeouts: TIMEOUTS };
        let name = server_name("outbound_.80_._.b.foo.svc.cluster.local").unwrap();
        let original_dst = Some("10.0.0.9:80".parse().unwrap());
        let admission = async {
            let admitted = admit_mesh(accepted, original_dst, port, &self.identities, &self.registry).await;
            match admitted {
                Ok(Downstream { tls: DownstreamTls::Passthrough(_), stream, .. }) => {
                    drop(stream); // the client would wait for ever
                    None
                }
                other => Some(other),
            }
        };
        let (client, admitted) = tokio::join!(TlsConnector::from(config).connect(name, client), admission);
        let admitted = admitted.unwrap_or_else(|| {
            Err(Box::new(Refused {
                listener: ListenerKey::new("passthrough"),
                peer: self.address,
                destination: self.address,
                reason: Reason::Ok,
                cause: RefusalCause::NotTls,
            }))
        });
        (client, admitted)
    }

    fn mesh_client(&self, offer: AlpnOffer) -> Arc<ClientConfig> {
        let (_, identity) = self.ca.store(A);
        identity.client_config(&AllowedPeers::only([B]), offer)
    }
}

async fn is_reset(mut client: TcpStream) -> bool {
    matches!(client.read(&mut [0; 16]).await, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn strict_resets_plaintext_and_silence() {
    let mut bench = Bench::new().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x00\x01"] {
        let (client, admitted) = bench.plain(MtlsMode::Strict, DeclaredProtocol::Auto, bytes).await;
        let refused = admitted.unwrap_err();
        assert_eq!(refused.reason, Reason::PeerRefused);
        assert!(matches!(refused.cause, RefusalCause::Mode(Refusal::Plaintext)));
        assert!(is_reset(client).await);
    }
    assert_eq!(bench.registry.counts().connections, 0);
}

#[tokio::test]
async fn permissive_serves_plaintext_unread() {
    let mut bench = Bench::new().await;
    let request = b"GET / HTTP/1.1\r\nhost: b\r\n\r\n";
    for (declared, expected) in [
        (DeclaredProtocol::Http, Payload::Http1),
        (DeclaredProtocol::Auto, Payload::Http1),
        (DeclaredProtocol::Tcp, Payload::Opaque),
    ] {
        let (client, admitted) = bench.plain(MtlsMode::Permissive, declared, request).await;
        let mut downstream = admitted.unwrap();
        assert_eq!(downstream.payload, expected, "{declared:?}");
        assert!(downstream.tls.principal().is_none());
        assert_eq!(downstream.peer, client.local_addr().unwrap());
        assert_eq!(downstream.destination(), bench.address);
        let mut read = vec![0; request.len()];
        downstream.stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, request);
        assert_eq!(bench.registry.counts().connections, 1);
    }
    let (_client, admitted) = bench.plain(MtlsMode::Permissive, DeclaredProtocol::Auto, b"").await;
    assert_eq!(admitted.unwrap().payload, Payload::Opaque, "a server that speaks first");
}

#[tokio::test]
async fn mesh_tls_proves_the_caller_and_picks_the_treatment() {
    let mut bench = Bench::new().await;
    for mode in [MtlsMode::Strict, MtlsMode::Permissive] {
        for (offer, declared, expected) in [
            (AlpnOffer::Http1, DeclaredProtocol::Auto, Payload::Http1),
            (AlpnOffer::Http2, DeclaredProtocol::Http, Payload::Http2),
            (AlpnOffer::Tcp, DeclaredProtocol::Auto, Payload::Opaque),
            (AlpnOffer::Http1, DeclaredProtocol::Tcp, Payload::Opaque),
            (AlpnOffer::Tcp, DeclaredProtocol::Http, Payload::Http1),
        ] {
            let config = bench.mesh_client(offer);
            let (client, admitted) = bench.tls(mode, declared, config).await;
            let mut client = client.unwrap();
            let mut downstream = admitted.unwrap();
            assert_eq!(downstream.payload, expected, "{mode:?} {offer:?} {declared:?}");
            assert_eq!(downstream.tls.principal().map(|uri| &**uri), Some(A));
            assert_eq!(downstream.registration.facts().principal.as_deref(), Some(A));
            assert_eq!(
                downstream.tls.server_name().map(|name| &**name),
                Some("outbound_.80_._.b.foo.svc.cluster.local")
            );
            assert_eq!(downstream.destination(), "10.0.0.9:80".parse().unwrap());
            client.write_all(b"hello").await.unwrap();
            let mut read = [0; 5];
            downstream.stream.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"hello");
            let http = downstream.into_http(None).unwrap();
            drop(http);
            assert_eq!(bench.registry.counts().connections, 0);
        }
    }
}

#[tokio::test]
async fn foreign_tls_passes_through_or_is_refused() {
    let mut bench = Bench::new().await;
    let browser = || raw_client(None, &TestCa::new("web").pem(), AllowedPeers::AnyInMesh);
    let (_, passed) = bench.tls(MtlsMode::Permissive, DeclaredProtocol::Auto, browser()).await;
    assert_eq!(passed.unwrap_err().listener.as_str(), "passthrough");
    let (client, refused) = bench.tls(MtlsMode::Permissive, DeclaredProtocol::Http, browser()).await;
    assert!(client.is_err());
    assert!(matches!(refused.unwrap_err().cause, RefusalCause::Mode(Refusal::ForeignTls)));
    let (_, refused) = bench.tls(MtlsMode::Strict, DeclaredProtocol::Auto, browser()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason, Reason::PeerRefused);
    assert!(matches!(refused.cause, RefusalCause::Handshake(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn without_an_identity_mesh_tls_is_refused() {
    let mut bench = Bench::new().await;
    bench.identities = Arc::new(IdentityStore::new());
    let config = bench.mesh_client(AlpnOffer::Http1);
    let (client, refused) = bench.tls(MtlsMode::Strict, DeclaredProtocol::Http, config).await;
    assert!(client.is_err());
    assert!(matches!(refused.unwrap_err().cause, RefusalCause::NoIdentity));
}

#[tokio::test]
async fn captured_connections_are_recognised_and_never_terminated() {
    let mut bench = Bench::new().await;
    let port = |declared, inspects_tls| CapturedPort { declared, inspects_tls, timeouts: TIMEOUTS };
    for (name, port, bytes, expected) in [
        ("HTTP", port(DeclaredProtocol::Http, false), &b"GET / HTTP/1.1\r\n\r\n"[..], Payload::Http1),
        ("detected", port(DeclaredProtocol::Auto, true), b"GET / HTTP/1.1\r\n\r\n", Payload::Http1),
        ("declared TCP waits for nothing", port(DeclaredProtocol::Tcp, false), b"", Payload::Opaque),
    ] {
        let (mut client, accepted) = bench.open().await;
        client.write_all(bytes).await.unwrap();
        let downstream = admit_captured(accepted, None, port, &bench.registry).await.unwrap();
        assert_eq!(downstream.payload, expected, "{name}");
        assert!(matches!(downstream.tls, DownstreamTls::Plaintext), "{name}");
    }
    let (client, accepted) = bench.open().await;
    let config = bench.mesh_client(AlpnOffer::Http1);
    let dialling = tokio::spawn(TlsConnector::from(config).connect(server_name("a.example").unwrap(), client));
    let port = port(DeclaredProtocol::Tcp, true);
    let downstream = admit_captured(accepted, None, port, &bench.registry).await.unwrap();
    assert!(
        matches!(&downstream.tls, DownstreamTls::Passthrough(hello) if hello.server_name.as_deref() == Some("a.example"))
    );
    dialling.abort();
}

/// A gateway port with one server of each kind.
fn gateway(web: &TestCa) -> GatewayPort {
    let site = web.issue(&Leaf { dns: &["shop.example"], ..Leaf::default() });
    let termination = Termination::new(TerminationSettings::simple(site.server_certificate())).unwrap();
    let mut servers = SniTable::new();
    for (host, name, tls) in [
        ("shop.example", "shop", GatewayTls::Terminate(Arc::new(termination))),
        ("*.raw.example", "raw", GatewayTls::Passthrough),
        ("mesh.example", "mesh", GatewayTls::Mesh),
        ("lost.example", "lost", GatewayTls::Unavailable),
        ("*.auto.example", "auto", GatewayTls::AutoPassthrough),
    ] {
        assert!(servers.insert(host, GatewayServer { name: name.into(), tls, payload: DeclaredProtocol::Http }));
    }
    GatewayPort {
        proxy_protocol: false,
        tls: Some(Arc::new(servers)),
        plaintext: DeclaredProtocol::Http,
        timeouts: TIMEOUTS,
    }
}

#[tokio::test]
async fn a_gateway_chooses_by_server_name() {
    let mut bench = Bench::new().await;
    let web = TestCa::new("web");
    let port = gateway(&web);
    let origination = Origination::new(OriginationSettings {
        anchors: TrustAnchors::from_pem(web.pem().as_bytes()).unwrap(),
        names: NameCheck::DialledName,
        sni: None,
        certificate: None,
        alpn: vec![b"h2".to_vec()],
        limits: Default::default(),
    });
    let browser = Arc::clone(origination.unwrap().config());
    let mesh = bench.mesh_client(AlpnOffer::Http2);
    for (host, config, expected) in [
        ("shop.example", &browser, "terminated shop"),
        ("a.b.raw.example", &browser, "passthrough raw"),
        ("mesh.example", &mesh, "mesh mesh"),
        ("mesh.example", &browser, "the TLS handshake failed"),
        ("lost.example", &browser, "server `lost` has no certificate"),
        ("x.auto.example", &browser, "server `auto` serves mesh clients only"),
        ("x.auto.example", &mesh, "passthrough auto"),
        ("other.example", &browser, "no server takes the server name `other.example`"),
    ] {
        let (client, accepted) = bench.open().await;
        let dialling = tokio::spawn(TlsConnector::from(Arc::clone(config)).connect(server_name(host).unwrap(), client));
        let outcome = match admit_gateway(accepted, &port, &bench.identities, &bench.registry).await {
            Ok(downstream) => {
                let kind = match downstream.tls {
                    DownstreamTls::Plaintext => "plaintext",
                    DownstreamTls::Mesh(_) => "mesh",
                    DownstreamTls::Terminated(_) => "terminated",
                    DownstreamTls::Passthrough(_) => "passthrough",
                };
                format!("{kind} {}", downstream.server.unwrap())
            }
            Err(refused) => refused.cause.to_string(),
        };
        assert!(outcome.starts_with(expected), "{host}: {outcome}");
        dialling.abort();
    }
    let (mut client, accepted) = bench.open().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let refused = admit_gateway(accepted, &port, &bench.identities, &bench.registry).await.unwrap_err();
    assert!(matches!(refused.cause, RefusalCause::NotTls));
    assert_eq!(refused.reason, Reason::NoFilterChain);
    assert!(is_reset(client).await);
}

#[tokio::test]
async fn a_proxy_header_names_the_client_and_its_absence_refuses() {
    let mut bench = Bench::new().await;
    let port = GatewayPort { proxy_protocol: true, tls: None, plaintext: DeclaredProtocol::Http, timeouts: TIMEOUTS };
    let (mut client, accepted) = bench.open().await;
    client.write_all(b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\nGET / HTTP/1.1\r\n\r\n").await.unwrap();
    let downstream = admit_gateway(accepted, &port, &bench.identities, &bench.registry).await.unwrap();
    assert_eq!(downstream.peer, "203.0.113.7:4711".parse().unwrap());
    assert_eq!(downstream.socket_peer, client.local_addr().unwrap());
    assert_eq!(downstream.payload, Payload::Http1);
    assert_eq!(downstream.registration.facts().peer, downstream.peer);

    let (mut client, accepted) = bench.open().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let refused = admit_gateway(accepted, &port, &bench.identities, &bench.registry).await.unwrap_err();
    assert!(matches!(refused.cause, RefusalCause::ProxyHeader(ProxyHeaderError::Missing)));
    assert!(is_reset(client).await);
}
