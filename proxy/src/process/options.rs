//! Flags that gateway and sidecar share; each is a `PALISADE_*` variable as well.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
};

use clap::Args;

use super::limits::LimitOptions;
use crate::admin::AppProbes;

/// Name that the control plane's certificate carries where nothing else is said.
const CONTROL_NAME: &str = "palisade-control.palisade-system.svc";

/// What a proxy process is told at its start. Behaviour comes from documents, never from here.
#[derive(Debug, Clone, Args)]
pub struct ProxyOptions {
    /// Address of the control plane.
    #[arg(long, env = "PALISADE_CONTROL", value_name = "HOST:PORT")]
    pub control: String,
    /// PEM file of the roots that vouch for the control plane; read again for every connection.
    #[arg(long, env = "PALISADE_CONTROL_CA", value_name = "FILE")]
    pub control_ca: PathBuf,
    /// Name that the control plane's certificate must carry [default: the host of --control if it is a name, else
    /// palisade-control.palisade-system.svc].
    #[arg(long, env = "PALISADE_CONTROL_NAME", value_name = "NAME")]
    pub control_name: Option<String>,
    /// Token bound to this pod; read again for every use.
    #[arg(long, env = "PALISADE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,
    /// Addresses of the pod, comma-separated.
    #[arg(long, env = "PALISADE_POD_IP", value_name = "IP", value_delimiter = ',', required = true)]
    pub pod_ip: Vec<IpAddr>,
    /// Namespace of the pod.
    #[arg(long, env = "PALISADE_NAMESPACE")]
    pub namespace: String,
    /// Name of the pod.
    #[arg(long, env = "PALISADE_NAME")]
    pub name: String,
    /// Admin pages; loopback only.
    #[arg(long, env = "PALISADE_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:15000", value_parser = loopback)]
    pub admin: SocketAddr,
    /// Prometheus metrics.
    #[arg(long, env = "PALISADE_METRICS", value_name = "ADDRESS", default_value = "0.0.0.0:15020")]
    pub metrics: SocketAddr,
    /// Readiness.
    #[arg(long, env = "PALISADE_HEALTH", value_name = "ADDRESS", default_value = "0.0.0.0:15021")]
    pub health: SocketAddr,
    /// Folder for what is kept across restarts, so that the proxy goes on while the control plane is away: configuration,
    /// subscriptions, certificate and keys. It must be this user's alone (mode 0700; it is made if its parent is there)
    /// [default: nothing is kept].
    #[arg(long, env = "PALISADE_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
    /// Seconds that a drain may take before what is left is closed.
    #[arg(long, env = "PALISADE_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 5)]
    pub drain_seconds: u64,
    /// Lifetime in seconds to ask for the workload's certificate [default: what the control plane gives].
    #[arg(long, env = "PALISADE_CERT_TTL", value_name = "SECONDS")]
    pub cert_ttl: Option<u64>,
    /// Threads that serve connections [default: one per core that this process may use].
    #[arg(long, env = "PALISADE_WORKERS", value_name = "COUNT")]
    pub workers: Option<NonZeroUsize>,
    /// Mark of the proxy's own sockets, where redirection rules know its traffic by a mark; needs CAP_NET_ADMIN.
    #[arg(long, env = "PALISADE_SOCKET_MARK", value_name = "NUMBER")]
    pub socket_mark: Option<u32>,
    /// CA certificates for TLS to hosts outside the mesh whose documents name none.
    #[arg(
        long,
        env = "PALISADE_SYSTEM_ROOTS",
        value_name = "FILE",
        default_value = "/etc/ssl/certs/ca-certificates.crt"
    )]
    pub system_roots: PathBuf,
    /// File for decision records, one JSON object a line: every denial, and a sample of permissions.
    #[arg(long, env = "PALISADE_DECISION_LOG", value_name = "FILE")]
    pub decision_log: Option<PathBuf>,
    /// Size in bytes at which the file of decision records is put aside as FILE.1 and begun again.
    #[arg(long, env = "PALISADE_DECISION_LOG_BYTES", value_name = "BYTES", default_value_t = 64 << 20)]
    pub decision_log_bytes: u64,
    /// One permission in this many is recorded like a denial; 0 = none.
    #[arg(long, env = "PALISADE_DECISION_RECORD_ONE_IN", value_name = "N", default_value_t = 1_000)]
    pub decision_record_one_in: u32,
    /// One decision in this many is made again on Cedar itself, off the request's path; 0 = none.
    #[arg(long, env = "PALISADE_POLICY_REPLAY_ONE_IN", value_name = "N", default_value_t = 10_000)]
    pub policy_replay_one_in: u32,
    /// Probes of the application that the kubelet asks of this proxy, by path, as injection writes them; JSON.
    #[arg(long, env = "PALISADE_APP_PROBES", value_name = "JSON", value_parser = AppProbes::parse)]
    pub app_probes: Option<AppProbes>,
    /// What clients may take.
    #[command(flatten)]
    pub limits: LimitOptions,
    /// Log filter on standard error, as `info` or `palisade_proxy=debug,warn`.
    #[arg(long, env = "PALISADE_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

impl ProxyOptions {
    /// The name that the control plane's certificate must carry.
    pub fn control_server_name(&self) -> String {
        if let Some(name) = &self.control_name {
            return name.clone();
        }
        let host = self.control.rsplit_once(':').map_or(self.control.as_str(), |(host, _)| host);
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(_) => CONTROL_NAME.to_owned(),
            Err(_) => host.to_owned(),
        }
    }

    /// The address to bind a capture port on: all addresses of the pod's first family.
    pub fn bind_address(&self, port: u16) -> SocketAddr {
        match self.pod_ip.first() {
            Some(IpAddr::V6(_)) => SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port),
            Some(IpAddr::V4(_)) | None => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        }
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("`{text}` is not an address with a port"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("`{text}` is not a loopback address, and the admin pages can drain the proxy"))
    }
}
