//! The way to a Kubernetes API server: which one, as whom, over TLS that depends on nobody else in the process.

mod forward;
mod transport;

use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

pub use forward::{Forward, ForwardError, forward, ready_pods};
use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// The namespace of the control plane where nothing else says.
pub const CONTROL_NAMESPACE: &str = "palisade-system";

/// The namespace that a pod runs in, as Kubernetes writes it for its service account.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Set in every pod: the address of the API server.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// The address of this pod, where its manifest says so (`fieldRef: status.podIP`).
const POD_IP: &str = "POD_IP";

/// Why there is no way to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A kubeconfig file that was named.
    #[error("kubeconfig `{}` cannot be used: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// The kubeconfig that kubectl would take.
    #[error("no cluster: give files or `--kubeconfig`; $KUBECONFIG or ~/.kube/config cannot be used: {0}")]
    Rules(#[source] Box<KubeconfigError>),
    /// The service account of this pod.
    #[error("the service account of this pod cannot be used: {0}")]
    Pod(#[source] InClusterError),
    /// What the configuration says does not make a client.
    #[error("cannot connect to `{server}`: {source}")]
    Client {
        /// URL of the API server.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The namespace of this pod.
    #[error("the namespace of this pod cannot be read from `{NAMESPACE_FILE}`: {0}")]
    Namespace(#[source] io::Error),
}

/// A client of the cluster that is meant: of the kubeconfig file given; else, where neither a context nor `$KUBECONFIG` asks
/// for another one, of the cluster that this pod runs in; else by kubectl's rules. Nothing is sent yet.
///
/// # Errors
/// When no configuration is found, or what it names cannot be read.
pub async fn client(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, ClusterError> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = match kubeconfig {
        Some(path) => {
            let failed = |source| ClusterError::File { path: path.to_owned(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(failed)?
        }
        None if context.is_none() && env::var_os("KUBECONFIG").is_none() && is_pod() => {
            Config::incluster().map_err(ClusterError::Pod)?
        }
        None => Config::from_kubeconfig(&options).await.map_err(|source| ClusterError::Rules(Box::new(source)))?,
    };
    // rustls asks the process for its cryptography, and nobody else in here installs one. One that is there stays.
    drop(rustls::crypto::ring::default_provider().install_default());
    let server = config.cluster_url.to_string();
    transport::client(config).map_err(|source| ClusterError::Client { server, source: Box::new(source) })
}

/// Whether this process runs in a pod, which the cluster's Services lead to.
pub fn is_pod() -> bool {
    env::var_os(IN_CLUSTER).is_some()
}

/// Where other processes of the cluster reach what listens here: at its own address; where it listens at all of them, at the one
/// that the pod was given in `$POD_IP`, else on this machine alone.
pub fn own_address(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let pod = env::var(POD_IP).ok().and_then(|text| text.parse::<IpAddr>().ok());
    SocketAddr::new(pod.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), listen.port())
}

/// The namespace that the control plane itself lives in: as given, else that of this pod, else [`CONTROL_NAMESPACE`].
///
/// # Errors
/// When this is a pod and its namespace cannot be read.
pub fn control_namespace(given: Option<&str>) -> Result<String, ClusterError> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    match fs::read_to_string(NAMESPACE_FILE) {
        Ok(namespace) => Ok(namespace.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(CONTROL_NAMESPACE.to_owned()),
        Err(error) => Err(ClusterError::Namespace(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(context: &str, server: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {context}\n\
             contexts:\n- name: a\n  context: {{cluster: a, user: a, namespace: other}}\n\
             clusters:\n- name: a\n  cluster: {{server: \"{server}\"}}\nusers:\n- name: a\n  user: {{token: t}}\n"
        )
    }

    #[tokio::test]
    async fn a_kubeconfig_file_makes_a_client_without_anything_installed_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), kubeconfig("a", "https://127.0.0.1:1")).unwrap();
        let client = client(Some(file.path()), None).await.unwrap();
        assert_eq!(client.default_namespace(), "other");
        let error = client.apiserver_version().await.unwrap_err().to_string();
        assert!(error.contains("onnect"), "{error}");
    }

    #[tokio::test]
    async fn errors_name_the_file_or_the_server_and_never_a_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, context, expected) in [
            (kubeconfig("a", "https://127.0.0.1:1"), Some("b"), "b"),
            (kubeconfig("gone", "https://127.0.0.1:1"), None, "gone"),
            (kubeconfig("a", "https://bad host"), None, "url"),
            ("{".to_owned(), None, "kubeconfig"),
        ] {
            fs::write(file.path(), &text).unwrap();
            let Err(error) = client(Some(file.path()), context).await else { panic!("{text} is taken") };
            let message = error.to_string();
            assert!(message.contains(&file.path().display().to_string()), "{message}");
            assert!(message.contains(expected), "{message}");
        }
        let error = client(Some(Path::new("/nonexistent/config")), None).await.err().unwrap().to_string();
        assert!(error.contains("/nonexistent/config"), "{error}");
    }

    #[test]
    fn the_control_namespace_is_the_one_given() {
        assert_eq!(control_namespace(Some("mesh")).unwrap(), "mesh");
    }
}
