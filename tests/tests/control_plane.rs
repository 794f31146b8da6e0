//! The control plane and the proxies' client for it, in one process: over real TLS on loopback, and over a pipe.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use palisade_compile::SourceOptions;
use palisade_control::{
    admission::AdmissionOptions,
    ca::CertificateAuthority,
    injection::InjectionSettings,
    provisioning::GatewaySettings,
    run_until,
    settings::Settings,
    standalone,
    token::{BoundPod, TokenKey},
};
use palisade_model::{resource::ResourceKey, service::Query, settings::WorkloadRef, snapshot::Snapshot};
use palisade_proxy::config::{
    Applied, Applier, ApplyRejection, ConfigClient, ConfigState, Credentials, Dialer, IdentityClient, Pipe, Resolution,
    Subscriptions, TlsDialer, TokenSource,
};
use palisade_wire::delta::client::Profile;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const DOCUMENTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a-1, namespace: foo, labels: {app: a}}
spec: {serviceAccountName: a, containers: [{name: app, image: a, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b-1, namespace: foo, labels: {app: b}}
spec: {serviceAccountName: b, containers: [{name: app, image: b, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: foo}
spec: {selector: {app: b}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

const HOUR: Duration = Duration::from_secs(3600);

/// Files of a mesh, and the address that its control plane has whenever it runs.
struct Mesh {
    folder: tempfile::TempDir,
    address: SocketAddr,
    key: TokenKey,
}

struct Control {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Takes every snapshot and counts.
#[derive(Default)]
struct Counting(AtomicUsize);

struct Proxy {
    state: watch::Receiver<ConfigState>,
    subscriptions: Subscriptions,
    applied: Arc<Counting>,
    _stop: tokio_util::sync::DropGuard,
}

#[async_trait]
impl Applier for Counting {
    async fn apply(&self, _: Arc<Snapshot>, _: Vec<ResourceKey>) -> Result<Applied, ApplyRejection> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Applied::default())
    }
}

fn pod(name: &str, service_account: &str) -> BoundPod {
    BoundPod { namespace: "foo".into(), name: name.into(), uid: "any".into(), service_account: service_account.into() }
}

impl Mesh {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("documents")).unwrap();
        fs::write(folder.path().join("documents/mesh.yaml"), DOCUMENTS).unwrap();
        // The port is free again at once, and nobody else on this machine asks for it in the meantime.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
        drop(authority(&folder.path().join("ca")));
        Self { folder, address, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Control {
        let settings = Settings {
            files: vec![self.path("documents")],
            kubeconfig: None,
            context: None,
            control_namespace: None,
            istio_classes: false,
            namespace: "default".to_owned(),
            root_namespace: None,
            set: Vec::new(),
            listen: self.address,
            advertise: None,
            admin: "127.0.0.1:0".parse().unwrap(),
            ca_dir: self.path("ca"),
            token_key: self.path("token.key"),
            signer: None,
            token_audience: Vec::new(),
            cert_ttl: Duration::from_secs(5),
            server_name: Vec::new(),
            jwks_ca: "/etc/ssl/certs/ca-certificates.crt".into(),
            admission: AdmissionOptions::default(),
            injection: InjectionSettings::default(),
            gateways: GatewaySettings::default(),
            log: "info".to_owned(),
        };
        let stop = CancellationToken::new();
        Control { stop: stop.clone(), task: tokio::spawn(run_until(settings, stop)) }
    }

    fn dialer(&self, roots: PathBuf) -> Dialer {
        Dialer::tls(TlsDialer {
            address: self.address.to_string(),
            server_name: "palisade-control".try_into().unwrap(),
            roots,
            credentials: Arc::new(Credentials::default()),
        })
    }

    fn token(&self, pod: &BoundPod) -> TokenSource {
        TokenSource::Fixed(self.key.mint(pod, SystemTime::now(), HOUR).unwrap().into())
    }

    fn proxy(&self, token: TokenSource) -> Proxy {
        Proxy::start(self.dialer(self.path("ca/root-cert.pem")), token)
    }
}

impl Control {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Proxy {
    /// Believes to be `foo/a-1`.
    fn start(dialer: Dialer, token: TokenSource) -> Self {
        let profile = Profile {
            namespace: "foo".into(),
            name: "a-1".into(),
            build: "test".into(),
            features: BTreeSet::new(),
            short_id: "a".into(),
        };
        let applied = Arc::new(Counting::default());
        let applier = Arc::clone(&applied) as Arc<dyn Applier>;
        let (client, subscriptions) = ConfigClient::new(profile, dialer, token, applier, BTreeSet::new());
        let stop = CancellationToken::new();
        tokio::spawn(client.run(stop.clone()));
        Self { state: subscriptions.state(), subscriptions, applied, _stop: stop.drop_guard() }
    }

    async fn until(&self, what: &str, holds: impl FnMut(&ConfigState) -> bool) {
        let mut state = self.state.clone();
        let done = tokio::time::timeout(Duration::from_secs(20), state.wait_for(holds)).await;
        assert!(done.is_ok(), "{what}: {:?}", self.state.borrow().last_error);
    }

    async fn error(&self) -> String {
        self.until("an error", |state| state.last_error.is_some()).await;
        self.state.borrow().last_error.as_deref().unwrap_or_default().to_owned()
    }

    fn applied(&self) -> usize {
        self.applied.0.load(Ordering::Relaxed)
    }
}

fn authority(folder: &Path) -> CertificateAuthority {
    CertificateAuthority::load_or_create(folder, &"cluster.local".parse().unwrap(), SystemTime::now()).unwrap()
}

fn host(name: &str) -> Query {
    Query::Host(name.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_outlives_its_control_plane_and_resumes_without_a_resend() {
    let mesh = Mesh::new();
    let proxy = mesh.proxy(mesh.token(&pod("a-1", "a")));
    // Absent at the start: nothing is known, and that is said at once.
    let asked = Instant::now();
    assert!(matches!(proxy.subscriptions.resolve(&host("b.foo.svc.cluster.local")).await, Resolution::Unavailable));
    assert!(asked.elapsed() < Duration::from_secs(2));

    let control = mesh.start();
    proxy.until("a first snapshot", |state| state.snapshot.is_some()).await;
    let known = proxy.subscriptions.resolve(&host("b.foo.svc.cluster.local")).await;
    assert!(matches!(known, Resolution::Known(_)), "{known:?}");
    let absent = proxy.subscriptions.resolve(&host("nowhere.example.com")).await;
    assert!(matches!(absent, Resolution::Absent(_)), "{absent:?}");

    let (applied, held) = (proxy.applied(), proxy.state.borrow().offer);
    control.end().await;
    proxy.until("control gone", |state| !state.is_connected).await;
    assert!(proxy.state.borrow().snapshot.is_some(), "what is applied stays");
    assert!(matches!(proxy.subscriptions.resolve(&host("other.example.com")).await, Resolution::Unavailable));
    let known = proxy.subscriptions.resolve(&host("b.foo.svc.cluster.local")).await;
    assert!(matches!(known, Resolution::Known(_)), "what is known stays known");

    let control = mesh.start();
    proxy.until("control back", |state| state.is_connected).await;
    let absent = proxy.subscriptions.resolve(&host("other.example.com")).await;
    assert!(matches!(absent, Resolution::Absent(_)), "{absent:?}");
    assert_eq!(proxy.applied(), applied + 1, "the resume sent nothing, the new question did");
    assert_ne!(proxy.state.borrow().offer, held);
    control.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_the_proxy_in_milliseconds() {
    let mesh = Mesh::new();
    let control = mesh.start();
    let proxy = mesh.proxy(mesh.token(&pod("a-1", "a")));
    proxy.until("a first snapshot", |state| state.snapshot.is_some()).await;
    let mut times = Vec::new();
    for n in 0..50 {
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: foo}}\nspec: \
             {{action: DENY, rules: [{{to: [{{operation: {{paths: [\"/{n}\"]}}}}]}}]}}\n"
        );
        let before = proxy.state.borrow().offer;
        let edited = Instant::now();
        fs::write(mesh.path("documents/policy.yaml"), policy).unwrap();
        proxy.until("the edit", |state| state.offer != before).await;
        times.push(edited.elapsed());
    }
    times.sort();
    println!("edit to applied, 50 edits: median {:?}, longest {:?}", times[25], times[49]);
    control.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_follow_the_token_and_are_renewed_with_new_keys() {
    let mesh = Mesh::new();
    let control = mesh.start();
    let token = mesh.token(&pod("a-1", "a"));
    let client =
        IdentityClient { dialer: mesh.dialer(mesh.path("ca/root-cert.pem")), token, lifetime: Some(24 * HOUR) };
    let (sender, mut issued) = watch::channel(Vec::new());
    let stop = CancellationToken::new();
    let keep = stop.clone();
    let task = tokio::spawn(async move {
        let install = |identity| {
            sender.send_modify(|all: &mut Vec<_>| all.push(identity));
            Ok::<(), String>(())
        };
        client.keep(install, keep).await;
    });
    // Lifetime 5 s by the control plane's own limit: the second comes after about 2.5 s, by certificate and token.
    let two = issued.wait_for(|all| all.len() >= 2);
    let all = tokio::time::timeout(Duration::from_secs(20), two).await.unwrap().unwrap().clone();
    assert_ne!(all[0].key_pem(), all[1].key_pem());
    let left = all[1].not_after().duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(5), "{left:?}");
    assert_eq!(all[0].bundle_pem(), fs::read_to_string(mesh.path("ca/root-cert.pem")).unwrap());
    stop.cancel();
    task.await.unwrap();
    control.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_nothing_or_someone_else_is_refused() {
    let mesh = Mesh::new();
    let control = mesh.start();
    let good = mesh.proxy(mesh.token(&pod("a-1", "a")));
    good.until("a first snapshot", |state| state.snapshot.is_some()).await;

    let foreign_key = TokenKey::generate().unwrap();
    let fixed = |token: String| TokenSource::Fixed(token.into());
    let now = SystemTime::now();
    let bound = pod("a-1", "a");
    let cases = [
        ("another key", fixed(foreign_key.mint(&bound, now, HOUR).unwrap()), "not issued here"),
        ("expired", fixed(mesh.key.mint(&bound, now - 2 * HOUR, HOUR).unwrap()), "expired"),
        ("another audience", fixed(mesh.key.mint_for("vault", &bound, now, HOUR).unwrap()), "another audience"),
        ("another pod's token", mesh.token(&pod("b-1", "b")), "bound to pod foo/b-1, not to foo/a-1"),
        ("a pod that is not there", mesh.token(&pod("c-1", "a")), "foo/c-1 is not in the mesh"),
        ("another service account", mesh.token(&pod("a-1", "b")), "its service account differs"),
        ("garbage", fixed("garbage".to_owned()), "malformed"),
    ];
    for (name, token, expected) in cases {
        let proxy = mesh.proxy(token.clone());
        let error = proxy.error().await;
        assert!(error.contains(expected), "{name}: {error}");
        assert!(proxy.state.borrow().snapshot.is_none(), "{name}");
        if name != "another pod's token" {
            let dialer = mesh.dialer(mesh.path("ca/root-cert.pem"));
            let refused = IdentityClient { dialer, token, lifetime: None }.request().await.unwrap_err().to_string();
            assert!(refused.contains(expected), "{name}: {refused}");
        }
    }

    // A control plane of another root is no control plane.
    drop(authority(&mesh.path("other")));
    let proxy = Proxy::start(mesh.dialer(mesh.path("other/root-cert.pem")), mesh.token(&bound));
    let error = proxy.error().await;
    assert!(error.contains("UnknownIssuer") || error.contains("invalid peer certificate"), "{error}");
    control.end().await;
}

#[path = "control_plane/records.rs"]
mod records;

#[path = "control_plane/trust.rs"]
mod trust;

#[tokio::test(flavor = "multi_thread")]
async fn standalone_is_the_same_over_a_pipe() {
    let mesh = Mesh::new();
    let stop = CancellationToken::new();
    let options = SourceOptions { is_files: true, ..Default::default() };
    let control = standalone(vec![mesh.path("documents")], "default", options, &mesh.path("ca"), stop.clone()).unwrap();
    let token = control.token(&WorkloadRef { namespace: "foo".into(), name: "a-1".into() }).unwrap();
    let dialer = Dialer::Pipe(Pipe::new(control.connect.clone()));
    let proxy = Proxy::start(dialer.clone(), TokenSource::Fixed(Arc::clone(&token)));
    proxy.until("a first snapshot", |state| state.snapshot.is_some()).await;
    let known = proxy.subscriptions.resolve(&host("b.foo.svc.cluster.local")).await;
    assert!(matches!(known, Resolution::Known(_)), "{known:?}");
    let identity = IdentityClient { dialer, token: TokenSource::Fixed(token), lifetime: None }.request().await.unwrap();
    assert!(identity.is_valid_now());
    stop.cancel();
}
