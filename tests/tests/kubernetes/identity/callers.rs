//! A control plane beside the cluster, and proxies that prove themselves to it with tokens of the API server.

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use palisade_control::identity::bundle::NAME;
use palisade_model::{resource::ResourceKey, snapshot::Snapshot};
use palisade_proxy::config::{
    Applied, Applier, ApplyRejection, ConfigClient, ConfigState, Dialer, IdentityClient, Subscriptions, TokenSource,
};
use palisade_tests::{kubernetes::Cluster, wait::until};
use palisade_wire::delta::client::Profile;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::control::Control;

const SOON: Duration = Duration::from_secs(30);

const SYSTEM: &str = "callers-system";

const PODS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: a, namespace: callers}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: b, namespace: callers}
---
apiVersion: v1
kind: Pod
metadata: {name: a-1, namespace: callers, labels: {app: a}}
spec: {serviceAccountName: a, containers: [{name: app, image: 'a:1', ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b-1, namespace: callers, labels: {app: b}}
spec: {serviceAccountName: b, containers: [{name: app, image: 'b:1', ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a-2, namespace: callers, labels: {app: a}}
spec: {serviceAccountName: a, containers: [{name: app, image: 'a:1'}]}
";

pub(super) struct Anything;

#[async_trait]
impl Applier for Anything {
    async fn apply(&self, _: Arc<Snapshot>, _: Vec<ResourceKey>) -> Result<Applied, ApplyRejection> {
        Ok(Applied::default())
    }
}

/// A proxy that believes to be `callers/a-1`.
struct Proxy {
    state: watch::Receiver<ConfigState>,
    // The client goes on for as long as somebody may ask.
    _subscriptions: Subscriptions,
    _stop: DropGuard,
}

impl Proxy {
    fn start(dialer: Dialer, token: &str) -> Self {
        let profile = Profile {
            namespace: "callers".into(),
            name: "a-1".into(),
            build: "test".into(),
            features: BTreeSet::new(),
            short_id: "a".into(),
        };
        let token = TokenSource::Fixed(token.into());
        let (client, subscriptions) = ConfigClient::new(profile, dialer, token, Arc::new(Anything), BTreeSet::new());
        let stop = CancellationToken::new();
        tokio::spawn(client.run(stop.clone()));
        Self { state: subscriptions.state(), _subscriptions: subscriptions, _stop: stop.drop_guard() }
    }

    async fn error(&mut self) -> anyhow::Result<String> {
        let state = tokio::time::timeout(SOON, self.state.wait_for(|state| state.last_error.is_some())).await;
        let state = state.context("no error")??;
        ensure!(state.snapshot.is_none(), "it has configuration");
        Ok(state.last_error.as_deref().unwrap_or_default().to_owned())
    }

    async fn configured(&mut self) -> anyhow::Result<()> {
        let done = tokio::time::timeout(SOON, self.state.wait_for(|state| state.snapshot.is_some())).await;
        let is_done = done.is_ok_and(|state| state.is_ok());
        ensure!(is_done, "{:?}", self.state.borrow().last_error);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_what_its_token_proves_and_no_more() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    let folder = tempfile::tempdir()?;
    cluster.fake_nodes(1).await?;
    cluster.namespace(SYSTEM).await?;
    cluster.namespace("callers").await?;
    cluster.apply(PODS).await?;
    cluster.kubectl(&["wait", "-n", "callers", "--for=condition=Ready", "pod", "--all", "--timeout=30s"]).await?;
    let (first, second) = tokio::try_join!(
        Control::start(&cluster, folder.path(), SYSTEM, "one"),
        Control::start(&cluster, folder.path(), SYSTEM, "two")
    )?;

    let maps = Api::<ConfigMap>::namespaced(cluster.client().await?, "callers");
    let map = until("the roots", SOON, async || Ok(maps.get(NAME).await?)).await?;
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, map.data.context("no data")?.get("root-cert.pem").context("no roots")?)?;

    let token =
        async |audience: &str, account: &str, pod: Option<&str>| cluster.token("callers", account, audience, pod).await;
    let good = token("palisade", "a", Some("a-1")).await?;
    // Both replicas: there is one root.
    for control in [&first, &second] {
        Proxy::start(control.dialer(&roots)?, &good).configured().await.with_context(|| control.said())?;
    }
    let request = async |token: &str| {
        let dialer = first.dialer(&roots)?;
        let client = IdentityClient { dialer, token: TokenSource::Fixed(token.into()), lifetime: None };
        anyhow::Ok(client.request().await?)
    };
    // An agent of Istio's asks with its own audience.
    let issued = request(&token("istio-ca", "a", Some("a-1")).await?).await?;
    let leaf = CertificateDer::from_pem_slice(issued.chain_pem().as_bytes())?;
    let identity = b"spiffe://cluster.local/ns/callers/sa/a";
    ensure!(leaf.windows(identity.len()).any(|window| window == identity), "another identity");

    let deleted = token("palisade", "a", Some("a-2")).await?;
    cluster.kubectl(&["delete", "pod", "-n", "callers", "a-2", "--grace-period=0", "--force"]).await?;
    for (name, token, expected) in [
        ("another audience", token("vault", "a", Some("a-1")).await?, "another audience"),
        ("another pod's", token("palisade", "b", Some("b-1")).await?, "bound to pod callers/b-1, not to callers/a-1"),
        ("a deleted pod's", deleted, ""),
        ("bound to nothing", token("palisade", "a", None).await?, "bound to no pod"),
        ("garbage", "garbage".to_owned(), "malformed"),
    ] {
        let error = Proxy::start(first.dialer(&roots)?, &token).error().await.context(name)?;
        ensure!(error.contains(expected), "{name}: {error}");
        if name != "another pod's" {
            let refused = request(&token).await.err().context(name)?.to_string();
            ensure!(refused.contains(expected), "{name}: {refused}");
        }
        ensure!(!first.said().contains(&token) || name == "garbage", "{name}: the token is logged");
    }
    ensure!(!first.said().contains("PRIVATE KEY") && !first.said().contains(&good), "a secret is logged");
    Ok(())
}
