//! Two sidecars with an application each, and two Envoys in the same place, in pods of their own.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;
use tempfile::TempDir;

use super::{THREADS, envoy_program, open_folder, policies::policies, shell};
use crate::{
    bench::{
        measure::{self, words},
        process::Process,
    },
    istio_sidecar::{redirect, rules},
    mesh::{Mesh, Options, Pod},
    wait::until,
};

/// The server, as its callers name it.
pub const HOST: &str = "server.bench";
/// How long the first answer may take.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Sidecars and their peers.
#[derive(Debug)]
pub struct Sidecars {
    mesh: Mesh,
    /// Ours first, then Envoy.
    pub peers: Vec<SidecarPeer>,
    /// A process in a pod without any proxy.
    pub outside: u32,
    /// Address of a server's pod without any proxy.
    pub unproxied: String,
    /// With the certificate of the caller: `caller-chain.pem`, `caller-key.pem`.
    pub folder: TempDir,
    _processes: Vec<Process>,
    _outside: Process,
}

/// One pair.
#[derive(Debug)]
pub struct SidecarPeer {
    /// Name for tables.
    pub name: &'static str,
    /// The caller's proxy, in whose namespace the load runs, and the server's.
    pub pids: [u32; 2],
    /// What the caller dials; the port is to be added.
    pub address: String,
    /// The server's pod.
    pub pod: String,
}

impl Sidecars {
    /// Starts everything.
    ///
    /// # Errors
    /// When a peer is not installed or does not come up. Needs root.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("palisade-bench-").tempdir()?;
        open_folder(folder.path())?;
        certificates(folder.path())?;
        let path = folder.path().join("sidecars.yaml");
        let documents = include_str!("sidecars.yaml").replace("POLICIES\n", &policies("bench", "{app: server}", ""));
        fs::write(&path, documents)?;
        let images = folder.path().join("images.yaml");
        let bench = std::env::current_exe()?;
        fs::write(
            &images,
            format!("\"palisade.dev/upstream:*\": [\"{}\", upstream]\n\"*\": [sleep, infinity]\n", bench.display()),
        )?;
        let arguments = vec!["--ca".to_owned(), folder.path().join("ca").display().to_string()];
        let mesh = Mesh::start(Options { documents: vec![path], images, arguments, ..Options::default() }).await?;
        let pod = |name: &str| mesh.pod("bench", name);
        let ours = SidecarPeer {
            name: "palisade",
            pids: [proxy_of(pod("caller-0")?)?, proxy_of(pod("server-0")?)?],
            address: "10.96.77.1".to_owned(),
            pod: pod("server-0")?.ip.clone(),
        };
        let server = pod("envoy-server-0")?.ip.clone();
        let config = include_str!("envoy-sidecar.yaml")
            .replace("OUTBOUND\n", &super::envoy::outbound())
            .replace("INBOUND\n", &super::envoy::inbound())
            .replace("CLUSTERS\n", &super::envoy::clusters())
            .replace("POD_ADDRESS", &server)
            .replace("FOLDER", &folder.path().display().to_string());
        let path = folder.path().join("envoy.yaml");
        fs::write(&path, config)?;
        let rules = rules(pod("caller-0")?).await?;
        let program = envoy_program(folder.path())?;
        let mut processes = Vec::new();
        for (id, name) in ["envoy-caller-0", "envoy-server-0"].into_iter().enumerate() {
            let pod = pod(name)?;
            let arguments = format!(
                "--concurrency {THREADS} --disable-hot-restart --base-id {id} --log-level warning -c {}",
                path.display()
            );
            let namespace = Path::new(&pod.netns);
            redirect(namespace, &rules).await?;
            let log = folder.path().join(format!("{name}.log"));
            let mut process = Process::start_in(namespace, &log, &program, &words(&arguments))?;
            process.listens(15006).await?;
            processes.push(process);
        }
        let client = Path::new(&pod("client-0")?.netns);
        let unproxied = pod("outside-0")?.ip.clone();
        let log = folder.path().join("client.log");
        let outside = Process::start_in(client, &log, Path::new("/bin/sleep"), &words("infinity"))?;
        let pids = [0, 1].map(|index| processes.get(index).map_or(0, Process::pid));
        let envoys = SidecarPeer { name: "envoy", pids, address: server.clone(), pod: server };
        let sidecars = Self {
            mesh,
            peers: vec![ours, envoys],
            outside: outside.pid(),
            unproxied,
            folder,
            _processes: processes,
            _outside: outside,
        };
        for peer in &sidecars.peers {
            until(peer.name, READY_LIMIT, async || {
                for (kind, port) in [("http1", 9080), ("grpc", 9081)] {
                    let ask = format!(
                        "--kind {kind} --connections 1 --streams 1 --seconds 0.01 --authority {HOST}:{port} --target {}:{port}",
                        peer.address
                    );
                    measure::run(peer.pids[0], &peer.pids, &words(&ask)).await?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(sidecars)
    }

    /// Ends our mesh in good order; the peers are killed.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.mesh.stop().await
    }
}

fn proxy_of(pod: &Pod) -> anyhow::Result<u32> {
    let pid = pod.pid.with_context(|| format!("pod `{}` has no sidecar", pod.name))?;
    Ok(u32::try_from(pid)?)
}

/// A root under Istio's `cacerts` names for our mesh, and certificates from it for the Envoys.
fn certificates(folder: &Path) -> anyhow::Result<()> {
    shell(
        folder,
        r#"
        key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt > "$1"; }
        mkdir ca
        key ca/ca-key.pem
        openssl req -x509 -new -key ca/ca-key.pem -sha256 -days 30 -subj /O=cluster.local -out ca/ca-cert.pem \
          -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
        cp ca/ca-cert.pem ca/root-cert.pem; cp ca/ca-cert.pem ca/cert-chain.pem; cp ca/ca-cert.pem root-cert.pem
        for name in caller server; do
          key $name-key.pem
          openssl req -new -key $name-key.pem -subj / -out $name.csr
          printf '%s\n' "subjectAltName=critical,URI:spiffe://cluster.local/ns/bench/sa/$name" \
            keyUsage=critical,digitalSignature,keyEncipherment extendedKeyUsage=serverAuth,clientAuth \
            basicConstraints=critical,CA:FALSE > $name.ext
          openssl x509 -req -in $name.csr -CA ca/ca-cert.pem -CAkey ca/ca-key.pem -set_serial 7 -days 1 -sha256 \
            -extfile $name.ext -out $name.pem
          cat $name.pem ca/ca-cert.pem > $name-chain.pem
        done
        chmod 0600 ca/ca-key.pem; chmod 0644 *.pem
        "#,
    )
}
