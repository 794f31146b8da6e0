//! A real Kubernetes for tests: etcd, API server, controllers and scheduler of `tests/kubernetes`, and simulated nodes or a real
//! one, in namespaces of their own.
//!
//! One cluster runs on a machine at a time; another one waits for its turn. It ends with the value, and with the process
//! that started it, however that ends.

use std::{
    ffi::OsStr,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use kube::{
    Client,
    client::ConfigExt,
    config::{Config, KubeConfigOptions, Kubeconfig},
};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard},
    task::spawn_blocking,
};
use tower::ServiceExt;

use crate::checkout;

mod bookinfo;
mod cutting;
mod holder;
mod machine;
mod network;
mod node;
mod objects;
mod palisade;
mod pki;
mod pool;
mod programs;

pub use bookinfo::{BOOKINFO_IMAGE, bookinfo_documents};
pub use cutting::Cutting;
pub use machine::lacks_for_node;
pub use network::{Connector, Exposed};
pub use node::{Node, OUTSIDE};
pub use palisade::SYSTEM;

use holder::Holder;
use programs::{FIRST_SERVICE, HOST, NODE_ADDRESS, Program, Site};

/// How long a program may take to be ready. Where the API server was away, its clients look again later and later.
const READY: Duration = Duration::from_secs(180);

/// How long `kubectl wait` may meet objects that have no conditions yet, which it takes for an error.
const WITHOUT_CONDITIONS: Duration = Duration::from_secs(30);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Lines of a log that a failure shows.
const LAST_LINES: usize = 20;

/// The cluster that the tests of one binary share.
static SHARED: OnceCell<RwLock<Cluster>> = OnceCell::const_new();

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // In this order: the folder goes after the processes.
    holder: Arc<std::sync::Mutex<Holder>>,
    connector: Connector,
    network: String,
    folder: TempDir,
    programs: PathBuf,
    site: Site,
}

impl Cluster {
    /// Starts a cluster and waits until it is ready: about 4 s, 700 MB.
    ///
    /// # Errors
    /// When this machine allows no namespaces, the programs are not built, or one of them is not ready in time: with
    /// the last lines of its log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(Site::Simulated).await
    }

    async fn start_at(site: Site) -> anyhow::Result<Self> {
        let programs = built().await?;
        let folder = tempfile::Builder::new().prefix("palisade-kubernetes-").tempdir()?;
        fs::create_dir(folder.path().join("log"))?;
        let addresses = [IpAddr::from(HOST), IpAddr::from(FIRST_SERVICE), IpAddr::from(NODE_ADDRESS)];
        pki::write(&folder.path().join("pki"), &programs::server(), &addresses)?;
        let (path, lock) = (folder.path().to_owned(), programs.with_file_name("running"));
        let holder = spawn_blocking(move || Holder::start(&path, &lock, site)).await??;
        let cluster = Self {
            connector: Connector::new(holder.network()),
            network: holder.network_path(),
            holder: Arc::new(std::sync::Mutex::new(holder)),
            folder,
            programs,
            site,
        };
        if site == Site::Node {
            node::launch_containerd(&cluster).await?;
        }
        cluster.launch(Program::Etcd).await?;
        cluster.start_api_server().await?;
        cluster.launch(Program::Controllers).await?;
        cluster.launch(Program::Scheduler).await?;
        let client = cluster.client().await?;
        // Pods can be created once the controllers have made this.
        cluster.await_ready(Program::Controllers, async || objects::default_account(&client, "default").await).await?;
        Ok(cluster)
    }

    /// The cluster that all tests of this binary share; the first one starts it, the end of the process ends it. A binary that
    /// uses it can have no other.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn shared() -> anyhow::Result<RwLockReadGuard<'static, Self>> {
        Ok(SHARED.get_or_try_init(Self::start_shared).await?.read().await)
    }

    /// The shared cluster, once no other test uses it: for those that stop a part of it.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn exclusive() -> anyhow::Result<RwLockWriteGuard<'static, Self>> {
        Ok(SHARED.get_or_try_init(Self::start_shared).await?.write().await)
    }

    async fn start_shared() -> anyhow::Result<RwLock<Self>> {
        Ok(RwLock::new(Self::start().await?))
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start_api_server(&self) -> anyhow::Result<()> {
        self.launch(Program::ApiServer).await?;
        let client = self.client().await?;
        self.await_ready(Program::ApiServer, async || {
            client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
            Ok(())
        })
        .await
    }

    /// Ends the API server.
    ///
    /// # Errors
    /// When the cluster has ended.
    pub async fn stop_api_server(&self) -> anyhow::Result<()> {
        self.stop(Program::ApiServer).await
    }

    /// Starts etcd, with the data that it had. The API server finds it by itself.
    ///
    /// # Errors
    /// When the API server is not ready with it in time.
    pub async fn start_etcd(&self) -> anyhow::Result<()> {
        self.launch(Program::Etcd).await?;
        let client = self.client().await?;
        self.await_ready(Program::Etcd, async || {
            client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
            Ok(())
        })
        .await
    }

    /// Ends etcd. Its data stays.
    ///
    /// # Errors
    /// When the cluster has ended.
    pub async fn stop_etcd(&self) -> anyhow::Result<()> {
        self.stop(Program::Etcd).await
    }

    /// Ends controllers and scheduler: what is written stays as it is written.
    ///
    /// # Errors
    /// When the cluster has ended.
    pub async fn stop_controllers(&self) -> anyhow::Result<()> {
        self.stop(Program::Scheduler).await?;
        self.stop(Program::Controllers).await
    }

    /// The kubeconfig of a user who may do anything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("pki/admin.kubeconfig")
    }

    /// The kubeconfig of someone who has a token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_with(&self, token: &str) -> anyhow::Result<PathBuf> {
        let authority = fs::read_to_string(self.folder.path().join("pki/ca.crt"))?;
        let config = pki::kubeconfig(&programs::server(), &authority, &serde_json::json!({"token": token}));
        let mut file = tempfile::Builder::new().suffix(".kubeconfig").tempfile_in(self.folder.path())?;
        std::io::Write::write_all(&mut file, config.to_string().as_bytes())?;
        Ok(file.keep()?.1)
    }

    /// A client that may do anything. It belongs to the calling runtime.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.client_of(&self.kubeconfig()).await
    }

    /// A client with a kubeconfig of this cluster.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client_of(&self, kubeconfig: &Path) -> anyhow::Result<Client> {
        client_of(kubeconfig, self.connector()).await
    }

    /// A client that may do anything, over connections that break off after as many bytes as they say.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn cut_client(&self, connections: Cutting) -> anyhow::Result<Client> {
        client_of(&self.kubeconfig(), connections).await
    }

    /// Makes connections to what listens beside the cluster.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// A program that runs beside the cluster: its loopback is the cluster's. It ends when the value is dropped, and when the
    /// thread ends that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network)).args(["--", "setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(program).env("KUBECONFIG", self.kubeconfig()).kill_on_drop(true);
        command
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl_with(arguments, "").await
    }

    /// Creates or changes objects.
    ///
    /// # Errors
    /// When the API server does not take them.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml).await.map(drop)
    }

    /// Creates or changes objects, in a namespace where they name none.
    ///
    /// # Errors
    /// When the API server does not take them.
    pub async fn apply_to(&self, namespace: &str, yaml: &str) -> anyhow::Result<()> {
        let arguments = ["apply", "-n", namespace, "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl_with(&arguments, yaml).await.map(drop)
    }

    /// Installs Gateway API's CRDs and waits until they are served.
    ///
    /// # Errors
    /// When the API server does not take them.
    pub async fn install_gateway_api(&self, channel: &str) -> anyhow::Result<()> {
        let folder = self.programs.join("gateway-api").join(channel).display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &folder]).await?;
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await.map(drop)
    }

    /// The program that [`Self::kubectl`] runs.
    pub fn kubectl_program(&self) -> PathBuf {
        self.programs.join("kubectl")
    }

    /// The cluster's own folder: `pki/` with keys, certificates and kubeconfigs, `log/` with one file a program.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where `kubectl` and the programs of the cluster are.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Path of the network namespace, for `nsenter --net=`.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// What `kubectl` prints, and how it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn kubectl_output(&self, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut child = self
            .command(self.kubectl_program())
            .args(arguments)
            .env("KUBECACHEDIR", self.folder.path().join("kubectl"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run `nsenter` (util-linux)")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // Where it stops reading, it says why itself.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        Ok(child.wait_with_output().await?)
    }

    async fn kubectl_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + WITHOUT_CONDITIONS;
        let output = loop {
            let output = self.kubectl_output(arguments, input).await?;
            let is_early = arguments.first() == Some(&"wait")
                && String::from_utf8_lossy(&output.stderr).contains("conditions accessor error");
            if !is_early || Instant::now() >= deadline {
                break output;
            }
            tokio::time::sleep(PAUSE).await;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`kubectl {}`: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn launch(&self, program: Program) -> anyhow::Result<()> {
        let command = program.command(&self.programs, self.folder.path(), self.site);
        self.order(move |holder| holder.launch(program.name(), &command)).await
    }

    async fn stop(&self, program: Program) -> anyhow::Result<()> {
        self.order(move |holder| holder.stop(program.name())).await
    }

    /// Orders are answered at once, but for the stopping of a process.
    async fn order<T: Send + 'static>(
        &self,
        order: impl FnOnce(&mut Holder) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let holder = Arc::clone(&self.holder);
        spawn_blocking(move || {
            let mut holder = holder.lock().map_err(|_| anyhow::anyhow!("an order panicked"))?;
            order(&mut holder)
        })
        .await?
    }

    /// Looks until `look` succeeds, as long as the program runs.
    async fn await_ready(
        &self,
        program: Program,
        mut look: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let error = match tokio::time::timeout(READY, look()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer"),
            };
            if !self.order(move |holder| holder.runs(program.name())).await? {
                bail!("{} has ended: {error:#}\n{}", program.name(), self.last_lines(program));
            }
            if Instant::now() >= deadline {
                bail!("{} is not ready after {READY:?}: {error:#}\n{}", program.name(), self.last_lines(program));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn last_lines(&self, program: Program) -> String {
        let log = self.folder.path().join("log").join(program.name());
        let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
    }
}

/// A client inside a cluster's network.
async fn client_of<C>(kubeconfig: &Path, connector: C) -> anyhow::Result<Client>
where
    C: tower::Service<http::Uri> + Clone + Send + Sync + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + hyper_util::client::legacy::connect::Connection + Send + Unpin,
    C::Future: Send,
    C::Error: Into<tower::BoxError>,
{
    // rustls asks the process for its cryptography. One that is there stays.
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let https = config.rustls_https_connector_with_connector(connector)?;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build(https);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .service(client.map_err(tower::BoxError::from));
    Ok(Client::new(service, config.default_namespace))
}

/// The folder of the programs in the cache.
async fn built() -> anyhow::Result<PathBuf> {
    let output = Command::new(checkout::root().join("tests/kubernetes/build"))
        .arg("--where")
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}
