//! Palisade on a node: its images, its installation, and its command line.

use std::time::Duration;

use anyhow::{Context, ensure};
use palisade_images::{BuiltImage, Compression, PRODUCTS};
use tokio::process::Command;

use super::Node;
use crate::{checkout, wait::until};

/// Namespace of the control plane.
pub const SYSTEM: &str = "palisade-system";

/// Where the control plane's pages are, beside the cluster.
const CONTROL_URL: &str = "http://127.0.0.1:15014";

const SOON: Duration = Duration::from_secs(30);

/// The tag that the documents name.
const TAG: &str = env!("CARGO_PKG_VERSION");

impl Node {
    /// Installs Palisade as it is built beside this program, from the plain YAML that users take, and waits until the control plane
    /// is ready. Gateway API's CRDs are those of a channel.
    ///
    /// # Errors
    /// When a program is not built, or something is not ready in time.
    pub async fn install_palisade(&self, gateway_api: &str) -> anyhow::Result<()> {
        let images = tokio::task::spawn_blocking(product_images).await??;
        self.load_built(&images).await?;
        self.install_gateway_api(gateway_api).await?;
        self.palisade(&["crds", "apply", "--istio"]).await?;
        self.namespace("istio-system").await?;
        let folder = checkout::root().join("deploy/kubernetes");
        for file in ["crds.yaml", "palisade.yaml"] {
            let path = folder.join(file);
            let yaml = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            // One replica knows all proxies: the command line asks just one.
            self.apply(&yaml.replace("minReplicas: 2", "minReplicas: 1")).await?;
        }
        self.rollout(SYSTEM, "deployment/palisade-control").await?;
        self.forward_control().await
    }

    /// Leads [`CONTROL_URL`] to the loopback of a control plane's pod, whichever that is by then.
    async fn forward_control(&self) -> anyhow::Result<()> {
        let forward = format!(
            "while :; do {} --kubeconfig={} port-forward -n {SYSTEM} deployment/palisade-control 15014:15014; sleep 0.1; done",
            self.kubectl_program().display(),
            self.kubeconfig().display(),
        );
        let command = ["bash", "-c", &forward].map(str::to_owned);
        self.order(move |holder| holder.launch("port-forward", &command)).await?;
        until("the control plane's pages", SOON, async || {
            self.connector().connect(([127, 0, 0, 1], 15014).into()).await?;
            Ok(())
        })
        .await
    }

    /// Waits until a Deployment, StatefulSet or DaemonSet is as it should be.
    ///
    /// # Errors
    /// When it is not within two minutes: with what its pods say.
    pub async fn rollout(&self, namespace: &str, workload: &str) -> anyhow::Result<()> {
        match self.kubectl(&["rollout", "status", "-n", namespace, workload, "--timeout=120s"]).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.said_of(namespace).await)),
        }
    }

    /// What `palisade` prints, with this cluster's kubeconfig.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub async fn palisade(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.palisade_command(arguments)?.output().await.context("cannot run `palisade`")?;
        let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        ensure!(output.status.success(), "`palisade {}`: {}{printed}", arguments.join(" "), said.trim());
        Ok(printed.into_owned())
    }

    /// `palisade` with this cluster's kubeconfig.
    ///
    /// # Errors
    /// When it is not built.
    pub fn palisade_command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.command(checkout::binary("palisade")?);
        command.args(arguments).env("PALISADE_CONTROL", CONTROL_URL);
        Ok(command)
    }

    /// The lines of a container's log that are JSON: the access log of a proxy.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn log_lines(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> anyhow::Result<Vec<serde_json::Value>> {
        let log = self.kubectl(&["logs", "-n", namespace, pod, "-c", container]).await?;
        Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// What a namespace's pods and their containers say, for the message of a failure.
    pub async fn said_of(&self, namespace: &str) -> String {
        let shown = |what: anyhow::Result<String>| what.unwrap_or_else(|error| format!("{error:#}"));
        let pods = shown(self.kubectl(&["get", "pods", "-n", namespace, "-o", "wide"]).await);
        let events = shown(
            self.kubectl(&[
                "get",
                "events",
                "-n",
                namespace,
                "--sort-by=.lastTimestamp",
                "--field-selector=type!=Normal",
            ])
            .await,
        );
        let mut text = format!("{pods}\n{events}");
        let names = self.kubectl(&["get", "pods", "-n", namespace, "-o", "name"]).await.unwrap_or_default();
        for name in names.lines() {
            let log = shown(
                self.kubectl(&["logs", "-n", namespace, name, "--all-containers", "--prefix", "--tail=15"]).await,
            );
            text.push_str(&format!("\n--- {name}\n{log}"));
        }
        text
    }
}

/// Palisade's own images, of the programs that are built beside this one.
fn product_images() -> anyhow::Result<Vec<BuiltImage>> {
    let mut images = Vec::new();
    // The command line runs outside.
    for product in PRODUCTS.iter().filter(|product| product.name != "palisade") {
        let program = checkout::binary(product.name)?;
        let folder = program.parent().context("a program lies in a folder")?;
        let image = product.image(folder, &format!("palisade/{}:{TAG}", product.name))?;
        images.push(image.build(Compression::None)?);
    }
    Ok(images)
}
