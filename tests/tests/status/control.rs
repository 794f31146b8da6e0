//! Control planes as processes beside the cluster, and objects as the API server has them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use palisade_tests::{checkout, kubernetes::Cluster, wait::until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long anything may take that is to happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Namespace of the control planes.
const SYSTEM: &str = "palisade-system";

/// The Gateway API's group and version.
pub(crate) const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

/// What control planes share.
pub(crate) struct Stand<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) client: kube::Client,
    /// By which control planes know the cluster, and themselves.
    kubeconfig: PathBuf,
    folder: TempDir,
}

/// A control plane.
pub(crate) struct Replica {
    child: Child,
    pub(crate) listen: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

impl<'a> Stand<'a> {
    /// A cluster with the Gateway API, our class, one simulated node, and an empty namespace.
    pub(crate) async fn new(cluster: &'a Cluster, namespace: &str) -> anyhow::Result<Self> {
        cluster.install_gateway_api("standard").await?;
        cluster.fake_nodes(1).await?;
        // It may be there from another test.
        drop(cluster.namespace(SYSTEM).await);
        cluster.namespace(namespace).await?;
        cluster
            .apply(
                "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: palisade}, \
                 spec: {controllerName: palisade.dev/gateway-controller}}",
            )
            .await?;
        Self::as_owner(cluster, cluster.kubeconfig().to_path_buf()).await
    }

    /// A cluster as it is, and control planes as whoever a kubeconfig names.
    pub(crate) async fn as_owner(cluster: &'a Cluster, kubeconfig: PathBuf) -> anyhow::Result<Self> {
        let client = cluster.client().await?;
        Ok(Self { cluster, client, kubeconfig, folder: tempfile::tempdir()? })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a control plane and waits until it is ready.
    pub(crate) async fn control(&self, name: &str) -> anyhow::Result<Replica> {
        self.control_with(name, &[]).await
    }

    /// One with further flags.
    pub(crate) async fn control_with(&self, name: &str, flags: &[&str]) -> anyhow::Result<Replica> {
        let connector = self.cluster.connector();
        let (listen, admin) = (connector.free_address().await?, connector.free_address().await?);
        let log = self.folder().join(format!("{name}.log"));
        let said = fs::File::create(&log)?;
        let child = self
            .cluster
            .command(checkout::binary("palisade-control")?)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--control-namespace", SYSTEM])
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let replica = Replica { child, listen, admin, log };
        let ready = until("the control plane", SOON, async || {
            let (code, _) = self.page(&replica, "/healthz/ready").await?;
            ensure!(code == 200, "{code}");
            Ok(())
        });
        ready.await.with_context(|| replica.said())?;
        Ok(replica)
    }

    /// A page of a control plane.
    pub(crate) async fn page(&self, replica: &Replica, path: &str) -> anyhow::Result<(u16, String)> {
        let stream = self.cluster.connector().connect(replica.admin).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request =
            Request::builder().uri(path).header("host", replica.admin.to_string()).body(Empty::<bytes::Bytes>::new())?;
        let answer = tokio::time::timeout(Duration::from_secs(5), sender.send_request(request)).await??;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Status writes of a control plane: of a kind, with a result.
    pub(crate) async fn writes(&self, replica: &Replica, kind: &str, result: &str) -> anyhow::Result<u64> {
        let (_, text) = self.page(replica, "/metrics").await?;
        let start = format!("palisade_control_status_writes_total{{kind=\"{kind}\",result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        Ok(line.map(str::parse).transpose()?.unwrap_or(0))
    }

    /// Writes of objects that run Gateways.
    pub(crate) async fn gateway_writes(&self, replica: &Replica) -> anyhow::Result<u64> {
        let (_, text) = self.page(replica, "/metrics").await?;
        let lines = text.lines().filter(|line| line.starts_with("palisade_control_gateway_writes_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()).map(|number| Ok(number.parse::<u64>()?)).sum()
    }

    /// Whether a control plane leads.
    pub(crate) async fn leads(&self, replica: &Replica) -> anyhow::Result<bool> {
        let (_, text) = self.page(replica, "/metrics").await?;
        Ok(text.lines().any(|line| line == "palisade_control_leader 1"))
    }

    /// An object as the API server has it.
    pub(crate) async fn get(&self, api: &str, plural: &str, namespace: &str, name: &str) -> anyhow::Result<Value> {
        let request = Request::get(format!("/apis/{api}/namespaces/{namespace}/{plural}/{name}")).body(Vec::new())?;
        Ok(self.client.request(request).await?)
    }

    /// The end of `palisade` with these arguments and a control plane to ask.
    pub(crate) async fn palisade(&self, replica: &Replica, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.asking(replica, arguments)?;
        Ok(command.output().await?)
    }

    /// `palisade` with these arguments and a control plane to ask.
    pub(crate) fn asking(&self, replica: &Replica, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.cluster.command(checkout::binary("palisade")?);
        command.args(arguments).env("PALISADE_CONTROL", format!("http://{}", replica.admin));
        Ok(command)
    }
}

impl Replica {
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().context("it has ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// SIGTERM, and its end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = tokio::time::timeout(SOON, self.child.wait()).await??;
        ensure!(status.success(), "{status}: {}", self.said());
        Ok(())
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// A condition of a list: status, reason, observed generation, message.
pub(crate) fn condition(list: &Value, kind: &str) -> anyhow::Result<(String, String, i64, String)> {
    let all = list.as_array().context("no conditions")?;
    let Some(found) = all.iter().find(|condition| condition["type"] == kind) else { bail!("no {kind} among {all:?}") };
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("reason"), found["observedGeneration"].as_i64().unwrap_or(-1), text("message")))
}

/// `STATUS REASON` of a condition.
pub(crate) fn told(list: &Value, kind: &str) -> anyhow::Result<String> {
    let (status, reason, ..) = condition(list, kind)?;
    Ok(format!("{status} {reason}"))
}

/// A Gateway with one plaintext listener on a port.
pub(crate) fn gateway(namespace: &str, port: u16) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: {namespace}}}
spec: {{gatewayClassName: palisade, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}
"
    )
}

/// A route at it.
pub(crate) fn route(namespace: &str, name: &str, host: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{parentRefs: [{{name: edge}}], hostnames: [{host}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}
"
    )
}
