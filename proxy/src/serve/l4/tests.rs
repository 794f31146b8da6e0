//! Relays over memory and loopback sockets.

use std::net::Ipv4Addr;

use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
};

use super::*;
use crate::{
    serve::{
        listener::ListenerKey,
        registry::{LiveFacts, LiveKind, LiveRegistry},
    },
    tls::{AllowedPeers, AlpnOffer, CallerAuth, MeshProtocol, server_name, testing::TestCa},
};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";

fn registration(registry: &LiveRegistry) -> Registration {
    registry.register(LiveFacts {
        kind: LiveKind::Connection,
        listener: ListenerKey::new("tcp"),
        peer: "10.0.0.1:1".parse().unwrap(),
        destination: "10.0.0.2:2".parse().unwrap(),
        principal: None,
        sni: None,
        subject: None,
    })
}

/// A running relay between two pipes of 64 bytes, with the ends that client and server hold.
struct Running {
    client: DuplexStream,
    server: DuplexStream,
    counts: Arc<RelayCounts>,
    relay: tokio::task::JoinHandle<RelayEnd>,
}

fn run(limits: RelayLimits, registration: Registration) -> Running {
    let ((client, mut downstream), (mut upstream, server)) = (tokio::io::duplex(64), tokio::io::duplex(64));
    let counts = Arc::new(RelayCounts::default());
    let counted = Arc::clone(&counts);
    let relay =
        tokio::spawn(async move { relay(&mut downstream, &mut upstream, limits, &counted, &registration).await });
    Running { client, server, counts, relay }
}

#[tokio::test]
async fn half_close_travels_each_way_while_the_other_goes_on() {
    let registry = LiveRegistry::new();
    let Running { mut client, mut server, counts, relay } = run(RelayLimits::default(), registration(&registry));
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    assert!(!relay.is_finished(), "the answer is still to come");
    server.write_all(b"a longer answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"a longer answer");
    assert!(matches!(relay.await.unwrap(), RelayEnd::Finished));
    assert_eq!((counts.received(), counts.sent()), (8, 15));
    assert_eq!(registry.counts().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn idle_is_counted_from_the_last_byte_in_either_direction() {
    let registry = LiveRegistry::new();
    let limits = RelayLimits { idle: Some(Duration::from_secs(60)), ..RelayLimits::default() };
    let Running { mut client, mut server, relay, .. } = run(limits, registration(&registry));
    let begin = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(40)).await;
        server.write_all(b"y").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    }
    assert!(!relay.is_finished());
    let end = relay.await.unwrap();
    assert!(matches!(end, RelayEnd::Idle));
    assert_eq!(end.reason(), Reason::IdleTimeout);
    let quiet = begin.elapsed() - Duration::from_secs(240);
    assert!((60..=61).contains(&quiet.as_secs()), "{quiet:?}");
}

#[tokio::test]
async fn the_registry_ends_a_relay() {
    let registry = LiveRegistry::new();
    let Running { mut client, relay, .. } = run(RelayLimits::default(), registration(&registry));
    client.write_all(b"x").await.unwrap();
    assert_eq!(registry.close_all(Reason::AuthzDenied), 1);
    assert!(matches!(relay.await.unwrap(), RelayEnd::Revoked(Reason::AuthzDenied)));
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the client sees the end");
}

#[tokio::test]
async fn a_reader_that_stops_stops_its_writer() {
    let registry = LiveRegistry::new();
    let limits = RelayLimits { idle: None, buffer: 100 };
    let Running { mut client, server, counts, relay } = run(limits, registration(&registry));
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(50), client.write_all(&[0; 10])).await.is_ok() {
        sent += 10;
        assert!(sent < 1000);
    }
    // Two pipes of 64 bytes and one buffer of 100.
    assert!(sent <= 64 + 100 + 64, "{sent} bytes were taken");
    assert_eq!(counts.received(), 64);
    drop(server);
    assert!(matches!(relay.await.unwrap(), RelayEnd::UpstreamFailed(_)));
}

#[tokio::test]
async fn twenty_megabytes_pass_both_ways_at_once() {
    const SIZE: usize = 20 * 1024 * 1024;
    let registry = LiveRegistry::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front_address = front.local_addr().unwrap();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let guard = registration(&registry);
    let proxy = tokio::spawn(async move {
        let (mut downstream, _) = front.accept().await.unwrap();
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
        let mut upstream = dial(&Dial {
            address: target,
            source: Some(source),
            mark: None,
            timeout: Duration::from_secs(5),
            tls: None,
        })
        .await
        .unwrap();
        assert_eq!(upstream.tcp().local_addr().unwrap().ip(), source);
        let counts = RelayCounts::default();
        let end = relay(&mut downstream, &mut upstream, RelayLimits::default(), &counts, &guard).await;
        (counts.received(), counts.sent(), matches!(end, RelayEnd::Finished))
    });
    let client = TcpStream::connect(front_address).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let sender = tokio::spawn(async move {
        let block = vec![7; 1 << 16];
        for _ in 0..SIZE / block.len() {
            write.write_all(&block).await.unwrap();
        }
        write.shutdown().await.unwrap();
        write
    });
    let mut received = 0;
    let mut block = vec![0; 1 << 16];
    loop {
        match read.read(&mut block).await.unwrap() {
            0 => break,
            length => received += length,
        }
    }
    sender.await.unwrap();
    echo.await.unwrap();
    assert_eq!(received, SIZE);
    let size = u64::try_from(SIZE).unwrap();
    assert_eq!(proxy.await.unwrap(), (size, size, true));
}

#[tokio::test]
async fn mesh_tls_reaches_whom_it_expects_and_nobody_else() {
    let ca = TestCa::new("root");
    let ((_, a), (_, b)) = (ca.store(A), ca.store(B));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let offer = AlpnOffer::Tcp.protocols();
            let config = b.server_config(MeshProtocol::Tcp, CallerAuth::Required, offer);
            tokio::spawn(async move {
                if let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await {
                    let _ = stream.write_all(b"hello").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    let target = |allowed: AllowedPeers| Dial {
        address,
        source: None,
        mark: None,
        timeout: Duration::from_secs(5),
        tls: Some(DialTls {
            config: a.client_config(&allowed, AlpnOffer::Tcp),
            server_name: server_name("outbound_.5432_._.db.foo.svc.cluster.local").unwrap(),
        }),
    };
    let mut upstream = dial(&target(AllowedPeers::only([B]))).await.unwrap();
    let mut said = String::new();
    upstream.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "hello");
    let error = dial(&target(AllowedPeers::only([A]))).await.unwrap_err();
    assert!(matches!(error, DialError::Tls { .. }));
    assert!(error.to_string().contains(B), "{error}");
    server.abort();
}

#[tokio::test]
async fn what_cannot_be_reached_says_so_in_time() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = Dial { address: free, source: None, mark: None, timeout: Duration::from_secs(5), tls: None };
    assert!(matches!(dial(&plain).await.unwrap_err(), DialError::Connect { .. }));

    let unusable = Dial { source: Some("203.0.113.1".parse().unwrap()), ..plain.clone() };
    assert!(matches!(dial(&unusable).await.unwrap_err(), DialError::Socket { .. }));

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ca = TestCa::new("root");
    let (_, a) = ca.store(A);
    let tls = DialTls {
        config: a.client_config(&AllowedPeers::AnyInMesh, AlpnOffer::Tcp),
        server_name: server_name("x").unwrap(),
    };
    let address = silent.local_addr().unwrap();
    let waiting = Dial { address, source: None, mark: None, timeout: Duration::from_millis(50), tls: Some(tls) };
    assert!(matches!(dial(&waiting).await.unwrap_err(), DialError::Timeout { .. }));
    assert!(silent.accept().now_or_never().is_some());
}
