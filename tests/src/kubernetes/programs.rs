//! The programs of a cluster and how they are called.

use std::{net::Ipv4Addr, path::Path};

/// Where everything listens. In a namespace of its own every port is free.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The API server's port.
pub(super) const API_PORT: u16 = 6443;

/// Addresses of Services.
const SERVICES: &str = "10.96.0.0/16";

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
}

impl Program {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kwok => "kwok",
        }
    }

    /// The command line. `programs` is the folder of the binaries, `folder` the cluster's own.
    pub(super) fn command(self, programs: &Path, folder: &Path) -> Vec<String> {
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
                format!("--bind-address={HOST}"),
                format!("--advertise-address={HOST}"),
                format!("--secure-port={API_PORT}"),
                // A loopback address cannot be an endpoint of the Service `kubernetes`.
                "--endpoint-reconciler-type=none".to_owned(),
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
                "--cluster-cidr=10.244.0.0/16".to_owned(),
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
        };
        let program = programs.join(self.name()).display().to_string();
        std::iter::once(program).chain(arguments).collect()
    }
}
