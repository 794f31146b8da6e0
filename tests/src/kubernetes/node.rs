//! A real node: containerd, kubelet, kube-proxy and DNS inside the cluster's namespaces. Pods run; nothing leaves the machine.

use std::{
    fs,
    io::{BufWriter, Write},
    ops::Deref,
    path::Path,
    process::Stdio,
};

use anyhow::{Context, ensure};
use palisade_images::{BuiltImage, Compression, Image, write_archive};
use serde_json::json;
use tokio::{process::Command, sync::OnceCell};

use super::{
    Cluster, client_of,
    pool::Pool,
    programs::{NODE, NODE_ADDRESS, Program, Site, cgroup},
};

/// Hosts outside the cluster, by the names that its DNS knows: addresses of the node, at which a pod on the host's network or a
/// program of [`Cluster::command`] can listen. All other names outside do not exist.
pub const OUTSIDE: [(&str, &str); 4] = [
    ("one.outside.example", "198.51.100.1"),
    ("two.outside.example", "198.51.100.2"),
    ("three.outside.example", "198.51.100.3"),
    ("four.outside.example", "198.51.100.4"),
];

/// The cluster's DNS.
const DNS: &str = include_str!("node/dns.yaml");

/// The node that the tests of one binary share.
static SHARED: OnceCell<Node> = OnceCell::const_new();

/// A cluster with a node of its own.
#[derive(Debug)]
pub struct Node {
    // In this order: the pool needs the cluster.
    _pool: Pool,
    cluster: Cluster,
}

impl Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Node {
    /// Starts a cluster and its node, and waits until pods find each other by name: about 10 s, 1 GB. See
    /// [`super::lacks_for_node`] for where it cannot.
    ///
    /// # Errors
    /// As [`Cluster::start`], and when the node is not ready within a minute.
    pub async fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start_at(Site::Node).await?;
        let kubeconfig = cluster.kubeconfig();
        let connector = cluster.connector();
        let pool = Pool::start(async move || client_of(&kubeconfig, connector).await)?;
        let node = Self { _pool: pool, cluster };
        for name in ["pause", "coredns"] {
            let program = node.programs.join(name);
            node.load(&Image::of_program(&format!("localhost/{name}:1"), &program, &format!("/{name}"))?).await?;
        }
        node.launch(Program::Kubelet).await?;
        // The controllers give the node the addresses of its pods.
        let cidr = node.wait_for_node("jsonpath={.spec.podCIDR}").await?;
        write_network(node.folder(), &cidr)?;
        node.launch(Program::KubeProxy).await?;
        node.apply(&dns()).await?;
        node.wait_for_node("condition=Ready").await?;
        let available =
            ["wait", "-n", "kube-system", "--for=condition=Available", "deployment/coredns", "--timeout=1s"];
        node.await_ready(Program::Kubelet, async || node.kubectl(&available).await.map(drop)).await?;
        Ok(node)
    }

    /// The node that all tests of this binary share; the first one starts it, the end of the process ends it. A binary that
    /// uses it can have no other cluster.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn shared() -> anyhow::Result<&'static Self> {
        SHARED.get_or_try_init(Self::start).await
    }

    /// Gives the node an image, as if it had fetched it.
    ///
    /// # Errors
    /// When the image cannot be made, or containerd does not take it.
    pub async fn load(&self, image: &Image) -> anyhow::Result<()> {
        self.load_built(&[image.build(Compression::None)?]).await
    }

    /// Gives the node images that are made.
    ///
    /// # Errors
    /// When containerd does not take them.
    pub async fn load_built(&self, images: &[BuiltImage]) -> anyhow::Result<()> {
        let mut file = tempfile::tempfile_in(self.folder())?;
        write_archive(BufWriter::new(&mut file), images)?;
        file.flush()?;
        std::io::Seek::rewind(&mut file)?;
        self.import(Stdio::from(file)).await
    }

    /// Gives the node the images of an archive, as `docker save` and `palisade-images files` write it.
    ///
    /// # Errors
    /// When it cannot be read, or containerd does not take it.
    pub async fn load_archive(&self, path: &Path) -> anyhow::Result<()> {
        self.import(Stdio::from(fs::File::open(path).with_context(|| path.display().to_string())?)).await
    }

    /// The command that reads such an archive from its standard input, for a shell.
    pub fn import_command(&self) -> String {
        let socket = self.folder().join("containerd.sock");
        format!("ctr --address {} --namespace k8s.io images import -", socket.display())
    }

    async fn import(&self, archive: Stdio) -> anyhow::Result<()> {
        let command = self.import_command();
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap_or_default())
            .args(words)
            .stdin(archive)
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run `ctr` (containerd)")?;
        ensure!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Kills a container by its id, as if it had crashed.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_container(&self, id: &str) -> anyhow::Result<()> {
        let socket = self.folder().join("containerd.sock");
        let output = Command::new("ctr")
            .arg("--address")
            .arg(socket)
            .args(["--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id])
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run `ctr` (containerd)")?;
        ensure!(output.status.success(), "`{id}`: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Runs a command in a container of a pod (`deployment/NAME` stands for one of its pods).
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub async fn exec(&self, namespace: &str, pod: &str, container: &str, command: &[&str]) -> anyhow::Result<String> {
        let arguments = ["exec", "-n", namespace, pod, "-c", container, "--"];
        self.kubectl(&[&arguments, command].concat()).await
    }

    /// Waits until the node has something, and gives that.
    async fn wait_for_node(&self, what: &str) -> anyhow::Result<String> {
        let (wait, name) = (format!("--for={what}"), format!("node/{NODE}"));
        let found = std::cell::RefCell::new(String::new());
        self.await_ready(Program::Kubelet, async || {
            self.kubectl(&["wait", &wait, &name, "--timeout=1s"]).await?;
            let cidr = self.kubectl(&["get", &name, "-o", "jsonpath={.spec.podCIDR}"]).await?;
            *found.borrow_mut() = cidr;
            Ok(())
        })
        .await?;
        Ok(found.into_inner())
    }
}

/// Starts what runs containers and waits until it takes images.
pub(super) async fn launch_containerd(cluster: &Cluster) -> anyhow::Result<()> {
    let folder = cluster.folder();
    for name in ["node", "node/cni"] {
        fs::create_dir(folder.join(name))?;
    }
    fs::write(folder.join("node/containerd.toml"), containerd(folder))?;
    fs::write(folder.join("node/kubelet.json"), serde_json::to_vec(&kubelet(folder))?)?;
    // All names outside are answered by the cluster's own DNS.
    fs::write(folder.join("node/resolv.conf"), "nameserver 10.96.0.10\n")?;
    cluster.launch(Program::Containerd).await?;
    let socket = folder.join("containerd.sock");
    cluster
        .await_ready(Program::Containerd, async || {
            let mut version = Command::new("ctr");
            version.arg("--address").arg(&socket).arg("version").kill_on_drop(true);
            let output = version.output().await.context("cannot run `ctr` (containerd)")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(())
        })
        .await
}

fn containerd(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Lowering oom_score_adj takes CAP_SYS_RESOURCE, which a sandbox may lack.
  restrict_oom_score_adj = true
  # As nodes of today have it: any user may listen at any port of his pod.
  enable_unprivileged_ports = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/node/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
    )
}

fn kubelet(folder: &Path) -> serde_json::Value {
    let path = |name: &str| folder.join(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", path("containerd.sock")),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup(folder),
        // Version 1 of cgroups is there on some machines.
        "failCgroupV1": false,
        "failSwapOn": false,
        "address": NODE_ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": path("pki/serving.crt"),
        "tlsPrivateKeyFile": path("pki/serving.key"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": path("pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "resolvConf": path("node/resolv.conf"),
        "podLogsDir": path("log/pods"),
        // Images cannot be fetched again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "makeIPTablesUtilChains": false,
        "enableControllerAttachDetach": false,
        "volumePluginDir": path("kubelet/volume-plugins"),
        "shutdownGracePeriod": "0s",
        // The defaults make a start of many pods slow.
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        "registerNode": true,
        "maxPods": 250,
        // Tests change ConfigMaps and Secrets.
        "syncFrequency": "5s",
    })
}

/// Tells containerd the network of pods. It looks when a file in the folder gets another name, and not when one is moved there.
fn write_network(folder: &Path, cidr: &str) -> anyhow::Result<()> {
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "kubernetes",
        "plugins": [
            {
                "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": cidr}]], "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": folder.join("node/addresses"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    let draft = folder.join("node/cni/10-bridge.conflist.new");
    fs::write(&draft, network.to_string())?;
    fs::rename(&draft, folder.join("node/cni/10-bridge.conflist"))?;
    Ok(())
}

fn dns() -> String {
    let hosts: Vec<String> = OUTSIDE.iter().map(|(name, address)| format!("{name}. 5 IN A {address}")).collect();
    DNS.replace("@HOSTS@", &hosts.join("\n    "))
}
