//! Retries, faults, timeouts, upgrades, opaque bytes and on-demand destinations through the same in-process mesh.

use std::sync::atomic::{AtomicU32, Ordering};

use palisade_model::{
    listener::Protocol,
    route::{FaultAbort, PathRewrite, Percent, Redirect, RedirectPort, RetryOn, RetryPolicy},
    service::{L4Backend, L4Route, Lookup},
};

use super::*;

fn dead() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

fn forward_of(rule: &mut RouteRule) -> &mut Forward {
    match &mut rule.action {
        RouteAction::Forward(forward) => forward,
        _ => panic!("the rule forwards"),
    }
}

fn retries(on: &[RetryOn]) -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        per_try: None,
        on: on.iter().copied().collect(),
        statuses: BTreeSet::new(),
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(2),
        avoid_previous: true,
        leaves_locality: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_failure_is_retried_elsewhere_and_never_seen() {
    let mesh = mesh().await;
    let snapshot = outbound_with(&[dead(), mesh.b.address], |rule| {
        forward_of(rule).retries = Some(retries(&[RetryOn::ConnectFailure]));
    });
    mesh.a.runtime.apply(snapshot).unwrap();
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    for _ in 0..12 {
        let (head, _) = within(ask(&mut client, "/")).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    logged(&mesh.a.log, "\"attempts\":2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_redirects_and_rewrites_are_answered_as_configured() {
    let mesh = mesh().await;
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    mesh.a
        .runtime
        .apply(outbound_with(&[mesh.b.address], |rule| {
            rule.fault.abort = Some((FaultAbort::Http(555), Percent::ALWAYS));
        }))
        .unwrap();
    assert!(within(ask(&mut client, "/")).await.0.starts_with("http/1.1 555"));
    mesh.a
        .runtime
        .apply(outbound_with(&[mesh.b.address], |rule| {
            let path = Some(PathRewrite::Full("/new".into()));
            let port = RedirectPort::ProtocolDefault;
            rule.action = RouteAction::Redirect(Redirect { scheme: None, authority: None, port, path, status: 302 });
        }))
        .unwrap();
    let (head, _) = within(ask(&mut client, "/old?q")).await;
    assert!(head.starts_with("http/1.1 302") && head.contains("location: http://b/new?q"), "{head}");
    mesh.a
        .runtime
        .apply(outbound_with(&[mesh.b.address], |rule| {
            forward_of(rule).rewrite.path = Some(PathRewrite::Full("/inner".into()));
            forward_of(rule).rewrite.authority = Some("inner.example".into());
        }))
        .unwrap();
    let (_, body) = within(ask(&mut client, "/outer?q=1")).await;
    let body = body.to_ascii_lowercase();
    assert!(body.starts_with("get /inner?q=1 ") && body.contains("host: inner.example\r\n"), "{body}");
    assert!(body.contains("x-envoy-original-path: /outer?q=1"), "{body}");
}

/// Accepts and never answers.
pub(super) async fn silence() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_takes_too_long_is_answered_504() {
    let ca = TestCa::new("mesh");
    let application = silence().await;
    let b = sidecar(&ca, "b", Role::Inbound, application).await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    b.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Strict, vec![default_permit()])).unwrap();
    let snapshot = outbound_with(&[b.address], |rule| {
        forward_of(rule).timeout = Some(Duration::from_millis(300));
    });
    a.runtime.apply(snapshot).unwrap();
    let mut client = TcpStream::connect(a.address).await.unwrap();
    let (head, body) = within(ask(&mut client, "/")).await;
    assert!(head.starts_with("http/1.1 504"), "{head}");
    assert_eq!(body, "upstream request timeout");
    logged(&a.log, "\"reason\":\"timeout\"").await;
}

/// Switches protocols, then says everything back.
async fn echo_after_upgrade() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                assert!(String::from_utf8_lossy(&head).to_ascii_lowercase().contains("upgrade: websocket"));
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap_or_default();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_tunnel_crosses_both_hops() {
    let ca = TestCa::new("mesh");
    let application = echo_after_upgrade().await;
    let b = sidecar(&ca, "b", Role::Inbound, application).await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    b.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Strict, vec![default_permit()])).unwrap();
    a.runtime.apply(outbound_snapshot(b.address)).unwrap();
    let mut client = TcpStream::connect(a.address).await.unwrap();
    let request = b"GET /chat HTTP/1.1\r\nhost: b\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut head = Vec::new();
    within(async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
    })
    .await;
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    for size in [1, 1000, 100_000] {
        let sent = vec![7_u8; size];
        client.write_all(&sent).await.unwrap();
        let mut received = vec![0; size];
        within(client.read_exact(&mut received)).await.unwrap();
        assert_eq!(sent, received);
    }
}

/// Says everything back.
pub(super) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap_or_default();
            });
        }
    });
    address
}

pub(super) fn tcp_inbound(port: u16, policies: Vec<Policy>) -> Arc<Snapshot> {
    let snapshot = inbound_snapshot(port, MtlsMode::Strict, policies);
    let resources = snapshot.entries().values().map(|entry| match entry.resource() {
        Resource::Inbound(inbound) => Resource::Inbound(InboundPort { protocol: Protocol::Tcp, ..inbound.clone() }),
        other => other.clone(),
    });
    testing::snapshot(resources.collect())
}

pub(super) fn tcp_outbound(peer: SocketAddr) -> Arc<Snapshot> {
    let mut resources = outbound_resources(&[peer], |_| {});
    for resource in &mut resources {
        if let Resource::Service(service) = resource {
            let port = ServicePort {
                port: 9080,
                protocol: Protocol::Tcp,
                table: None,
                l4_routes: ["l4".into()].into(),
                takes_any_address: false,
            };
            service.ports = [port].into();
        }
    }
    resources.push(Resource::L4Route(L4Route {
        key: "l4".into(),
        source: "Service foo/b".into(),
        rule: 0,
        alternative: 0,
        sni: [].into(),
        destinations: [].into(),
        backends: [L4Backend {
            cluster: "outbound|9080||b.foo.svc.cluster.local".into(),
            is_missing: false,
            weight: 1,
        }]
        .into(),
    }));
    testing::snapshot(resources)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_bytes_cross_the_mesh_and_end_when_no_longer_permitted() {
    let ca = TestCa::new("mesh");
    let application = echo().await;
    let b = sidecar(&ca, "b", Role::Inbound, application).await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    b.runtime.apply(tcp_inbound(application.port(), vec![default_permit()])).unwrap();
    a.runtime.apply(tcp_outbound(b.address)).unwrap();
    let mut client = TcpStream::connect(a.address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut received = [0; 5];
    within(client.read_exact(&mut received)).await.unwrap();
    assert_eq!(&received, b"hello");
    // No permit any more: the connection that lives is closed.
    b.runtime.apply(tcp_inbound(application.port(), Vec::new())).unwrap();
    let end = within(client.read(&mut received)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let line = logged(&b.log, "authz-denied").await;
    assert!(line.contains("spiffe://cluster.local/ns/foo/sa/a"), "{line}");
    // And a new one is not let in.
    let mut client = TcpStream::connect(a.address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let end = within(client.read(&mut received)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// Answers every question by a snapshot that knows the service.
struct Knows {
    runtime: Arc<Runtime>,
    snapshot: Arc<Snapshot>,
    asked: Arc<AtomicU32>,
}

impl Lookups for Knows {
    fn ask(&self, _query: Query) -> BoxFuture<'static, Result<(), LookupUnavailable>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (runtime, snapshot) = (Arc::clone(&self.runtime), Arc::clone(&self.snapshot));
        Box::pin(async move {
            tokio::task::spawn_blocking(move || runtime.apply(snapshot)).await.unwrap().unwrap();
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_is_learnt_when_it_is_first_dialled() {
    let mesh = mesh().await;
    let nothing = testing::snapshot(vec![Resource::Settings(settings(ProxyKind::Sidecar))]);
    mesh.a.runtime.apply(nothing).unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let mut resources = outbound_resources(&[mesh.b.address], |_| {});
    resources.push(Resource::Lookup(Lookup {
        query: Query::Address("10.96.0.7".parse().unwrap()),
        services: ["b.foo.svc.cluster.local".into()].into(),
    }));
    let lookups = Knows {
        runtime: Arc::clone(&mesh.a.runtime),
        snapshot: testing::snapshot(resources),
        asked: Arc::clone(&asked),
    };
    mesh.a.runtime.set_lookups(Arc::new(lookups));
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    let (head, _) = within(ask(&mut client, "/")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_configurations_are_swapped() {
    let mesh = mesh().await;
    let (runtime, peer) = (Arc::clone(&mesh.a.runtime), mesh.b.address);
    let swapping = tokio::task::spawn_blocking(move || {
        for round in 0..50_u64 {
            let snapshot = outbound_with(&[peer], |rule| {
                forward_of(rule).timeout = Some(Duration::from_secs(10 + round));
            });
            runtime.apply(snapshot).unwrap();
        }
    });
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    for _ in 0..200 {
        assert!(within(ask(&mut client, "/")).await.0.starts_with("http/1.1 200"));
    }
    swapping.await.unwrap();
}

/// Clients of gRPC call an answer without trailers an internal error, unless its one header block ends the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_refusal_is_one_header_block_that_ends_the_stream() {
    let ca = TestCa::new("mesh");
    let application = application().await;
    let sidecar = sidecar(&ca, "b", Role::Inbound, application).await;
    // Nothing is permitted.
    sidecar.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Disable, Vec::new())).unwrap();
    let stream = TcpStream::connect(sidecar.address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post("http://b/a.B/C").header("content-type", "application/grpc").body(()).unwrap();
    let (answer, mut body) = send.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
    let answer = within(answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "7");
    assert!(answer.body().is_end_stream(), "a frame follows the header block");
    driver.abort();
}
