//! A control plane beside the cluster.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use palisade_proxy::config::{Credentials, Dialer, TlsDialer};
use palisade_tests::{
    checkout,
    kubernetes::{Cluster, Exposed},
    wait::until,
};
use tokio::process::{Child, Command};

const SOON: Duration = Duration::from_secs(30);

/// A control plane; it ends with the value.
pub(super) struct Control {
    exposed: Exposed,
    admin: Exposed,
    namespace: String,
    log: PathBuf,
    child: Child,
}

impl Control {
    pub(super) async fn start(cluster: &Cluster, folder: &Path, namespace: &str, name: &str) -> anyhow::Result<Self> {
        Self::start_with(cluster, folder, namespace, name, &[]).await
    }

    /// With further arguments.
    pub(super) async fn start_with(
        cluster: &Cluster,
        folder: &Path,
        namespace: &str,
        name: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let connector = cluster.connector();
        let (listen, admin) = (connector.free_address().await?, connector.free_address().await?);
        let log = folder.join(format!("{name}.log"));
        let said = fs::File::create(&log)?;
        let child = cluster
            .command(checkout::binary("palisade-control")?)
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig())
            .args(["--control-namespace", namespace, "--listen", &listen.to_string(), "--admin", &admin.to_string()])
            // Where nothing may be written: root and keys are not to come from files.
            .args(["--ca-dir", "/proc/none", "--token-key", "/proc/none/key"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let exposed = connector.expose(listen).await?;
        let admin = connector.expose(admin).await?;
        let control = Self { exposed, admin, namespace: namespace.to_owned(), log, child };
        until("a control plane", SOON, async || {
            connector.connect(listen).await.with_context(|| control.said())?;
            Ok(())
        })
        .await?;
        Ok(control)
    }

    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }

    pub(super) fn dialer(&self, roots: &Path) -> anyhow::Result<Dialer> {
        let address: SocketAddr = self.exposed.address;
        Ok(Dialer::tls(TlsDialer {
            address: address.to_string(),
            server_name: format!("palisade-control.{}.svc", self.namespace).try_into()?,
            roots: roots.to_owned(),
            credentials: Arc::new(Credentials::default()),
        }))
    }

    /// Ends it as a crash does.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// `palisade identity`, asked of this replica.
    pub(super) async fn identity(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let url = format!("http://{}", self.admin.address);
        let mut command = Command::new(checkout::binary("palisade")?);
        let output = command.arg("identity").args(arguments).args(["--control", &url]).output();
        output.await.context("cannot run `palisade identity`")
    }
}
