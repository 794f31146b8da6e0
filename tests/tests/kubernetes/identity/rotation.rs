//! The root of a cluster's mesh is replaced step by step by two replicas, and every step is refused while it would break somebody.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use palisade_control::{identity::bundle::NAME, rotation::STATUS_MAP};
use palisade_model::{
    feature,
    resource::Feature,
    trust::{Fingerprint, Standing, Trust},
};
use palisade_proxy::{
    config::{ConfigClient, Credentials, Dialer, IdentityClient, IssuedIdentity, Subscriptions, TokenSource, Trusting},
    tls::{IdentityMaterial, IdentityStore},
};
use palisade_tests::{kubernetes::Cluster, wait::until};
use palisade_wire::delta::client::Profile;
use rustls_pki_types::UnixTime;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{callers::Anything, control::Control};

const SOON: Duration = Duration::from_secs(30);
const SYSTEM: &str = "rotation-system";

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a-1, namespace: rotation, labels: {app: a, security.istio.io/tlsMode: istio, palisade.dev/proxy: sidecar}}
spec: {containers: [{name: app, image: 'a:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b-1, namespace: rotation, labels: {app: b, security.istio.io/tlsMode: istio, palisade.dev/proxy: sidecar}}
spec: {containers: [{name: app, image: 'b:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c-1, namespace: rotation, labels: {app: c, security.istio.io/tlsMode: istio}}
spec: {containers: [{name: app, image: 'c:1'}]}
";

/// What a proxy does with trust and certificates, without a data plane.
struct Keeper {
    state: Mutex<(Trust, Option<IssuedIdentity>)>,
    standing: watch::Sender<Standing>,
    /// What connections to control trust besides the file.
    credentials: Arc<Credentials>,
}

/// A proxy of a pod; it ends with the value.
struct Proxy {
    keeper: Arc<Keeper>,
    identity: IdentityClient,
    _subscriptions: Subscriptions,
    _stop: DropGuard,
}

impl Keeper {
    fn judged(&self) -> anyhow::Result<Standing> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (trust, issued) = &*state;
        let mut standing = Standing { trust: trust.version().ok(), ..Standing::default() };
        if let Some(issued) = issued {
            let domains = BTreeSet::from(["cluster.local".parse()?]);
            let (chain, key) = (issued.chain_pem().as_bytes(), issued.key_pem().as_bytes());
            // An older one knows what came with its certificate.
            let roots = if trust.roots.is_empty() { issued.bundle_pem() } else { &trust.roots };
            let material = IdentityMaterial::from_pem(chain, key, roots.as_bytes(), domains)?;
            let identity = IdentityStore::new().install(material, UnixTime::now())?;
            standing.leaf_roots = identity.leaf_roots(UnixTime::now());
            standing.roots = identity.bundle().iter().map(|root| Fingerprint::of_bytes(root)).collect();
            standing.not_after = u64::try_from(identity.period().1)?;
        }
        Ok(standing)
    }
}

impl Trusting for Keeper {
    fn trust(&self, trust: Trust) -> Standing {
        self.credentials.set_trust(trust.clone());
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = trust;
        let standing = match self.judged() {
            Ok(standing) => standing,
            Err(error) => Standing { problem: Some(error.to_string().into()), ..Standing::default() },
        };
        self.standing.send_replace(standing.clone());
        standing
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

impl Proxy {
    /// `features`: whether it is one that follows trust.
    async fn start(
        cluster: &Cluster,
        control: &Control,
        roots: &Path,
        pod: &str,
        follows: bool,
    ) -> anyhow::Result<Self> {
        let token = cluster.token("rotation", "default", "palisade", Some(pod)).await?;
        let token = TokenSource::Fixed(token.into());
        let features = if follows { vec![Feature(feature::TRUST.into())] } else { Vec::new() };
        let profile = Profile {
            namespace: "rotation".into(),
            name: pod.into(),
            build: "test".into(),
            features: features.into_iter().collect(),
            short_id: pod.into(),
        };
        let dialer = control.dialer(roots)?;
        let Dialer::Tls(tls) = &dialer else { anyhow::bail!("no TLS") };
        let keeper = Arc::new(Keeper {
            state: Mutex::default(),
            standing: watch::Sender::default(),
            credentials: Arc::clone(&tls.credentials),
        });
        let identity = IdentityClient { dialer: dialer.clone(), token: token.clone(), lifetime: None };
        let (client, subscriptions) = ConfigClient::new(profile, dialer, token, Arc::new(Anything), BTreeSet::new());
        let trusting: Arc<dyn Trusting> = Arc::<Keeper>::clone(&keeper);
        let stop = CancellationToken::new();
        tokio::spawn(client.with_trusting(trusting).run(stop.clone()));
        let mut state = subscriptions.state();
        let connected = tokio::time::timeout(SOON, state.wait_for(|state| state.snapshot.is_some())).await;
        connected.with_context(|| format!("{pod}: no configuration: {}", control.said()))??;
        let proxy = Self { keeper, identity, _subscriptions: subscriptions, _stop: stop.drop_guard() };
        proxy.renew().await?;
        Ok(proxy)
    }

    /// Another certificate.
    async fn renew(&self) -> anyhow::Result<()> {
        let issued = self.identity.request().await?;
        self.keeper.state.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(issued);
        self.keeper.standing.send_replace(self.keeper.judged()?);
        Ok(())
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Takes a step once it is not refused any more.
async fn done(control: &Control, arguments: &[&str]) -> anyhow::Result<()> {
    let output = control.identity(&[&["rotate", "--wait", "20"], arguments].concat()).await?;
    ensure!(output.status.success(), "{}\n{}", text(&output), control.said());
    Ok(())
}

/// A step that is refused, for all these reasons.
async fn refused(control: &Control, expected: &[&str]) -> anyhow::Result<()> {
    until(&format!("{expected:?}"), SOON, async || {
        let output = control.identity(&["rotate", "--dry-run"]).await?;
        let said = text(&output);
        ensure!(output.status.code() == Some(1), "{said}");
        ensure!(expected.iter().all(|reason| said.contains(reason)), "{said}");
        Ok(())
    })
    .await
}

async fn status(control: &Control) -> anyhow::Result<Value> {
    let output = control.identity(&["status", "-o", "json"]).await?;
    serde_json::from_slice(&output.stdout).with_context(|| text(&output))
}

async fn both(controls: [&Control; 2], phase: Option<&str>, trusted: usize) -> anyhow::Result<()> {
    for control in controls {
        until("the step in both replicas", SOON, async || {
            let status = status(control).await?;
            let roots = status.get("roots").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(status.get("phase").and_then(Value::as_str) == phase && roots == trusted, "{status}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

struct Stand {
    folder: tempfile::TempDir,
    roots: PathBuf,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_is_refused_while_it_would_break_somebody() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace(SYSTEM).await?;
    cluster.namespace("rotation").await?;
    cluster.apply(PODS).await?;
    cluster.kubectl(&["wait", "-n", "rotation", "--for=condition=Ready", "pod", "--all", "--timeout=30s"]).await?;
    let folder = tempfile::tempdir()?;
    let stand = Stand { roots: folder.path().join("roots.pem"), folder };
    let one = Control::start(&cluster, stand.folder.path(), SYSTEM, "one").await?;
    let two = Control::start(&cluster, stand.folder.path(), SYSTEM, "two").await?;
    let client = cluster.client().await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "rotation");
    let published = async || {
        let map = maps.get(NAME).await?;
        map.data.and_then(|data| data.get("root-cert.pem").cloned()).context("no roots")
    };
    let first: String = until("the roots", SOON, published).await?;
    fs::write(&stand.roots, &first)?;
    let a = Proxy::start(&cluster, &one, &stand.roots, "a-1", true).await?;
    let b = Proxy::start(&cluster, &two, &stand.roots, "b-1", false).await?;
    both([&one, &two], None, 1).await?;

    // To trust one more breaks nobody.
    done(&one, &[]).await?;
    both([&one, &two], Some("distributing"), 2).await?;
    until("both roots in the namespaces", SOON, async || {
        let roots: String = published().await?;
        ensure!(roots.matches("BEGIN").count() == 2 && roots.contains(first.trim()), "{roots}");
        Ok(())
    })
    .await?;
    // An older proxy, which is connected to the other replica, and a pod that no replica knows.
    refused(&one, &["proxy rotation/b-1: it does not say", "pod rotation/c-1: its proxy is connected to no replica"])
        .await?;
    cluster.kubectl(&["delete", "pod", "-n", "rotation", "c-1", "--grace-period=0", "--force"]).await?;
    drop(b);
    let b = Proxy::start(&cluster, &two, &stand.roots, "b-1", true).await?;
    // An istiod that shares the root: its workloads trust what it publishes.
    let istio = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio-ca-root-cert, namespace: rotation}}, data: {{root-cert.pem: {first:?}}}}}"
    );
    cluster.apply(&istio).await?;
    refused(&two, &["namespace rotation: an istiod shares the root"]).await?;
    cluster.kubectl(&["delete", "configmap", "-n", "rotation", "istio-ca-root-cert"]).await?;

    done(&two, &[]).await?;
    both([&one, &two], Some("signing"), 2).await?;
    // Proxies of both replicas still use the old root.
    refused(
        &one,
        &["proxy rotation/a-1: its certificate is of the root", "proxy rotation/b-1: its certificate is of the root"],
    )
    .await?;
    a.renew().await?;
    refused(&one, &["proxy rotation/b-1: its certificate is of the root"]).await?;
    // Somebody who has not followed yet is told by name, too, when it is taken back.
    b.renew().await?;
    done(&one, &[]).await?;
    both([&one, &two], None, 1).await?;
    until("only the new root in the namespaces", SOON, async || {
        let roots: String = published().await?;
        ensure!(roots.matches("BEGIN").count() == 1 && !roots.contains(first.trim()), "{roots}");
        Ok(())
    })
    .await?;
    let kept = cluster.kubectl(&["get", "secret", "-n", SYSTEM, "palisade-ca", "-o", "jsonpath={.data}"]).await?;
    ensure!(!kept.contains("rotation"), "nothing of the old root is left: {kept}");
    let told = status(&one).await?;
    ensure!(told["proxies"] == 2 && told["replicas"].as_object().is_some_and(|all| all.len() == 2), "{told}");

    // What is plugged in without a thought for those who live is held back, by both.
    let other = palisade_tests::certificates::authority("acme")?;
    let data = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: cacerts, namespace: {SYSTEM}}}, stringData: {{ca-cert.pem: {:?}, ca-key.pem: {:?}, root-cert.pem: {:?}}}}}",
        other.0, other.1, other.0
    );
    cluster.apply(&data).await?;
    for control in [&one, &two] {
        until("held back", SOON, async || {
            let status = status(control).await?;
            let held = status["heldBack"]["obstacles"].to_string();
            ensure!(held.contains("proxy rotation/a-1") && held.contains("proxy rotation/b-1"), "{status}");
            ensure!(status["roots"].as_array().is_some_and(|roots| roots.len() == 1), "{status}");
            Ok(())
        })
        .await?;
    }
    let plugged = one.identity(&["rotate"]).await?;
    ensure!(plugged.status.code() == Some(2) && text(&plugged).contains("plugged"), "{}", text(&plugged));
    cluster.kubectl(&["delete", "secret", "-n", SYSTEM, "cacerts"]).await?;
    until("nothing is held back", SOON, async || {
        ensure!(status(&one).await?["heldBack"].is_null() && status(&two).await?["heldBack"].is_null());
        Ok(())
    })
    .await?;

    // A replica that has crashed may have proxies: until it counts as gone, nothing unsafe is done.
    two.kill().await?;
    refused(&one, &["does not answer"]).await?;
    let all = Api::<ConfigMap>::namespaced(client, SYSTEM).get(STATUS_MAP).await?;
    ensure!(all.data.is_some_and(|data| data.keys().any(|key| key.starts_with("replica-"))), "no record");
    drop(a);
    Ok(())
}
