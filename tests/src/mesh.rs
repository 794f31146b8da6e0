//! A mesh of real processes: `palisade dev` over a folder of documents that a test may edit.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{checkout, wait::until};

/// How long a mesh may take to become ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Default)]
pub struct Options {
    /// Tells meshes on one machine apart; a random one when empty.
    pub name: String,
    /// Documents: files, or folders whose files are copied, flat, into the mesh's own folder.
    pub documents: Vec<PathBuf>,
    /// The images file.
    pub images: PathBuf,
    /// Further arguments of `palisade dev`.
    pub arguments: Vec<String>,
}

/// A running mesh. Dropping it kills it; [`Mesh::stop`] ends it in good order.
#[derive(Debug)]
pub struct Mesh {
    child: Child,
    folder: TempDir,
    name: String,
    ready: Ready,
}

/// The ready file.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Gateways.
    pub gateways: Vec<Gateway>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// The control plane.
    pub control: Control,
}

/// A gateway of the ready file.
#[derive(Debug, Clone, Deserialize)]
pub struct Gateway {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Address inside the mesh.
    pub address: String,
    /// Host addresses by declared port.
    pub ports: BTreeMap<String, String>,
    /// Admin URL.
    pub admin: Option<String>,
    /// Metrics URL.
    pub metrics: Option<String>,
    /// Process id.
    pub pid: Option<u32>,
}

/// A pod of the ready file.
#[derive(Debug, Clone, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Address.
    pub ip: String,
    /// Network namespace, for `nsenter --net=`.
    pub netns: String,
    /// Admin URL of its sidecar.
    pub sidecar: Option<String>,
    /// Metrics URL of its sidecar.
    pub metrics: Option<String>,
    /// Process id of its sidecar.
    pub pid: Option<i32>,
}

/// The control plane of the ready file.
#[derive(Debug, Clone, Deserialize)]
pub struct Control {
    /// Admin URL.
    pub admin: String,
    /// Process id.
    pub pid: Option<i32>,
}

impl Mesh {
    /// Starts a mesh and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready within a minute: with what it said on standard error.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("palisade-mesh-").tempdir()?;
        let documents = folder.path().join("documents");
        fs::create_dir_all(&documents)?;
        for path in &options.documents {
            copy_documents(path, &documents)?;
        }
        let name = if options.name.is_empty() { format!("t{}", short_id(folder.path())) } else { options.name };
        let said = fs::File::create(folder.path().join("dev.log"))?;
        let child = Command::new(checkout::binary("palisade")?)
            .arg("dev")
            .arg("--file")
            .arg(&documents)
            .arg("--images")
            .arg(&options.images)
            .args(["--name", &name])
            .arg("--ready-file")
            .arg(folder.path().join("ready.json"))
            .arg("--log-dir")
            .arg(folder.path().join("logs"))
            .args(&options.arguments)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `palisade dev`")?;
        let ready =
            Ready { gateways: Vec::new(), pods: Vec::new(), control: Control { admin: String::new(), pid: None } };
        let mut mesh = Self { child, folder, name, ready };
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            if let Ok(ready) = mesh.read_ready() {
                mesh.ready = ready;
                return Ok(mesh);
            }
            if let Some(status) = mesh.child.try_wait()? {
                bail!("`palisade dev` ended ({status}) before it was ready:\n{}", mesh.said());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("`palisade dev` was not ready within {READY_LIMIT:?}:\n{}", mesh.said());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `palisade dev` has written so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("dev.log")).unwrap_or_else(|error| error.to_string())
    }

    /// The ready file as it is now (a restarted control plane rewrites it).
    ///
    /// # Errors
    /// When it is not there or not complete.
    pub fn read_ready(&self) -> anyhow::Result<Ready> {
        Ok(serde_json::from_slice(&fs::read(self.folder.path().join("ready.json"))?)?)
    }

    /// What `--name` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ready file as it was at the start.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Process id of `palisade dev`.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The host address of a gateway's port.
    ///
    /// # Errors
    /// When there is no such gateway or port.
    pub fn gateway(&self, name: &str, port: u16) -> anyhow::Result<&str> {
        let gateway = self.ready.gateways.iter().find(|gateway| gateway.name == name);
        let gateway = gateway.with_context(|| format!("no gateway `{name}` in {:?}", self.ready.gateways))?;
        let address = gateway.ports.get(&port.to_string());
        Ok(address.with_context(|| format!("gateway `{name}` has no port {port}: {:?}", gateway.ports))?.as_str())
    }

    /// A pod whose name begins with `prefix`.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, namespace: &str, prefix: &str) -> anyhow::Result<&Pod> {
        let is_it = |pod: &&Pod| pod.namespace == namespace && pod.name.starts_with(prefix);
        self.ready.pods.iter().find(is_it).with_context(|| format!("no pod `{namespace}/{prefix}*`"))
    }

    /// Writes one of the mesh's documents, atomically, as editors do.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.path().join("documents").join(file);
        let draft = self.folder.path().join(format!("{file}.draft"));
        fs::write(&draft, text)?;
        Ok(fs::rename(draft, path)?)
    }

    /// Text of one of the mesh's documents.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.folder.path().join("documents").join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Removes one of the mesh's documents.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.folder.path().join("documents").join(file))?)
    }

    /// Runs a command as a pod's application.
    ///
    /// # Errors
    /// When `palisade dev exec` cannot be run. The command's own failure is in the output.
    pub async fn exec(&self, pod: &Pod, command: &[&str]) -> anyhow::Result<Output> {
        let output = self.command(pod)?.args(command).stdin(Stdio::null()).output();
        output.await.context("cannot run `palisade dev exec`")
    }

    /// `palisade dev exec` into a pod, to which program and arguments are to be added.
    ///
    /// # Errors
    /// When `palisade` has not been built.
    pub fn command(&self, pod: &Pod) -> anyhow::Result<Command> {
        let mut command = Command::new(checkout::binary("palisade")?);
        command.args(["dev", "exec", "--name", &self.name]).arg(format!("{}/{}", pod.namespace, pod.name)).arg("--");
        Ok(command)
    }

    /// The access log of a pod's or gateway's proxy so far.
    ///
    /// # Errors
    /// When there is no log, or a line of it is not JSON.
    pub fn access_log(&self, namespace: &str, pod: &str) -> anyhow::Result<Vec<Value>> {
        let path = self.folder.path().join("logs").join(namespace).join(pod).join("proxy.log");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.lines()
            .filter(|line| line.starts_with("{\"time\""))
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// The folder with documents, logs and ready file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills the control plane; `dev` starts it again.
    ///
    /// # Errors
    /// When it cannot be signalled, or no other one comes up.
    pub async fn kill_control(&self) -> anyhow::Result<()> {
        let pid = self.read_ready()?.control.pid.context("the ready file names no control plane process")?;
        let status = Command::new("kill").args(["-KILL", &pid.to_string()]).status().await?;
        anyhow::ensure!(status.success(), "kill -KILL {pid}: {status}");
        until("another control plane", READY_LIMIT, async || {
            let now = self.read_ready()?.control.pid;
            anyhow::ensure!(now.is_some() && now != Some(pid), "still {now:?}");
            Ok(())
        })
        .await
    }

    /// Ends the mesh by SIGTERM and waits for it.
    ///
    /// # Errors
    /// When it does not end in time, or not with exit code 0.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        let status = tokio::time::timeout(STOP_LIMIT, self.child.wait())
            .await
            .with_context(|| format!("`palisade dev` did not end within {STOP_LIMIT:?}:\n{}", self.said()))??;
        anyhow::ensure!(status.success(), "`palisade dev` ended with {status}:\n{}", self.said());
        Ok(())
    }
}

fn copy_documents(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        let mut entries = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let is_document = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if path.is_file() && is_document {
                copy_documents(&path, to)?;
            }
        }
        return Ok(());
    }
    let name = from.file_name().context("a document needs a file name")?;
    fs::copy(from, to.join(name)).with_context(|| from.display().to_string())?;
    Ok(())
}

/// A short id that two meshes on one machine do not share: the random part of the folder's name.
fn short_id(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    name.chars().rev().take_while(char::is_ascii_alphanumeric).collect()
}
