//! One gateway process of `palisade run`, and an application behind it.

use std::{
    fs,
    net::{SocketAddr, TcpListener as StdListener},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use palisade_tests::{checkout, wait::until};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::Notify,
};

/// How long a process may take to begin, to end, or to follow an edit.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A port that was free a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(StdListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A gateway `default/edge`.
pub(crate) struct Gateway {
    child: Child,
    folder: TempDir,
}

impl Gateway {
    /// Starts it over these documents, and waits until something listens on `port`.
    pub(crate) async fn start(documents: &str, port: u16) -> anyhow::Result<Self> {
        let gateway = Self::launch(documents)?;
        until("the gateway", SOON, async || Ok(TcpStream::connect(("127.0.0.1", port)).await.map(drop)?)).await?;
        Ok(gateway)
    }

    /// Starts it and waits for nothing.
    pub(crate) fn launch(documents: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("all.yaml"), documents)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new(checkout::binary("palisade")?)
            .args(["run", "--gateway", "default/edge", "--admin", "127.0.0.1:0", "-f"])
            .arg(folder.path().join("all.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, folder })
    }

    /// Puts other documents in place of the first, as editors do.
    pub(crate) fn edit(&self, documents: &str) -> anyhow::Result<()> {
        let new = self.folder.path().join(".new");
        fs::write(&new, documents)?;
        Ok(fs::rename(new, self.folder.path().join("all.yaml"))?)
    }

    /// What it has said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let pid = self.child.id().context("it has ended already")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?)
    }

    /// Waits for its end, which must be a good one.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let status = tokio::time::timeout(SOON, self.child.wait()).await.context("it does not end")??;
        ensure!(status.success(), "{status}: {}", self.said());
        Ok(())
    }
}

/// An application: `/slow` is answered once it is released, an upgrade echoes, everything else is answered with its name.
pub(crate) struct Application {
    /// What it answers with.
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Lets slow answers go.
    pub(crate) release: Arc<Notify>,
    /// Rings when a slow request has arrived.
    pub(crate) arrived: Arc<Notify>,
}

impl Application {
    pub(crate) async fn start(name: &'static str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (release, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (released, arriving) = (Arc::clone(&release), Arc::clone(&arrived));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, name, Arc::clone(&released), Arc::clone(&arriving)));
            }
        });
        Ok(Self { name, address, release, arrived })
    }
}

async fn serve(mut stream: TcpStream, name: &str, release: Arc<Notify>, arrived: Arc<Notify>) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if head.contains("upgrade: websocket") {
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(switch).await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            return Ok(());
        }
        if head.starts_with("get /slow") {
            arrived.notify_one();
            release.notified().await;
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()).as_bytes()).await?;
    }
}

/// A Service of one application.
pub(crate) fn service(name: &str, address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [\"{ip}\"]}}]
---
"
    )
}

/// The gateway with these listeners (a YAML flow list), and a route of everything to `app`.
pub(crate) fn edge(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: default}}
spec: {{gatewayClassName: palisade, listeners: [{listeners}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: everything, namespace: default}}
spec:
  parentRefs: [{{name: edge}}]
  rules: [{{backendRefs: [{{name: app, port: 80}}]}}]
---
"
    )
}

/// A plaintext listener.
pub(crate) fn plain(name: &str, port: u16) -> String {
    format!("{{name: {name}, port: {port}, protocol: HTTP}}")
}
