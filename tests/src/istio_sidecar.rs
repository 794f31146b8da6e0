//! An Envoy in a pod, set up as Istio sets up its sidecars: the same redirection rules, mutual TLS both ways with certificates of
//! the mesh's root, Istio's ALPN offers and server names, endpoints by EDS.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use tokio::io::AsyncWriteExt;

use crate::{
    bench::{process::Process, stand::envoy_program},
    mesh::Pod,
};

/// What the Envoys of a test have in common: certificates, endpoints, logs.
#[derive(Debug)]
pub struct IstioSidecars {
    folder: PathBuf,
    namespace: &'static str,
    /// The server that callers know, its port and its identity's service account.
    server: &'static str,
    port: u16,
}

impl IstioSidecars {
    /// Makes a root under Istio's `cacerts` names in `folder/ca`, and from it a certificate for each service account of the namespace.
    /// `server` is the Service that callers may call at `port`; its pods run as the service account of that name.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn new(
        folder: &Path,
        namespace: &'static str,
        accounts: &[&str],
        server: &'static str,
        port: u16,
    ) -> anyhow::Result<Self> {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
        let output = Command::new("sh")
            .args(["-ec", CERTIFICATES, "sh", namespace])
            .args(accounts)
            .current_dir(folder)
            .output()
            .context("cannot run sh")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sidecars = Self { folder: folder.to_owned(), namespace, server, port };
        sidecars.set_endpoints(&[])?;
        Ok(sidecars)
    }

    /// The folder with the root, for `palisade dev --ca`.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca")
    }

    /// Addresses of the server's pods, for all Envoys: they notice by themselves.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_endpoints(&self, addresses: &[&str]) -> anyhow::Result<()> {
        let endpoint = |address: &&str| {
            let address = serde_json::json!({"socket_address": {"address": address, "port_value": self.port}});
            serde_json::json!({"endpoint": {"address": address}})
        };
        let assignment = serde_json::json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>()}],
        });
        let draft = self.folder.join("endpoints.draft");
        fs::write(&draft, serde_json::json!({"resources": [assignment]}).to_string())?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
        Ok(fs::rename(draft, self.folder.join("endpoints.json"))?)
    }

    /// Starts an Envoy as the sidecar of a pod of this service account. Needs root. `rules` are those of a pod of ours.
    ///
    /// # Errors
    /// When it does not listen.
    pub async fn start(&self, pod: &Pod, account: &str, rules: &[u8]) -> anyhow::Result<Process> {
        let config = include_str!("istio_sidecar/envoy.yaml")
            .replace("FOLDER", &self.folder.display().to_string())
            .replace("ACCOUNT", account)
            .replace("NAMESPACE", self.namespace)
            .replace("SERVER", self.server)
            .replace("PORT", &self.port.to_string());
        let path = self.folder.join(format!("{}.yaml", pod.name));
        fs::write(&path, config)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        redirect(Path::new(&pod.netns), rules).await?;
        let log = self.folder.join(format!("{}.log", pod.name));
        let arguments = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"];
        let arguments = arguments.iter().map(|text| (*text).to_owned()).chain([path.display().to_string()]);
        let program = envoy_program(&self.folder)?;
        let mut process = Process::start_in(Path::new(&pod.netns), &log, &program, &arguments.collect::<Vec<_>>())?;
        process.listens(15006).await?;
        Ok(process)
    }
}

/// The redirection rules of one of our pods, which do not depend on the pod.
///
/// # Errors
/// When it has none.
pub async fn rules(pod: &Pod) -> anyhow::Result<Vec<u8>> {
    let output = tokio::process::Command::new("nsenter")
        .arg(format!("--net={}", pod.netns))
        .args(["nft", "list", "table", "inet", "palisade_redirect"])
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Loads rules into a network namespace, in the place of what was there.
///
/// # Errors
/// When they are refused.
pub async fn redirect(namespace: &Path, rules: &[u8]) -> anyhow::Result<()> {
    let mut child = tokio::process::Command::new("nsenter")
        .arg(format!("--net={}", namespace.display()))
        .args(["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let table = "inet palisade_redirect";
    input.write_all(format!("add table {table}\ndelete table {table}\n").as_bytes()).await?;
    input.write_all(rules).await?;
    drop(input);
    ensure!(child.wait().await?.success(), "the redirection rules are refused");
    Ok(())
}

/// `$1` is the namespace, the rest are service accounts.
const CERTIFICATES: &str = r#"
    namespace=$1; shift
    key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt > "$1"; }
    mkdir ca
    key ca/ca-key.pem
    openssl req -x509 -new -key ca/ca-key.pem -sha256 -days 30 -subj /O=cluster.local -out ca/ca-cert.pem \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    cp ca/ca-cert.pem ca/root-cert.pem; cp ca/ca-cert.pem ca/cert-chain.pem; cp ca/ca-cert.pem root-cert.pem
    serial=7
    for name in "$@"; do
      serial=$((serial + 1))
      key $name-key.pem
      openssl req -new -key $name-key.pem -subj / -out $name.csr
      printf '%s\n' "subjectAltName=critical,URI:spiffe://cluster.local/ns/$namespace/sa/$name" \
        keyUsage=critical,digitalSignature,keyEncipherment extendedKeyUsage=serverAuth,clientAuth \
        basicConstraints=critical,CA:FALSE > $name.ext
      openssl x509 -req -in $name.csr -CA ca/ca-cert.pem -CAkey ca/ca-key.pem -set_serial $serial -days 1 -sha256 \
        -extfile $name.ext -out $name.pem
      cat $name.pem ca/ca-cert.pem > $name-chain.pem
    done
    chmod 0600 ca/ca-key.pem; chmod 0644 *.pem
"#;
