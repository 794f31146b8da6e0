//! The mesh on a real API server, and a control plane beside it.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use kube::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Child, task::JoinSet};

use super::{documents, proxies::Target};
use crate::{checkout, kubernetes::Cluster, wait::until};

/// Requests to the API server at a time while the mesh is written.
const AT_ONCE: usize = 16;
/// Namespace of the control plane.
const SYSTEM: &str = "palisade-system";
/// How long anything may take that is to happen soon.
const SOON: Duration = Duration::from_secs(60);

/// An API server with the mesh.
pub(super) struct Stand {
    pub(super) cluster: Cluster,
    pub(super) client: Client,
    folder: TempDir,
}

/// A control plane.
pub(super) struct Control {
    child: Child,
    /// Its process id.
    pub(super) pid: u32,
    pub(super) started: Instant,
    pub(super) listen: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

/// Where the API server has an object.
fn path(object: &Value) -> anyhow::Result<(String, String)> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let (api, plural) = match object["kind"].as_str().unwrap_or_default() {
        "Node" => ("api/v1", "nodes"),
        "Namespace" => ("api/v1", "namespaces"),
        "ServiceAccount" => ("api/v1", "serviceaccounts"),
        "Service" => ("api/v1", "services"),
        "Pod" => ("api/v1", "pods"),
        "EndpointSlice" => ("apis/discovery.k8s.io/v1", "endpointslices"),
        "AuthorizationPolicy" => ("apis/security.istio.io/v1", "authorizationpolicies"),
        "HTTPRoute" => ("apis/gateway.networking.k8s.io/v1", "httproutes"),
        "Gateway" => ("apis/gateway.networking.k8s.io/v1", "gateways"),
        "GatewayClass" => ("apis/gateway.networking.k8s.io/v1", "gatewayclasses"),
        kind => anyhow::bail!("objects of kind `{kind}` are not written"),
    };
    let namespace = match text("namespace") {
        "" => String::new(),
        namespace => format!("namespaces/{namespace}/"),
    };
    let collection = format!("/{api}/{namespace}{plural}");
    Ok((format!("{collection}/{}", text("name")), collection))
}

/// Writes an object that is not there yet, with its status.
async fn create(client: &Client, object: &Value) -> anyhow::Result<()> {
    let (path, collection) = path(object)?;
    let request = Request::post(collection).header("content-type", "application/json");
    let _: Value = client.request(request.body(serde_json::to_vec(object)?)?).await?;
    if let Some(status) = object.get("status") {
        let request = Request::patch(format!("{path}/status")).header("content-type", "application/merge-patch+json");
        let _: Value = client.request(request.body(serde_json::to_vec(&json!({"status": status}))?)?).await?;
    }
    Ok(())
}

/// Changes an object, or creates it.
pub(super) async fn edit(client: &Client, object: &Value) -> anyhow::Result<()> {
    let (path, _) = path(object)?;
    let request = Request::patch(format!("{path}?fieldManager=bench&force=true"));
    let request = request.header("content-type", "application/apply-patch+yaml");
    let _: Value = client.request(request.body(serde_json::to_vec(object)?)?).await?;
    Ok(())
}

impl Stand {
    /// Starts a cluster and writes the mesh to it: some minutes.
    pub(super) async fn new() -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        cluster.install_gateway_api("standard").await?;
        for folder in ["istio", "palisade"] {
            let folder = checkout::root().join("crds/generated").join(folder).display().to_string();
            cluster.kubectl(&["apply", "--server-side", "-R", "-f", &folder]).await?;
        }
        cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await?;
        for namespace in [SYSTEM, "istio-system"] {
            cluster.kubectl(&["create", "namespace", namespace]).await?;
        }
        // They would delete pods and nodes that nothing runs.
        cluster.stop_controllers().await?;
        let stand = Self { client: cluster.client().await?, cluster, folder: tempfile::tempdir()? };
        for (what, objects) in [
            ("nodes and namespaces", documents::places()),
            ("accounts", documents::accounts()),
            ("services", documents::services()),
            ("pods", documents::pods()),
            ("endpoint slices", documents::endpoint_slices()),
            ("policies", documents::policies()),
            ("routes", documents::routes()),
        ] {
            stand.write(what, objects).await?;
        }
        Ok(stand)
    }

    /// Writes objects that are not there yet.
    pub(super) async fn write(&self, what: &str, objects: Vec<Value>) -> anyhow::Result<()> {
        let (count, started) = (objects.len(), Instant::now());
        let queue = Arc::new(Mutex::new(objects.into_iter()));
        let mut writers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (client, queue) = (self.client.clone(), Arc::clone(&queue));
            writers.spawn(async move {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(object) = next else { return anyhow::Ok(()) };
                    let name = &object["metadata"]["name"];
                    create(&client, &object).await.with_context(|| format!("{} {name}", object["kind"]))?;
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done??;
        }
        eprintln!("{count} {what} written in {:.1?}", started.elapsed());
        Ok(())
    }

    /// Starts a control plane; it is not waited for.
    pub(super) async fn control(&self) -> anyhow::Result<Control> {
        let connector = self.cluster.connector();
        let (listen, admin) = (connector.free_address().await?, connector.free_address().await?);
        let log = self.folder.path().join("control.log");
        let said = fs::File::create(&log)?;
        let started = Instant::now();
        let child = self
            .cluster
            .command(checkout::binary("palisade-control")?)
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig())
            .args(["--control-namespace", SYSTEM])
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let pid = child.id().context("the control plane has ended")?;
        Ok(Control { child, pid, started, listen, admin, log })
    }

    /// Waits until a control plane is ready.
    pub(super) async fn ready(&self, control: &Control) -> anyhow::Result<Duration> {
        let ready = until("the control plane", SOON, async || {
            let (code, _) = self.page(control, "/healthz/ready").await?;
            ensure!(code == 200, "{code}");
            Ok(())
        });
        ready.await.with_context(|| control.said())?;
        Ok(control.started.elapsed())
    }

    /// Where the proxies of a control plane connect. It has been ready once: its roots are published.
    pub(super) async fn target(&self, control: &Control) -> anyhow::Result<Target> {
        let namespace = documents::namespace_of(0);
        let roots = until("the bundle of roots", SOON, async || {
            let map = [
                "get",
                "configmap",
                "-n",
                &namespace,
                "palisade-ca-root-cert",
                "-o",
                "jsonpath={.data.root-cert\\.pem}",
            ];
            let text = self.cluster.kubectl(&map).await?;
            ensure!(text.contains("BEGIN CERTIFICATE"), "{text}");
            Ok(text)
        })
        .await?;
        Target::new(self.cluster.connector(), control.listen, &roots, "palisade-control")
    }

    /// A page of a control plane.
    pub(super) async fn page(&self, control: &Control, path: &str) -> anyhow::Result<(u16, String)> {
        let stream = self.cluster.connector().connect(control.admin).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request =
            Request::builder().uri(path).header("host", control.admin.to_string()).body(Empty::<bytes::Bytes>::new())?;
        let answer = tokio::time::timeout(Duration::from_secs(5), sender.send_request(request)).await??;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Status writes of a control plane, by kind.
    pub(super) async fn writes(&self, control: &Control, kind: &str) -> anyhow::Result<u64> {
        let (_, text) = self.page(control, "/metrics").await?;
        let start = format!("palisade_control_status_writes_total{{kind=\"{kind}\",");
        let counts = text.lines().filter(|line| line.starts_with(&start)).filter_map(|line| line.rsplit(' ').next());
        counts.map(|count| Ok(count.parse::<u64>()?)).sum()
    }
}

impl Control {
    /// What each compile took, in the order of the log, in milliseconds.
    pub(super) fn compiles(&self) -> anyhow::Result<Vec<f64>> {
        let text = fs::read_to_string(&self.log)?;
        let elapsed = text.lines().filter(|line| line.contains("compiled")).filter_map(|line| {
            let rest = line.split("elapsed_us").nth(1)?;
            let digits: String =
                rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
            // Colours of a terminal would come as digits before it; there is none.
            digits.parse::<f64>().ok()
        });
        Ok(elapsed.map(|us| us / 1e3).collect())
    }

    /// Resident memory in MiB.
    pub(super) fn resident(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// SIGTERM, and its end.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGTERM)?;
        tokio::time::timeout(SOON, self.child.wait()).await.context("the control plane does not end")??;
        Ok(())
    }

    /// The end of its log.
    pub(super) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("\"compiled\"")).collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }
}
