//! Process settings: flags, or the same names as `PALISADE_*` variables, parsed once.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{CommandFactory, Parser};
use palisade_model::variables::unread;

use crate::{
    admission::AdmissionOptions, identity::AUDIENCES, injection::InjectionSettings, provisioning::GatewaySettings,
    signer::SignerName,
};

/// The control plane: documents in, configuration and certificates for proxies out.
#[derive(Debug, Clone, Parser)]
#[command(name = "palisade-control", version)]
pub struct Settings {
    /// Document file or folder (read recursively), or `-` for standard input; repeatable. Files are followed. Without any,
    /// documents are those of a Kubernetes cluster.
    #[arg(long, env = "PALISADE_FILES", value_delimiter = ',', value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Kubeconfig file; unset: the cluster that this pod runs in, else $KUBECONFIG or ~/.kube/config.
    #[arg(long, env = "PALISADE_KUBECONFIG", value_name = "FILE", conflicts_with = "files")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; unset: its current one.
    #[arg(long, env = "PALISADE_CONTEXT", value_name = "NAME", conflicts_with = "files")]
    pub context: Option<String>,
    /// Namespace of the control plane itself; unset: that of its pod, else `palisade-system`.
    #[arg(long, env = "PALISADE_CONTROL_NAMESPACE", value_name = "NAME")]
    pub control_namespace: Option<String>,
    /// In a cluster: Gateways of class `istio` are served too. With files they always are.
    #[arg(long, env = "PALISADE_ISTIO_CLASSES")]
    pub istio_classes: bool,
    /// Namespace of documents that name none.
    #[arg(long, env = "PALISADE_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Namespace of mesh-wide policy; unset: what the mesh configuration says.
    #[arg(long, env = "PALISADE_ROOT_NAMESPACE", value_name = "NAME")]
    pub root_namespace: Option<String>,
    /// A control plane setting that is not in documents; repeatable.
    #[arg(long = "set", env = "PALISADE_SET", value_delimiter = ',', value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where proxies connect: gRPC over TLS.
    #[arg(long, env = "PALISADE_LISTEN", default_value = "0.0.0.0:15012", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// In a cluster: where other replicas reach `--listen`; unset: at its address, or where that is none at $POD_IP.
    #[arg(long, env = "PALISADE_ADVERTISE", value_name = "ADDRESS:PORT")]
    pub advertise: Option<SocketAddr>,
    /// Metrics for everyone who can connect, admin pages for this machine only.
    #[arg(long, env = "PALISADE_ADMIN", default_value = "127.0.0.1:15014", value_name = "ADDRESS:PORT")]
    pub admin: SocketAddr,
    /// Folder of the mesh root under Istio's `cacerts` names; created with mode 0600 if it is not there. In a cluster the root
    /// is in the Secret `cacerts`, else `palisade-ca`, of the control plane's namespace.
    #[arg(long, env = "PALISADE_CA_DIR", default_value = "palisade-ca", value_name = "FOLDER")]
    pub ca_dir: PathBuf,
    /// In a cluster: who signs workload certificates in place of the mesh's own authority: `kubernetes:DOMAIN/SIGNER` of
    /// CertificateSigningRequests (Istio's `EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API` with `K8S_SIGNER`), or
    /// `cert-manager:[KIND[.GROUP]/]ISSUER`. Its root must be among the trusted ones.
    #[arg(long, env = "PALISADE_SIGNER", value_name = "SIGNER", conflicts_with = "files")]
    pub signer: Option<SignerName>,
    /// Key that pod tokens are signed with; created with mode 0600 if it is not there. In a cluster the API server reviews
    /// tokens.
    #[arg(long, env = "PALISADE_TOKEN_KEY", default_value = "palisade-token.key", value_name = "FILE")]
    pub token_key: PathBuf,
    /// In a cluster: audience of tokens that are accepted; repeatable.
    #[arg(long, env = "PALISADE_TOKEN_AUDIENCE", value_delimiter = ',', default_values = AUDIENCES, value_name = "NAME")]
    pub token_audience: Vec<String>,
    /// Lifetime of workload certificates: `5s`, `30m`, `24h`, or seconds.
    #[arg(long, env = "PALISADE_CERT_TTL", default_value = "24h", value_parser = lifetime, value_name = "DURATION")]
    pub cert_ttl: Duration,
    /// Further DNS names of this control plane's certificate; repeatable.
    #[arg(long, env = "PALISADE_SERVER_NAME", value_delimiter = ',', value_name = "NAME")]
    pub server_name: Vec<String>,
    /// CA certificates (PEM) that servers of token keys (`jwksUri`, issuer discovery) are verified with.
    #[arg(long, env = "PALISADE_JWKS_CA", default_value = "/etc/ssl/certs/ca-certificates.crt", value_name = "FILE")]
    pub jwks_ca: PathBuf,
    /// Webhooks, in a cluster.
    #[command(flatten)]
    pub admission: AdmissionOptions,
    /// What injected sidecars are given.
    #[command(flatten)]
    pub injection: InjectionSettings,
    /// What gateways are given.
    #[command(flatten)]
    pub gateways: GatewaySettings,
    /// Log filter, as `tracing` reads it.
    #[arg(long, env = "PALISADE_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

impl Settings {
    /// Says which variables of the environment look like settings of this program and are none.
    pub fn warn_of_unread_variables() {
        let command = Self::command();
        let names = command.get_arguments().filter_map(|argument| argument.get_env());
        let known: BTreeSet<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        let set = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        for problem in unread(&known, set) {
            tracing::warn!("{problem}");
        }
    }
}

/// A lifetime from 1 s to 90 days.
fn lifetime(text: &str) -> Result<Duration, String> {
    const MAX: u64 = 90 * 24 * 3600;
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        other => return Err(format!("unknown unit `{other}`: s, m, h and d are known")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    match number.checked_mul(factor) {
        Some(seconds @ 1..=MAX) => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err(format!("`{text}` is not between 1 s and 90 days")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_units_and_limits() {
        assert_eq!(lifetime("5"), Ok(Duration::from_secs(5)));
        assert_eq!(lifetime("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(lifetime("24h"), Ok(Duration::from_secs(86_400)));
        for text in ["", "0", "h", "5x", "91d", "99999999999999999999", "999999999999999999h"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_flags_of_a_mesh_on_one_machine_are_understood() {
        let settings = Settings::try_parse_from([
            "palisade-control",
            "--files",
            "a",
            "--files",
            "b",
            "--listen=127.0.0.1:15012",
            "--admin=127.0.0.1:15014",
            "--ca-dir=ca",
            "--token-key=key",
            "--cert-ttl=5",
            "--root-namespace=istio-system",
        ])
        .unwrap();
        assert_eq!(settings.files.len(), 2);
        assert!(!settings.istio_classes);
        assert_eq!(settings.cert_ttl, Duration::from_secs(5));
    }

    #[test]
    fn without_files_documents_are_those_of_a_cluster() {
        let parse = |arguments: &[&str]| Settings::try_parse_from(["palisade-control"].iter().chain(arguments));
        let settings = parse(&["--kubeconfig=admin.conf", "--context=a", "--istio-classes"]).unwrap();
        assert_eq!((settings.files.len(), settings.kubeconfig), (0, Some("admin.conf".into())));
        assert!(settings.istio_classes);
        assert!(parse(&[]).unwrap().files.is_empty());
        assert!(parse(&["--files=a", "--kubeconfig=admin.conf"]).is_err(), "one source of documents");
    }
}
