//! What lives is judged again by what is in force now: roots, client CAs, policies, what is known (architecture rule 8).

use std::pin::Pin;

use palisade_model::{
    external_authorization::{CheckService, ExternalAuthorization, ExternalCheck, ExternalProvider},
    listener::{Chain, ChainHandler, ClientValidation, Listener, ServerTls, ServerTlsMode, TlsAlgorithms, TlsVersion},
    secret::{PrivateKey, Secret},
};
use rustls::pki_types::{ServerName, UnixTime};
use tokio::{
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::oneshot,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    traffic::{echo, silence, tcp_inbound, tcp_outbound},
    *,
};
use crate::tls::{
    AllowedPeers,
    testing::{Issued, Leaf, raw_client},
};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";

/// Nothing more comes.
async fn ended(client: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let end = within(client.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{end:?} after {:?}", String::from_utf8_lossy(&rest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_root_is_gone_carries_no_other_request() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let application = application().await;
    let b = sidecar(&old, "b", Role::Inbound, application).await;
    let a = sidecar(&old, "a", Role::Outbound, VIP.parse().unwrap()).await;
    b.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Strict, vec![default_permit()])).unwrap();
    a.runtime.apply(outbound_snapshot(b.address)).unwrap();
    let mut client = TcpStream::connect(a.address).await.unwrap();
    assert!(within(ask(&mut client, "/")).await.0.starts_with("http/1.1 200"));
    let install = |bundle: String| {
        let own = old.mesh(B);
        let by_new = new.mesh(B);
        let own = if bundle.contains(&old.pem()) { own } else { by_new };
        b.runtime.identities.install(own.material(&bundle), UnixTime::now()).unwrap();
    };
    install(format!("{}{}", old.pem(), new.pem()));
    assert!(within(ask(&mut client, "/")).await.0.starts_with("http/1.1 200"));
    assert_eq!(a.runtime.transports.connector().h2_connections(), 1, "the connection is kept");
    install(new.pem());
    let (head, _) = within(ask(&mut client, "/")).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    logged(&b.log, "\"reason\":\"peer-refused\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_relay_ends_when_the_root_of_its_caller_goes() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let application = echo().await;
    let b = sidecar(&old, "b", Role::Inbound, application).await;
    let a = sidecar(&old, "a", Role::Outbound, VIP.parse().unwrap()).await;
    b.runtime.apply(tcp_inbound(application.port(), vec![default_permit()])).unwrap();
    a.runtime.apply(tcp_outbound(b.address)).unwrap();
    let following = tokio::spawn(Arc::clone(&b.runtime).follow_identities());
    let mut client = TcpStream::connect(a.address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    assert_eq!(within(client.read_u8()).await.unwrap(), b'x');
    b.runtime.identities.install(new.mesh(B).material(&new.pem()), UnixTime::now()).unwrap();
    ended(&mut client).await;
    logged(&b.log, "\"reason\":\"peer-refused\"").await;
    following.abort();
}

/// A gateway for `shop.example` whose clients need a certificate of this CA, which stands under this key.
fn gateway_snapshot(site: &Issued, key: &str, ca: &TestCa) -> Arc<Snapshot> {
    let chain = Chain {
        name: "shop".into(),
        sni: ["shop.example".parse().unwrap()].into(),
        tls: Some(ServerTls {
            mode: ServerTlsMode::Secrets {
                certificates: ["secret/foo/site".into()].into(),
                client: Some(ClientValidation {
                    ca: key.into(),
                    is_required: true,
                    subject_alt_names: [].into(),
                    tolerates_invalid: false,
                }),
            },
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            alpn: ["http/1.1".into()].into(),
            algorithms: TlsAlgorithms::default(),
        }),
        handler: ChainHandler::Http { tables: [].into() },
    };
    testing::snapshot(vec![
        Resource::Settings(settings(ProxyKind::Gateway)),
        Resource::PolicySet(PolicySet {
            key: "gateway".into(),
            policies: [default_permit().id].into(),
            ..PolicySet::default()
        }),
        Resource::Policy(default_permit()),
        Resource::Secret(Secret {
            key: "secret/foo/site".into(),
            certificate: Some(site.chain.as_str().into()),
            private_key: Some(PrivateKey::new(&site.key)),
            ca: None,
        }),
        Resource::Secret(Secret { key: key.into(), certificate: None, private_key: None, ca: Some(ca.pem().into()) }),
        Resource::Listener(Listener {
            key: "test".into(),
            address: None,
            port: 8443,
            declared_port: 443,
            chains: [chain].into(),
            policies: "gateway".into(),
            detects_misdirected: false,
            is_udp: false,
        }),
    ])
}

struct Shop {
    gateway: Sidecar,
    site: Issued,
    users: TestCa,
    connector: TlsConnector,
}

async fn shop() -> Shop {
    let (web, users) = (TestCa::new("web"), TestCa::new("users"));
    let site = web.issue(&Leaf { uris: &[B], dns: &["shop.example"], ..Leaf::default() });
    let user = users.issue(&Leaf { uris: &[A], ..Leaf::default() });
    let connector = TlsConnector::from(raw_client(Some(&user), &web.pem(), AllowedPeers::AnyInMesh));
    let gateway = sidecar(&web, "b", Role::Gateway, "127.0.0.1:8443".parse().unwrap()).await;
    gateway.runtime.apply(listening_at(&gateway, gateway_snapshot(&site, "secret/foo/users", &users))).unwrap();
    Shop { gateway, site, users, connector }
}

/// The gateway listens where the system found a free port.
fn listening_at(gateway: &Sidecar, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
    let resources = snapshot.entries().values().map(|entry| match entry.resource() {
        Resource::Listener(listener) => {
            Resource::Listener(Listener { port: gateway.address.port(), ..listener.clone() })
        }
        other => other.clone(),
    });
    testing::snapshot(resources.collect())
}

impl Shop {
    fn apply(&self, key: &str, ca: &TestCa) {
        self.gateway.runtime.apply(listening_at(&self.gateway, gateway_snapshot(&self.site, key, ca))).unwrap();
    }

    async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("shop.example").unwrap();
        within(self.connector.connect(name, stream)).await.unwrap()
    }
}

/// One request; the status line, empty where the connection ended instead.
async fn status_over(stream: &mut TlsStream<TcpStream>) -> String {
    if stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.is_err() {
        return String::new();
    }
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match within(stream.read(&mut buffer)).await {
            Ok(count @ 1..) => received.extend_from_slice(&buffer[..count]),
            Ok(0) | Err(_) => return String::new(),
        }
        if received.windows(4).any(|window| window == b"\r\n\r\n") {
            return String::from_utf8_lossy(&received).lines().next().unwrap_or_default().to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_stays_only_while_the_client_ca_of_its_gateway_vouches_for_it() {
    let shop = shop().await;
    let mut client = shop.connect(shop.gateway.address).await;
    assert!(status_over(&mut client).await.contains(" 404"), "no route");
    shop.apply("secret/foo/moved", &shop.users);
    assert!(status_over(&mut client).await.contains(" 404"), "the same CA under another key");
    shop.apply("secret/foo/moved", &TestCa::new("others"));
    assert_eq!(status_over(&mut client).await, "", "another CA under the same key");
    logged(&shop.gateway.log, "\"reason\":\"peer-refused\"").await;
}

/// What a gate holds back until it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// What the client says after its first words.
    TheClient,
    /// All that the server says.
    TheServer,
}

/// Where something waits, and how it goes on.
type Hold = (oneshot::Sender<()>, oneshot::Receiver<()>);

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, hold: Option<Hold>) -> std::io::Result<()> {
    if let Some((waits, opened)) = hold {
        from.readable().await?;
        let _ = waits.send(());
        drop(opened.await);
    }
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Stands between a client and a server; tells when something waits before it.
async fn gate(server: SocketAddr, holds: Holds) -> (SocketAddr, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (waits, waiting) = oneshot::channel();
    let (open, opened) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
        let mut first = vec![0; 65536];
        let count = from_client.read(&mut first).await.unwrap();
        to_server.write_all(&first[..count]).await.unwrap();
        let hold = Some((waits, opened));
        let (forth, back) = match holds {
            Holds::TheClient => (hold, None),
            Holds::TheServer => (None, hold),
        };
        drop(tokio::join!(pass(from_client, to_server, forth), pass(from_server, to_client, back)));
    });
    (address, waiting, open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_never_taken_for_one_of_a_ca_that_did_not_verify_it() {
    let shop = shop().await;
    let (address, waiting, open) = gate(shop.gateway.address, Holds::TheClient).await;
    let connecting = async {
        // With TLS 1.3 the client is done before its certificate is judged.
        let mut client = shop.connect(address).await;
        status_over(&mut client).await
    };
    let changing = async {
        within(waiting).await.unwrap();
        shop.apply("secret/foo/new", &TestCa::new("new"));
        open.send(()).unwrap();
    };
    let (status, ()) = tokio::join!(connecting, changing);
    assert_eq!(status, "");
    logged(&shop.gateway.log, "\"reason\":\"peer-refused\"").await;
}

/// A workload whose every host outside must be permitted, and none is; `knows`: the service is known.
fn restricted(peer: SocketAddr, knows: bool) -> Arc<Snapshot> {
    let mut resources = plain_outbound(peer);
    for resource in &mut resources {
        if let Resource::Settings(settings) = resource {
            settings.egress_policies = Some("egress".into());
        }
    }
    if !knows {
        resources.retain(|resource| matches!(resource, Resource::Settings(_)));
    }
    resources.push(Resource::PolicySet(PolicySet { key: "egress".into(), ..PolicySet::default() }));
    testing::snapshot(resources)
}

fn plain_outbound(peer: SocketAddr) -> Vec<Resource> {
    let mut resources = outbound_resources(&[peer], |_| {});
    for resource in &mut resources {
        if let Resource::Cluster(cluster) = resource {
            (cluster.tls, cluster.protocol) = (UpstreamTls::Off, UpstreamProtocol::Http1);
        }
    }
    resources
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_request_ends_where_its_host_is_not_known_any_more_to_policies() {
    let ca = TestCa::new("mesh");
    let application = silence().await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    a.runtime.apply(testing::snapshot(plain_outbound(application))).unwrap();
    let mut client = TcpStream::connect(a.address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: b.foo.svc.cluster.local\r\ncontent-length: 9\r\n\r\n1").await.unwrap();
    within(async {
        while a.runtime.registry.counts().streams == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    a.runtime.apply(restricted(application, true)).unwrap();
    assert_eq!(a.runtime.registry.counts().streams, 1, "what stays inside the mesh is no matter of egress policies");
    a.runtime.apply(restricted(application, false)).unwrap();
    let line = logged(&a.log, "\"path\":\"/\"").await;
    assert!(line.contains("\"reason\":\"config-unavailable\""), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_was_dialled_while_policies_changed_is_judged_by_the_new_ones() {
    let ca = TestCa::new("mesh");
    let application = echo().await;
    let b = sidecar(&ca, "b", Role::Inbound, application).await;
    b.runtime.apply(tcp_inbound(application.port(), vec![default_permit()])).unwrap();
    let (address, waiting, open) = gate(b.address, Holds::TheServer).await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    let outside = |set: Option<&str>| {
        let snapshot = tcp_outbound(address);
        let mut resources: Vec<Resource> = snapshot.entries().values().map(|entry| entry.resource().clone()).collect();
        for resource in &mut resources {
            match resource {
                Resource::Cluster(cluster) => cluster.is_external = true,
                Resource::Settings(settings) => settings.egress_policies = set.map(Into::into),
                _ => {}
            }
        }
        resources.push(Resource::PolicySet(PolicySet { key: "egress".into(), ..PolicySet::default() }));
        testing::snapshot(resources)
    };
    a.runtime.apply(outside(None)).unwrap();
    let mut client = TcpStream::connect(a.address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    within(waiting).await.unwrap();
    a.runtime.apply(outside(Some("egress"))).unwrap();
    open.send(()).unwrap();
    ended(&mut client).await;
    logged(&a.log, "\"reason\":\"egress-denied\"").await;
}

/// The inbound side of opaque bytes, all of which are put before a provider.
fn checked(port: u16, provider: SocketAddr, fails_open: bool) -> Arc<Snapshot> {
    let cluster = "outbound|9000||judge.foo.svc.cluster.local";
    let rule = RuleSpec {
        id: PolicyId::of_rule("foo", "all", 0),
        source: None,
        rule: Some(0),
        namespace: "foo".into(),
        action: RuleAction::Deny,
        mode: PolicyMode::Enforce,
        from: None,
        to: None,
        when: Vec::new(),
    };
    let admitted = admit_rule(&rule, &TrustDomains::new("cluster.local", Vec::<String>::new()));
    let mut ids: Vec<PolicyId> = admitted.policies.iter().map(|policy| policy.id.clone()).collect();
    ids.push(default_permit().id);
    ids.sort();
    let snapshot = tcp_inbound(port, vec![default_permit()]);
    let mut resources: Vec<Resource> = snapshot.entries().values().map(|entry| entry.resource().clone()).collect();
    resources.extend(admitted.policies.into_iter().map(Resource::Policy));
    let key = "custom/judge/workload/foo/b";
    resources.push(Resource::PolicySet(PolicySet { key: key.into(), policies: ids.into(), ..PolicySet::default() }));
    resources.push(Resource::ExternalAuthorization(ExternalAuthorization {
        key: "workload/foo/b".into(),
        checks: [ExternalCheck {
            provider: "judge".into(),
            policies: key.into(),
            is_dry_run: false,
            asks: ExternalProvider::Grpc(CheckService {
                cluster: cluster.into(),
                host: "judge.foo.svc.cluster.local".into(),
                timeout: Duration::from_secs(5),
                fails_open,
                status_on_error: 403,
                body: None,
                clears_route: false,
            }),
            cache: None,
        }]
        .into(),
    }));
    resources.push(Resource::Cluster(Cluster {
        tls: UpstreamTls::Off,
        ..testing::cluster(cluster, Discovery::Endpoints { key: "judge".into(), subset: Default::default() })
    }));
    resources.push(Resource::Endpoints(endpoints("judge", vec![endpoint(&provider.to_string(), 1)])));
    testing::snapshot(resources)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_no_provider_has_allowed_ends_when_one_must_be_asked() {
    let ca = TestCa::new("mesh");
    let application = echo().await;
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let b = sidecar(&ca, "b", Role::Inbound, application).await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    let (port, said) = (application.port(), |client: TcpStream| -> Pin<Box<dyn Future<Output = TcpStream>>> {
        Box::pin(async move {
            let mut client = client;
            client.write_all(b"x").await.unwrap();
            assert_eq!(within(client.read_u8()).await.unwrap(), b'x');
            client
        })
    });
    a.runtime.apply(tcp_outbound(b.address)).unwrap();
    b.runtime.apply(tcp_inbound(port, vec![default_permit()])).unwrap();
    let mut unasked = said(TcpStream::connect(a.address).await.unwrap()).await;
    b.runtime.apply(checked(port, nobody, true)).unwrap();
    ended(&mut unasked).await;
    logged(&b.log, "\"reason\":\"ext-authz-unavailable\"").await;
    // One that was put before the provider keeps its answer, as long as the answer still allows.
    let asked = said(TcpStream::connect(a.address).await.unwrap()).await;
    b.runtime.apply(checked(port, "127.0.0.1:2".parse().unwrap(), true)).unwrap();
    let mut asked = said(asked).await;
    b.runtime.apply(checked(port, nobody, false)).unwrap();
    ended(&mut asked).await;
}
