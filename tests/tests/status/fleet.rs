//! Proxies that hold what they are told, and Services that lead them to replicas.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::ensure;
use async_trait::async_trait;
use palisade_control::identity::bundle::NAME;
use palisade_model::{feature, resource::ResourceKey, snapshot::Snapshot};
use palisade_proxy::config::{
    Applied, Applier, ApplyRejection, ConfigClient, Credentials, Dialer, Subscriptions, TlsDialer, TokenSource,
};
use palisade_tests::wait::until;
use palisade_wire::delta::client::Profile;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use crate::control::{Replica, SOON, Stand};

/// What a Service does: each connection goes to the first of its backends that takes it.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    _relay: AbortOnDropHandle<()>,
}

impl Service {
    pub(crate) async fn new(stand: &Stand<'_>, backends: &[&Replica]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connector = stand.cluster.connector();
        let backends: Vec<SocketAddr> = backends.iter().map(|replica| replica.listen).collect();
        let relay = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut outer, _)) = listener.accept().await {
                let (connector, backends) = (connector.clone(), backends.clone());
                connections.spawn(async move {
                    for backend in backends {
                        if let Ok(mut inner) = connector.connect(backend).await {
                            // Either side may end it as it likes.
                            drop(tokio::io::copy_bidirectional(&mut outer, &mut inner).await);
                            return;
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, _relay: AbortOnDropHandle::new(relay) })
    }
}

/// Takes every snapshot while it may, or refuses.
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    refuses: watch::Sender<bool>,
    applied: AtomicU64,
}

#[async_trait]
impl Applier for Gate {
    async fn apply(&self, _: Arc<Snapshot>, _: Vec<ResourceKey>) -> Result<Applied, ApplyRejection> {
        // A gate that is gone holds nobody.
        drop(self.open.subscribe().wait_for(|is_open| *is_open).await);
        if *self.refuses.borrow() {
            return Err(ApplyRejection { key: None, message: "not any more".into() });
        }
        self.applied.fetch_add(1, Ordering::Relaxed);
        Ok(Applied::default())
    }
}

/// A proxy; it ends with the value.
pub(crate) struct Proxy {
    gate: Arc<Gate>,
    // The client goes on for as long as somebody may ask.
    _subscriptions: Subscriptions,
    _stop: DropGuard,
}

impl Proxy {
    /// The proxy of a pod of account `default`, which reaches the control plane over a Service.
    pub(crate) async fn start(
        stand: &Stand<'_>,
        service: &Service,
        namespace: &str,
        pod: &str,
    ) -> anyhow::Result<Self> {
        let token = stand.cluster.token(namespace, "default", "palisade", Some(pod)).await?;
        let dialer = Dialer::tls(TlsDialer {
            address: service.address.to_string(),
            server_name: "palisade-control".try_into()?,
            roots: roots(stand, namespace).await?,
            credentials: Arc::new(Credentials::default()),
        });
        let profile = Profile {
            namespace: namespace.into(),
            name: pod.into(),
            build: "test".into(),
            features: feature::all(),
            short_id: pod.into(),
        };
        let gate = Arc::new(Gate {
            open: watch::Sender::new(true),
            refuses: watch::Sender::new(false),
            applied: AtomicU64::new(0),
        });
        let token = TokenSource::Fixed(token.into());
        let (client, subscriptions) =
            ConfigClient::new(profile, dialer, token, Arc::clone(&gate) as Arc<dyn Applier>, BTreeSet::new());
        let stop = CancellationToken::new();
        tokio::spawn(client.run(stop.clone()));
        Ok(Self { gate, _subscriptions: subscriptions, _stop: stop.drop_guard() })
    }

    /// It takes nothing until it may again.
    pub(crate) fn hold(&self) {
        self.gate.open.send_replace(false);
    }

    pub(crate) fn release(&self) {
        self.gate.open.send_replace(true);
    }

    /// It refuses what comes, or takes it.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.gate.refuses.send_replace(refuses);
    }

    /// Snapshots that it has taken.
    pub(crate) fn applied(&self) -> u64 {
        self.gate.applied.load(Ordering::Relaxed)
    }
}

/// A file with the mesh's roots, as they are published in a namespace.
async fn roots(stand: &Stand<'_>, namespace: &str) -> anyhow::Result<PathBuf> {
    let file = stand.folder().join(format!("roots-{namespace}.pem"));
    until("the bundle of roots", SOON, async || {
        let map = ["get", "configmap", "-n", namespace, NAME, "-o", "jsonpath={.data.root-cert\\.pem}"];
        let text = stand.cluster.kubectl(&map).await?;
        ensure!(text.contains("BEGIN CERTIFICATE"), "{text}");
        Ok(fs::write(&file, text)?)
    })
    .await?;
    Ok(file)
}

/// Pods with our sidecar, on a simulated node, which become ready.
pub(crate) fn sidecar_pods(namespace: &str, names: &[&str]) -> String {
    let pod = |name: &&str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}, palisade.dev/proxy: sidecar, security.istio.io/tlsMode: istio}}}}
spec: {{nodeName: fake-0, containers: [{{name: app, image: 'app:1', ports: [{{containerPort: 8080}}]}}]}}
"
        )
    };
    names.iter().map(pod).collect()
}
