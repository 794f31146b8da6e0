//! The webhooks of a control plane beside a cluster, registered there.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use palisade_compile::{Inputs, SourceOptions, compile};
use palisade_control::{
    admission::{Admission, AdmissionOptions, register, serve},
    ca::CertificateAuthority,
    injection::InjectionSettings,
    mesh::CompiledMesh,
    serve::ServingIdentity,
    slices::Slices,
};
use palisade_crds::document;
use palisade_tests::kubernetes::Cluster;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Webhooks that are served; the configurations stay in the cluster until [`Webhooks::unregister`].
pub(crate) struct Webhooks {
    pub(crate) options: AdmissionOptions,
    pub(crate) roots: String,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    _mesh: watch::Sender<Option<Arc<dyn Slices>>>,
    _folder: tempfile::TempDir,
}

impl Webhooks {
    /// Serves on the cluster's loopback, by a mesh of these documents, and registers.
    pub(crate) async fn start(cluster: &Cluster, documents: &str) -> anyhow::Result<Self> {
        let listener = cluster
            .connector()
            .inside(|| {
                let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
            .await?;
        let address = listener.local_addr()?;
        let texts = document::read("mesh.yaml", documents.as_bytes());
        let options = SourceOptions { is_files: true, ..SourceOptions::default() };
        let compiled = CompiledMesh::new(compile(&Arc::new(Inputs::from_texts(texts, "default", &options))));
        let folder = tempfile::tempdir()?;
        let domain = compiled.trust_domain().clone();
        let authority = CertificateAuthority::load_or_create(folder.path(), &domain, SystemTime::now())?;
        let (sender, mesh) = watch::channel(Some(Arc::new(compiled) as Arc<dyn Slices>));
        let lifetime = Duration::from_secs(3600);
        let identity = ServingIdentity::issue(&authority, Vec::new(), vec![address.ip()], lifetime)?;
        let stop = CancellationToken::new();
        let admission = Admission::new(mesh, "default", InjectionSettings::default());
        let listener = TcpListener::from_std(listener)?;
        let task = Some(tokio::spawn(serve(admission, listener, identity.anonymous_config()?, stop.clone())));
        let options =
            AdmissionOptions { webhook_url: Some(format!("https://{address}")), ..AdmissionOptions::default() };
        let webhooks =
            Self { options, roots: authority.root_bundle().to_owned(), stop, task, _mesh: sender, _folder: folder };
        webhooks.register(cluster, &webhooks.roots).await?;
        Ok(webhooks)
    }

    pub(crate) async fn register(&self, cluster: &Cluster, roots: &str) -> anyhow::Result<()> {
        register::write(&cluster.client().await?, &self.options, "palisade-system", roots).await.context("registering")
    }

    /// Nobody answers any more.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            drop(task.await);
        }
    }

    /// The cluster is as it was.
    pub(crate) async fn unregister(self, cluster: &Cluster) -> anyhow::Result<()> {
        for kind in [
            "validatingwebhookconfigurations",
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicies",
        ] {
            cluster.kubectl(&["delete", kind, "-l", "app.kubernetes.io/part-of=palisade"]).await?;
        }
        let mut webhooks = self;
        webhooks.stop().await;
        Ok(())
    }
}
