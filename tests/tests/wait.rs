//! `palisade wait` and `palisade proxy` against a control plane of files, and proxies that take their time.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use clap::Parser;
use palisade_control::{
    ca::CertificateAuthority,
    run_until,
    settings::Settings,
    token::{BoundPod, TokenKey},
};
use palisade_model::{
    feature,
    resource::{Feature, ResourceKey},
    snapshot::Snapshot,
};
use palisade_proxy::config::{
    Applied, Applier, ApplyRejection, ConfigClient, Credentials, Dialer, Subscriptions, TlsDialer, TokenSource,
};
use palisade_tests::{checkout, wait::until};
use palisade_wire::delta::client::Profile;
use tokio::{process::Command, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

const PODS: &str = "
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
";

fn policy(namespace: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: foo}}
spec: {{rules: [{{from: [{{source: {{namespaces: [{namespace}]}}}}]}}]}}
"
    )
}

/// Takes every snapshot, after a while, or refuses.
#[derive(Default)]
struct Slow {
    pause_ms: AtomicU64,
    refuses: AtomicBool,
}

#[async_trait]
impl Applier for Slow {
    async fn apply(&self, _: Arc<Snapshot>, _: Vec<ResourceKey>) -> Result<Applied, ApplyRejection> {
        tokio::time::sleep(Duration::from_millis(self.pause_ms.load(Ordering::Relaxed))).await;
        if self.refuses.load(Ordering::Relaxed) {
            return Err(ApplyRejection { key: None, message: "not any more".into() });
        }
        Ok(Applied::default())
    }
}

struct Mesh {
    folder: tempfile::TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
    _stop: DropGuard,
    _control: JoinHandle<anyhow::Result<()>>,
}

struct Proxy {
    applier: Arc<Slow>,
    // The client ends when nobody may ask for more.
    _subscriptions: Subscriptions,
    _stop: DropGuard,
}

impl Mesh {
    async fn start(documents: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(folder.path().join("documents"))?;
        fs::write(folder.path().join("documents/all.yaml"), documents)?;
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (listen, admin) = (free()?, free()?);
        // The root is there before anybody asks for it.
        let trust_domain = "cluster.local".parse()?;
        drop(CertificateAuthority::load_or_create(&folder.path().join("ca"), &trust_domain, SystemTime::now())?);
        let settings = Settings::try_parse_from([
            "palisade-control",
            &format!("--files={}", path("documents")),
            &format!("--listen={listen}"),
            &format!("--admin={admin}"),
            &format!("--ca-dir={}", path("ca")),
            &format!("--token-key={}", path("token.key")),
        ])?;
        let stop = CancellationToken::new();
        let control = tokio::spawn(run_until(settings, stop.clone()));
        let mesh = Self { folder, listen, admin, _stop: stop.drop_guard(), _control: control };
        until("the control plane", Duration::from_secs(20), async || {
            Ok(tokio::net::TcpStream::connect(admin).await.map(drop)?)
        })
        .await?;
        Ok(mesh)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As `kubectl apply` would: another content of the same file.
    fn apply(&self, documents: &str) -> anyhow::Result<()> {
        fs::write(self.path("new"), documents)?;
        Ok(fs::rename(self.path("new"), self.path("documents/all.yaml"))?)
    }

    fn proxy(&self, name: &str, account: &str) -> anyhow::Result<Proxy> {
        self.proxy_with(name, account, feature::all())
    }

    /// A proxy that understands these features alone.
    fn proxy_with(&self, name: &str, account: &str, features: BTreeSet<Feature>) -> anyhow::Result<Proxy> {
        let bound =
            BoundPod { namespace: "foo".into(), name: name.into(), uid: "any".into(), service_account: account.into() };
        let key = TokenKey::load_or_create(&self.path("token.key"))?;
        let token = TokenSource::Fixed(key.mint(&bound, SystemTime::now(), Duration::from_secs(3600))?.into());
        let dialer = Dialer::tls(TlsDialer {
            address: self.listen.to_string(),
            server_name: "palisade-control".try_into()?,
            roots: self.path("ca/root-cert.pem"),
            credentials: Arc::new(Credentials::default()),
        });
        let profile = Profile {
            namespace: "foo".into(),
            name: name.into(),
            build: "test".into(),
            features,
            short_id: name.into(),
        };
        let applier = Arc::new(Slow::default());
        let (client, subscriptions) =
            ConfigClient::new(profile, dialer, token, Arc::clone(&applier) as Arc<dyn Applier>, BTreeSet::new());
        let stop = CancellationToken::new();
        tokio::spawn(client.run(stop.clone()));
        Ok(Proxy { applier, _subscriptions: subscriptions, _stop: stop.drop_guard() })
    }

    async fn palisade(&self, arguments: &[&str], file: Option<&Path>) -> anyhow::Result<Output> {
        let mut command = Command::new(checkout::binary("palisade")?);
        command.args(arguments).env("PALISADE_CONTROL", format!("http://{}", self.admin));
        if let Some(file) = file {
            command.arg("-f").arg(file);
        }
        Ok(command.kill_on_drop(true).output().await?)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_returns_when_every_proxy_does_it_and_names_who_does_not() -> anyhow::Result<()> {
    let first = format!("{PODS}{}", policy("a"));
    let mesh = Mesh::start(&first).await?;
    let documents = mesh.path("documents");

    let accepted = mesh.palisade(&["wait", "--for", "accepted", "--timeout", "5s"], Some(&documents)).await?;
    assert!(accepted.status.success(), "{}", said(&accepted));
    let nobody = mesh.palisade(&["wait", "AuthorizationPolicy/foo/p", "--timeout", "300ms"], None).await?;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("foo/a-1: not connected"), "{}", said(&nobody));

    let (a, b) = (mesh.proxy("a-1", "a")?, mesh.proxy("b-1", "b")?);
    let both = mesh.palisade(&["wait", "--timeout", "20s"], Some(&documents)).await?;
    assert!(both.status.success() && said(&both).contains("enforced 2/2"), "{}", said(&both));

    // One of them needs its time for the next edit: so does who waits.
    b.applier.pause_ms.store(700, Ordering::Relaxed);
    let second = format!("{PODS}{}", policy("b"));
    let begun = Instant::now();
    mesh.apply(&second)?;
    let waited = mesh.palisade(&["wait", "--timeout", "20s"], Some(&documents)).await?;
    assert!(waited.status.success(), "{}", said(&waited));
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());

    // What is asked about is not what is there.
    let other = mesh.path("other.yaml");
    fs::write(&other, policy("c"))?;
    let differs = mesh.palisade(&["wait", "--timeout", "200ms"], Some(&other)).await?;
    assert!(differs.status.code() == Some(1) && said(&differs).contains("something else"), "{}", said(&differs));

    b.applier.pause_ms.store(0, Ordering::Relaxed);
    b.applier.refuses.store(true, Ordering::Relaxed);
    mesh.apply(&first)?;
    let refused = until("a refusal", Duration::from_secs(20), async || {
        let refused = mesh.palisade(&["wait", "--timeout", "500ms"], Some(&documents)).await?;
        anyhow::ensure!(said(&refused).contains("foo/b-1: refused: not any more"), "{}", said(&refused));
        Ok(refused)
    })
    .await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("enforced 1/2"), "{}", said(&refused));

    let listed = mesh.palisade(&["proxy", "status"], None).await?;
    assert_eq!(listed.status.code(), Some(1));
    assert!(
        said(&listed).contains("foo/a-1  current") && said(&listed).contains("foo/b-1  refused"),
        "{}",
        said(&listed)
    );
    let shown = mesh.palisade(&["proxy", "config", "foo/b-1", "-o", "wide", "--kind", "policy"], None).await?;
    assert!(said(&shown).contains("pending") && said(&shown).contains("AuthorizationPolicy foo/p"), "{}", said(&shown));
    let gone = mesh.palisade(&["proxy", "config", "foo/none"], None).await?;
    assert_eq!(gone.status.code(), Some(1));
    drop(a);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_wrong_is_never_accepted() -> anyhow::Result<()> {
    let wrong = policy("a").replace("rules:", "action: DENY, rules:").replace("namespaces", "namespacez");
    let mesh = Mesh::start(&format!("{PODS}{wrong}")).await?;
    let refused =
        mesh.palisade(&["wait", "--for", "accepted", "--timeout", "300ms"], Some(&mesh.path("documents"))).await?;
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("Accepted (Invalid)"), "{}", said(&refused));
    let named = mesh.palisade(&["wait", "AuthorizationPolicy/foo/none", "--timeout", "100ms"], None).await?;
    assert!(said(&named).contains("does not have it"), "{}", said(&named));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_proxy_cannot_understand_is_named_with_the_proxy() -> anyhow::Result<()> {
    const TOKENS: &str = "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: r, namespace: foo}
spec: {selector: {matchLabels: {app: a}}, jwtRules: [{issuer: i, jwks: '{\"keys\":[]}'}]}
";
    let mesh = Mesh::start(&format!("{PODS}{}---\n{TOKENS}", policy("a"))).await?;
    let older = feature::all().into_iter().filter(|feature| *feature.0 != *feature::REQUEST_AUTHENTICATION).collect();
    let (_a, _b) = (mesh.proxy_with("a-1", "a", older)?, mesh.proxy("b-1", "b")?);
    until("it is named", Duration::from_secs(20), async || {
        let waited = mesh.palisade(&["wait", "RequestAuthentication/foo/r", "--timeout", "300ms"], None).await?;
        let told = said(&waited);
        anyhow::ensure!(waited.status.code() == Some(1), "{told}");
        anyhow::ensure!(
            told.contains("foo/a-1: withheld: the proxy lacks") && told.contains("request-authentication"),
            "{told}"
        );
        Ok(())
    })
    .await?;
    let listed = mesh.palisade(&["proxy", "status", "-o", "wide"], None).await?;
    let told = said(&listed);
    assert_eq!(listed.status.code(), Some(1), "{told}");
    let line = told.lines().find(|line| line.starts_with("foo/a-1")).unwrap_or_default();
    assert!(line.contains("withheld") && line.ends_with("request-authentication"), "{told}");
    let shown = mesh.palisade(&["proxy", "config", "foo/a-1", "-o", "wide"], None).await?;
    let told = said(&shown);
    let line = told.lines().find(|line| line.contains("RequestAuthentication foo/r")).unwrap_or_default();
    assert!(line.contains("withheld"), "{told}");
    Ok(())
}
