//! An in-process mesh: two sidecars and an application over loopback, on hand-made snapshots.

use std::{collections::BTreeSet, net::SocketAddr};

use palisade_model::{
    cluster::{Cluster, Discovery, MeshTls, UpstreamProtocol, UpstreamTls},
    listener::{InboundPort, MtlsMode, Protocol},
    policy::{Policy, PolicyId, PolicyMode, PolicySet},
    resource::Resource,
    route::{Backend, Fault, Forward, HeaderMutations, Rewrite, RouteAction, RouteEntry, RouteRule, VirtualHost},
    service::{Service, ServicePort},
    settings::ProxyKind,
};
use palisade_policy::{Operation, RuleAction, RuleSpec, TrustDomains, admit_rule, default_permit};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    server::{Role, Server},
    *,
};
use crate::{
    http::MeshApp,
    request::testing::{self, endpoint, endpoints, settings},
    serve::{Bind, ListenerKey, ListenerOptions, ListenerSet},
    telemetry::access_log::Capture,
    tls::testing::TestCa,
    transport::{ProxySettings, build_proxy},
};

mod again;
mod breaker;
mod decisions;
mod hostile;
mod providers;
mod traffic;

const VIP: &str = "10.96.0.7:9080";

struct Sidecar {
    runtime: Arc<Runtime>,
    log: Capture,
    address: SocketAddr,
    _listeners: ListenerSet,
}

async fn sidecar(ca: &TestCa, name: &str, role: Role, original: SocketAddr) -> Sidecar {
    sidecar_with(ca, name, role, original, RuntimeSettings::new(format!("foo/{name}"))).await
}

async fn sidecar_with(ca: &TestCa, name: &str, role: Role, original: SocketAddr, settings: RuntimeSettings) -> Sidecar {
    let (identities, _) = ca.store(&format!("spiffe://cluster.local/ns/foo/sa/{name}"));
    let log = Capture::default();
    let (access_log, _writer) = AccessLog::start(log.clone(), Counter::default()).unwrap();
    let runtime = Runtime::new(settings, identities, Arc::new(Metrics::new()), access_log);
    let app = MeshApp::new(Arc::clone(&runtime));
    let connector = runtime.transports.connector().clone();
    let proxy = build_proxy(app, connector, &ProxySettings { max_attempts: 16 }).await.unwrap();
    let server = Server::with_destination(Arc::clone(&runtime), proxy, role, Arc::new(move |_| Some(original)));
    let mut listeners = ListenerSet::new(server);
    let key = ListenerKey::new("test");
    let bind = Bind { key: key.clone(), address: "127.0.0.1:0".parse().unwrap(), options: ListenerOptions::default() };
    assert!(listeners.reconcile(vec![bind]).await.is_empty());
    let address = listeners.local_address(&key).unwrap();
    Sidecar { runtime, log, address, _listeners: listeners }
}

/// An application that answers each request with its own head.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut received = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    received.extend_from_slice(&buffer[..count]);
                    while let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") {
                        let head: Vec<u8> = received.drain(..end + 4).collect();
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        stream.write_all(&head).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

fn inbound_snapshot(port: u16, mtls: MtlsMode, policies: Vec<Policy>) -> Arc<Snapshot> {
    inbound_to(port, mtls, policies, UpstreamProtocol::Client)
}

fn inbound_to(port: u16, mtls: MtlsMode, policies: Vec<Policy>, protocol: UpstreamProtocol) -> Arc<Snapshot> {
    testing::snapshot(inbound_resources(port, mtls, policies, protocol))
}

fn inbound_resources(port: u16, mtls: MtlsMode, policies: Vec<Policy>, protocol: UpstreamProtocol) -> Vec<Resource> {
    let cluster = format!("inbound|{port}||");
    let mut set: Vec<PolicyId> = policies.iter().map(|policy| policy.id.clone()).collect();
    set.sort();
    let mut resources = vec![
        Resource::Settings(settings(ProxyKind::Sidecar)),
        Resource::Inbound(InboundPort {
            port: Some(port),
            protocol: Protocol::Http,
            mtls,
            cluster: cluster.as_str().into(),
            service: Some("b.foo.svc.cluster.local".into()),
            policies: "workload/foo/b".into(),
        }),
        Resource::Cluster(Cluster {
            protocol,
            tls: UpstreamTls::Off,
            ..testing::cluster(&cluster, Discovery::Workload { port: None })
        }),
        Resource::PolicySet(PolicySet { key: "workload/foo/b".into(), policies: set.into(), ..PolicySet::default() }),
    ];
    resources.extend(policies.into_iter().map(Resource::Policy));
    resources
}

fn outbound_snapshot(peer: SocketAddr) -> Arc<Snapshot> {
    outbound_with(&[peer], |_| {})
}

/// What the service's sidecars are called, with a change to its route rule.
fn outbound_with(peers: &[SocketAddr], change: impl FnOnce(&mut RouteRule)) -> Arc<Snapshot> {
    testing::snapshot(outbound_resources(peers, change))
}

fn outbound_resources(peers: &[SocketAddr], change: impl FnOnce(&mut RouteRule)) -> Vec<Resource> {
    let name = "outbound|9080||b.foo.svc.cluster.local";
    let mut behind = endpoints("b|9080", peers.iter().map(|peer| endpoint(&peer.to_string(), 1)).collect());
    behind.identities = BTreeSet::from(["spiffe://cluster.local/ns/foo/sa/b".parse().unwrap()]);
    let forward = Forward {
        backends: [Backend {
            cluster: name.into(),
            missing: None,
            weight: 1,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations { set: [("x-by".into(), "a".into())].into(), ..Default::default() },
            path: None,
        }]
        .into(),
        request_headers: HeaderMutations::default(),
        rewrite: Rewrite::default(),
        timeout: Some(Duration::from_secs(10)),
        retries: None,
        mirrors: [].into(),
        session: None,
    };
    let mut rule = RouteRule {
        key: "b".into(),
        source: "Service foo/b".into(),
        name: None,
        rule: 0,
        matches: [].into(),
        fault: Fault::default(),
        cors: None,
        action: RouteAction::Forward(forward),
        response_headers: HeaderMutations::default(),
    };
    change(&mut rule);
    vec![
        Resource::Settings(settings(ProxyKind::Sidecar)),
        Resource::Service(Service {
            host: "b.foo.svc.cluster.local".into(),
            namespace: "foo".into(),
            addresses: ["10.96.0.7".parse().unwrap()].into(),
            is_external: false,
            is_headless: false,
            names: [].into(),
            ports: [ServicePort {
                port: 9080,
                protocol: Protocol::Http,
                table: Some("outbound:9080".into()),
                l4_routes: [].into(),
                takes_any_address: false,
            }]
            .into(),
        }),
        Resource::VirtualHost(VirtualHost {
            table: "outbound:9080".into(),
            name: "b".into(),
            domains: ["b.foo.svc.cluster.local".parse().unwrap(), "b".parse().unwrap()].into(),
            https_redirect: false,
            entries: [RouteEntry { rule: "b".into(), alternative: 0 }].into(),
        }),
        Resource::Route(rule),
        Resource::Cluster(Cluster {
            protocol: UpstreamProtocol::Client,
            tls: UpstreamTls::Auto(MeshTls {
                sni: "outbound_.9080_._.b.foo.svc.cluster.local".into(),
                subject_alt_names: [].into(),
            }),
            ..testing::cluster(name, Discovery::Endpoints { key: "b|9080".into(), subset: Default::default() })
        }),
        Resource::Endpoints(behind),
    ]
}

fn deny_admin() -> Vec<Policy> {
    let rule = RuleSpec {
        id: PolicyId::of_rule("foo", "no-admin", 0),
        source: None,
        rule: Some(0),
        namespace: "foo".into(),
        action: RuleAction::Deny,
        mode: PolicyMode::Enforce,
        from: None,
        to: Some(vec![Operation { paths: vec!["/admin*".into()], ..Operation::default() }]),
        when: Vec::new(),
    };
    let domains = TrustDomains::new("cluster.local", Vec::<String>::new());
    let admitted = admit_rule(&rule, &domains);
    assert!(admitted.problems.is_empty(), "{:?}", admitted.problems);
    admitted.policies
}

/// One request on an open connection; the head and the body of the answer.
async fn ask(stream: &mut TcpStream, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: b\r\nuser-agent: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&received).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            return (head.to_ascii_lowercase(), body.to_owned());
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// Waits until the log holds a line of this kind.
async fn logged(log: &Capture, needle: &str) -> String {
    within(async {
        loop {
            if let Some(line) = log.text().lines().find(|line| line.contains(needle)) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

struct NoFilter;

impl source::LogFilter for NoFilter {
    fn current(&self) -> String {
        String::new()
    }

    fn replace(&self, _directives: &str) -> Result<(), String> {
        Ok(())
    }
}

struct Mesh {
    a: Sidecar,
    b: Sidecar,
    port: u16,
}

async fn mesh() -> Mesh {
    let ca = TestCa::new("mesh");
    let application = application().await;
    let b = sidecar(&ca, "b", Role::Inbound, application).await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    b.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Strict, vec![default_permit()])).unwrap();
    a.runtime.apply(outbound_snapshot(b.address)).unwrap();
    Mesh { a, b, port: application.port() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_crosses_the_mesh_with_its_identity_and_comes_out_as_it_went_in() {
    let mesh = mesh().await;
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    for _ in 0..3 {
        let (head, body) = within(ask(&mut client, "/x/../y?q=1")).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("x-by: a"), "{head}");
        let seen = body.to_ascii_lowercase();
        // One hop rides HTTP/2; the application meets the client's version, path normalised, identity named.
        assert!(seen.starts_with("get /y?q=1 http/1.1"), "{body}");
        assert!(seen.contains("host: b\r\n"), "{body}");
        assert!(seen.contains("uri=spiffe://cluster.local/ns/foo/sa/a"), "{body}");
        assert!(seen.contains("x-request-id: ") && !seen.contains("x-palisade-version"), "{body}");
    }
    assert_eq!(mesh.a.runtime.transports.connector().h2_connections(), 1);
    let line = logged(&mesh.b.log, "\"reason\":\"ok\"").await;
    assert!(line.contains("\"source\":\"spiffe://cluster.local/ns/foo/sa/a\"") && line.contains("mtls"), "{line}");
    let line = logged(&mesh.a.log, "\"reason\":\"ok\"").await;
    assert!(line.contains("outbound|9080||b.foo.svc.cluster.local") && line.contains("http/1.1"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_judges_the_next_request_of_an_open_connection_and_can_be_explained() {
    let mesh = mesh().await;
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    assert!(within(ask(&mut client, "/admin")).await.0.starts_with("http/1.1 200"));
    let mut policies = deny_admin();
    policies.push(default_permit());
    mesh.b.runtime.apply(inbound_snapshot(mesh.port, MtlsMode::Strict, policies)).unwrap();
    let (head, body) = within(ask(&mut client, "/admin")).await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
    assert_eq!(body, "RBAC: access denied");
    let id = head.lines().find_map(|line| line.strip_prefix("x-palisade-decision: ")).unwrap().to_owned();
    let source = source::RuntimeSource::new(Arc::clone(&mesh.b.runtime), Arc::new(NoFilter));
    let story = crate::admin::AdminSource::why(&*source, &id).unwrap();
    assert_eq!(
        (&story["decision"], &story["verdict"], &story["reason"]),
        (&id.as_str().into(), &"deny".into(), &"authz-denied".into())
    );
    assert_eq!(story["source"], "spiffe://cluster.local/ns/foo/sa/a");
    assert_eq!(story["request"]["path"], "/admin");
    assert_eq!(story["text"], "Denied by foo/no-admin[0].");
    let line = logged(&mesh.b.log, "authz-denied").await;
    assert!(line.contains("foo/no-admin[0]") || line.contains(&id), "{line}");
    assert!(within(ask(&mut client, "/other")).await.0.starts_with("http/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_refused_under_strict() {
    let mesh = mesh().await;
    let mut client = TcpStream::connect(mesh.b.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    let mut buffer = [0; 64];
    let end = within(client.read(&mut buffer)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    logged(&mesh.b.log, "peer-refused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_peer_is_an_upstream_connect_failure() {
    let mesh = mesh().await;
    mesh.a.runtime.apply(outbound_snapshot("127.0.0.1:1".parse().unwrap())).unwrap();
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    let (head, _) = within(ask(&mut client, "/")).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    logged(&mesh.a.log, "upstream-connect").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_yet_is_not_passed_through() {
    let mesh = mesh().await;
    let mut client = TcpStream::connect(mesh.a.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: unknown.example\r\n\r\n").await.unwrap();
    logged(&mesh.a.log, "config-unavailable").await;
}
