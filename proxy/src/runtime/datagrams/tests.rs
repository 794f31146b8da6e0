//! Datagrams through real sockets: what is permitted reaches its endpoint and comes back, everything else nobody hears of.

use std::net::IpAddr;

use palisade_model::{
    cluster::{Discovery, UpstreamTls},
    listener::{Chain, ChainHandler, Listener},
    policy::{Policy, PolicyId, PolicyMode, PolicySet},
    resource::Resource,
    service::{L4Backend, L4Route},
    settings::ProxyKind,
    snapshot::Snapshot,
};
use palisade_policy::{Operation, RuleAction, RuleSpec, TrustDomains, admit_rule, default_permit};
use prometheus_client::metrics::counter::Counter;

use super::*;
use crate::{
    request::testing,
    runtime::RuntimeSettings,
    serve::ListenerOptions,
    telemetry::{AccessLog, Metrics, access_log::Capture},
    tls::IdentityStore,
};

const CLUSTER: &str = "outbound|53/udp||dns";
const KEY: &str = "0.0.0.0:53/udp";

struct Edge {
    runtime: Arc<Runtime>,
    listeners: DatagramListeners,
    log: Capture,
    port: u16,
}

/// An endpoint that answers each datagram with its own name and what it got.
async fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), b":", &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

fn deny(port: u16) -> Vec<Policy> {
    let rule = RuleSpec {
        id: PolicyId::of_rule("foo", "no", 0),
        source: None,
        rule: Some(0),
        namespace: "foo".into(),
        action: RuleAction::Deny,
        mode: PolicyMode::Enforce,
        from: None,
        to: Some(vec![Operation { ports: vec![port.to_string()], ..Operation::default() }]),
        when: Vec::new(),
    };
    let admitted = admit_rule(&rule, &TrustDomains::new("cluster.local", Vec::<String>::new()));
    assert!(admitted.problems.is_empty(), "{:?}", admitted.problems);
    admitted.policies.into_iter().chain([default_permit()]).collect()
}

/// A listener on a port that leads to these endpoints.
fn snapshot(port: u16, endpoints: &[SocketAddr], policies: Vec<Policy>, tls: UpstreamTls) -> Arc<Snapshot> {
    let mut settings = testing::settings(ProxyKind::Gateway);
    settings.addresses = ["127.0.0.1".parse::<IpAddr>().unwrap()].into();
    let discovery = Discovery::Endpoints { key: "dns|53/udp".into(), subset: Default::default() };
    let mut cluster = testing::cluster(CLUSTER, discovery);
    cluster.tls = tls;
    let listed = endpoints.iter().map(|address| testing::endpoint(&address.to_string(), 1)).collect();
    let mut resources = vec![
        Resource::Settings(settings),
        Resource::Cluster(cluster),
        Resource::Endpoints(testing::endpoints("dns|53/udp", listed)),
        Resource::PolicySet(PolicySet {
            key: "gateway".into(),
            policies: policies.iter().map(|policy| policy.id.clone()).collect(),
            ..PolicySet::default()
        }),
        Resource::L4Route(L4Route {
            key: "UDPRoute/foo/dns/rules/0".into(),
            source: "UDPRoute foo/dns".into(),
            rule: 0,
            alternative: 0,
            sni: [].into(),
            destinations: [].into(),
            backends: [L4Backend { cluster: CLUSTER.into(), is_missing: false, weight: 1 }].into(),
        }),
        Resource::Listener(Listener {
            key: KEY.into(),
            address: Some("127.0.0.1".parse().unwrap()),
            port,
            declared_port: 53,
            chains: [Chain {
                name: "dns".into(),
                sni: [].into(),
                tls: None,
                handler: ChainHandler::Tcp { routes: ["UDPRoute/foo/dns/rules/0".into()].into() },
            }]
            .into(),
            policies: "gateway".into(),
            detects_misdirected: false,
            is_udp: true,
        }),
    ];
    resources.extend(policies.into_iter().map(Resource::Policy));
    testing::snapshot(resources)
}

/// A gateway that takes datagrams at a free port.
async fn edge(endpoints: &[SocketAddr], policies: impl Fn(u16) -> Vec<Policy>, tls: UpstreamTls) -> Edge {
    let capture = Capture::default();
    let (log, _writer) = AccessLog::start(capture.clone(), Counter::default()).unwrap();
    let settings = RuntimeSettings::new("foo/edge");
    let runtime = Runtime::new(settings, Arc::new(IdentityStore::new()), Arc::new(Metrics::new()), log);
    let mut listeners = DatagramListeners::new(Arc::clone(&runtime));
    let key = ListenerKey::new(KEY);
    let bind = Bind { key: key.clone(), address: "127.0.0.1:0".parse().unwrap(), options: ListenerOptions::default() };
    assert!(listeners.reconcile(vec![bind]).await.is_empty());
    let port = listeners.local_address(&key).unwrap().port();
    runtime.apply(snapshot(port, endpoints, policies(port), tls)).unwrap();
    Edge { runtime, listeners, log: capture, port }
}

async fn client(edge: &Edge) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", edge.port)).await.unwrap();
    socket
}

/// What comes back within the time that a loopback answer takes at the very worst.
async fn ask(client: &UdpSocket, text: &str) -> String {
    client.send(text.as_bytes()).await.unwrap();
    let mut buffer = [0; 2048];
    let length = tokio::time::timeout(Duration::from_secs(20), client.recv(&mut buffer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

async fn logged(log: &Capture, needle: &str) -> String {
    let found = async {
        loop {
            if let Some(line) = log.text().lines().find(|line| line.contains(needle)) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap_or_else(|_| panic!("{needle}: {}", log.text()))
}

#[tokio::test]
async fn a_sender_speaks_with_one_endpoint_and_hears_its_answers() {
    let endpoints = [echo("a").await, echo("b").await];
    let edge = edge(&endpoints, |_| vec![default_permit()], UpstreamTls::Off).await;
    let (one, two) = (client(&edge).await, client(&edge).await);
    let first = ask(&one, "hello").await;
    let name = first.split(':').next().unwrap().to_owned();
    assert_eq!(first, format!("{name}:hello"));
    for text in ["x", "", "another"] {
        assert_eq!(ask(&one, text).await, format!("{name}:{text}"), "a flow stays with its endpoint");
    }
    assert!(ask(&two, "me").await.ends_with(":me"), "senders do not get each other's answers");
    assert_eq!(edge.runtime.registry.counts().connections, 2);
}

#[tokio::test]
async fn what_a_policy_denies_reaches_nobody_and_is_told_once() {
    let endpoints = [echo("a").await];
    let edge = edge(&endpoints, deny, UpstreamTls::Off).await;
    let client = client(&edge).await;
    for _ in 0..5 {
        client.send(b"x").await.unwrap();
    }
    let allowed = snapshot(edge.port, &endpoints, vec![default_permit()], UpstreamTls::Off);
    // The record is written once the sender may be judged anew: when the configuration is another.
    let registered = async {
        while edge.runtime.registry.counts().connections == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), registered).await.unwrap();
    edge.runtime.apply(allowed).unwrap();
    let line = logged(&edge.log, "authz-denied").await;
    assert!(line.contains("\"udp\""), "{line}");
    let lines = edge.log.text().lines().count();
    assert_eq!(lines, 1, "one line for the whole flow: {}", edge.log.text());
    assert_eq!(ask(&client, "now").await, "a:now", "the next datagram is judged by what is in force");
}

#[tokio::test]
async fn a_flow_ends_when_its_policy_or_its_endpoint_goes() {
    let (a, b) = (echo("a").await, echo("b").await);
    let edge = edge(&[a], |_| vec![default_permit()], UpstreamTls::Off).await;
    let client = client(&edge).await;
    assert_eq!(ask(&client, "1").await, "a:1");
    edge.runtime.apply(snapshot(edge.port, &[b], vec![default_permit()], UpstreamTls::Off)).unwrap();
    logged(&edge.log, "no-endpoints").await;
    assert_eq!(ask(&client, "2").await, "b:2");
    edge.runtime.apply(snapshot(edge.port, &[b], deny(edge.port), UpstreamTls::Off)).unwrap();
    logged(&edge.log, "authz-denied").await;
}

#[tokio::test]
async fn nothing_is_sent_in_clear_where_a_document_asks_for_tls() {
    let endpoint = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let refuse = UpstreamTls::Refuse { message: "TLS is asked for".into() };
    let edge = edge(&[endpoint.local_addr().unwrap()], |_| vec![default_permit()], refuse).await;
    let client = client(&edge).await;
    client.send(b"secret").await.unwrap();
    logged(&edge.log, "upstream-connect").await;
    let mut buffer = [0; 16];
    assert!(endpoint.try_recv(&mut buffer).is_err(), "nothing has arrived");
}

#[tokio::test]
async fn a_socket_that_goes_ends_its_flows_and_frees_its_address() {
    let endpoints = [echo("a").await];
    let mut edge = edge(&endpoints, |_| vec![default_permit()], UpstreamTls::Off).await;
    let client = client(&edge).await;
    assert_eq!(ask(&client, "1").await, "a:1");
    assert!(edge.listeners.reconcile(Vec::new()).await.is_empty());
    edge.runtime.registry.empty().await;
    UdpSocket::bind(("127.0.0.1", edge.port)).await.unwrap();
}
