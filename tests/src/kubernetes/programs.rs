//! The programs of a cluster and how they are called.

use std::{net::Ipv4Addr, path::Path};

/// Where everything listens. In a namespace of its own every port is free.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The node's name, and its address, which pods can reach.
pub(super) const NODE: &str = "node-1";
pub(super) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The parent of the node's cgroups and of nothing else: the name of the cluster's folder.
pub(super) fn cgroup(folder: &Path) -> String {
    format!("/{}", folder.file_name().unwrap_or_default().to_string_lossy())
}

/// Where a cluster's pods run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    /// Nowhere: the API server listens on loopback alone.
    Simulated,
    /// On a node inside the cluster's namespaces.
    Node,
}

/// The API server's port.
pub(super) const API_PORT: u16 = 6443;

/// Addresses of Services.
pub(super) const SERVICES: &str = "10.96.0.0/16";

/// Addresses of pods.
const PODS: &str = "10.244.0.0/16";

/// The first of them, of the API server's own Service.
pub(super) const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The API server's URL.
pub(super) fn server() -> String {
    format!("https://{HOST}:{API_PORT}")
}

/// A program of a cluster, by the name of its file, which is also that of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Etcd,
    ApiServer,
    Controllers,
    Scheduler,
    Kwok,
    Containerd,
    Kubelet,
    KubeProxy,
}

impl Program {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kwok => "kwok",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
        }
    }

    /// The command line. `programs` is the folder of the binaries, `folder` the cluster's own.
    pub(super) fn command(self, programs: &Path, folder: &Path, site: Site) -> Vec<String> {
        let pki = folder.join("pki").display().to_string();
        let file = |name: &str| format!("{pki}/{name}");
        let kubeconfig = format!("--kubeconfig={}", file(&format!("{}.kubeconfig", self.name())));
        let arguments = match self {
            Self::Etcd => vec![
                format!("--data-dir={}", folder.join("etcd").display()),
                // Nothing here is to survive a power cut.
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
                format!("--listen-client-urls=http://{HOST}:2379"),
                format!("--advertise-client-urls=http://{HOST}:2379"),
                format!("--listen-peer-urls=http://{HOST}:2380"),
                format!("--initial-advertise-peer-urls=http://{HOST}:2380"),
                format!("--initial-cluster=default=http://{HOST}:2380"),
            ],
            Self::ApiServer => vec![
                format!("--etcd-servers=http://{HOST}:2379"),
                format!("--bind-address={}", if site == Site::Node { Ipv4Addr::UNSPECIFIED } else { HOST }),
                format!("--advertise-address={}", if site == Site::Node { NODE_ADDRESS } else { HOST }),
                format!("--secure-port={API_PORT}"),
                // A loopback address cannot be an endpoint of the Service `kubernetes`.
                format!("--endpoint-reconciler-type={}", if site == Site::Node { "lease" } else { "none" }),
                format!("--kubelet-certificate-authority={}", file("ca.crt")),
                format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
                format!("--kubelet-client-key={}", file("kubelet-client.key")),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                format!("--service-cluster-ip-range={SERVICES}"),
                format!("--tls-cert-file={}", file("serving.crt")),
                format!("--tls-private-key-file={}", file("serving.key")),
                format!("--client-ca-file={}", file("ca.crt")),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--allow-privileged".to_owned(),
                // Kinds that are not served unless somebody wants them.
                "--feature-gates=ClusterTrustBundle=true".to_owned(),
                "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
                format!("--service-account-signing-key-file={}", file("service-account.key")),
                format!("--service-account-key-file={}", file("service-account.pub")),
            ],
            Self::Controllers => vec![
                kubeconfig,
                format!("--bind-address={HOST}"),
                "--leader-elect=false".to_owned(),
                "--use-service-account-credentials".to_owned(),
                format!("--service-account-private-key-file={}", file("service-account.key")),
                format!("--root-ca-file={}", file("ca.crt")),
                format!("--cluster-signing-cert-file={}", file("ca.crt")),
                format!("--cluster-signing-key-file={}", file("ca.key")),
                "--allocate-node-cidrs".to_owned(),
                format!("--cluster-cidr={PODS}"),
                // The defaults make a thousand pods a matter of a minute.
                "--kube-api-qps=500".to_owned(),
                "--kube-api-burst=1000".to_owned(),
            ],
            Self::Scheduler => vec![
                kubeconfig,
                format!("--bind-address={HOST}"),
                "--leader-elect=false".to_owned(),
                "--kube-api-qps=500".to_owned(),
                "--kube-api-burst=1000".to_owned(),
            ],
            Self::Kwok => vec![
                kubeconfig,
                format!("--config={}", programs.join("stages.yaml").display()),
                "--manage-nodes-with-label-selector=kwok=yes".to_owned(),
                "--cidr=10.245.0.1/16".to_owned(),
                "--node-ip=10.245.0.1".to_owned(),
                "--node-lease-duration-seconds=40".to_owned(),
            ],
            Self::Containerd => vec![format!("--config={}", folder.join("node/containerd.toml").display())],
            Self::Kubelet => vec![
                kubeconfig,
                format!("--config={}", folder.join("node/kubelet.json").display()),
                format!("--root-dir={}", folder.join("kubelet").display()),
                format!("--cert-dir={}", folder.join("kubelet/pki").display()),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={NODE_ADDRESS}"),
            ],
            Self::KubeProxy => vec![
                kubeconfig,
                format!("--hostname-override={NODE}"),
                "--proxy-mode=nftables".to_owned(),
                format!("--cluster-cidr={PODS}"),
                // The machine's own settings stay as they are.
                "--conntrack-max-per-core=0".to_owned(),
                format!("--healthz-bind-address={HOST}:10256"),
                format!("--metrics-bind-address={HOST}:10249"),
                "--nodeport-addresses=primary".to_owned(),
            ],
        };
        let program = match self {
            // Of this machine, not of the build.
            Self::Containerd => "containerd".to_owned(),
            _ => programs.join(self.name()).display().to_string(),
        };
        std::iter::once(program).chain(arguments).collect()
    }
}
