//! The command lines of the mesh's own processes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::network::{CONTROL, CONTROL_HOST};
use super::plan::PodId;

/// Port on which proxies reach the control plane.
pub(super) const CONTROL_PORT: u16 = 15012;
/// Port of the control plane's admin pages, on its own loopback.
pub(super) const CONTROL_ADMIN_PORT: u16 = 15014;
/// Port of a proxy's admin pages, on its pod's loopback.
pub(super) const PROXY_ADMIN_PORT: u16 = 15000;
/// Port of a proxy's metrics.
pub(super) const PROXY_METRICS_PORT: u16 = 15020;
/// Port of a proxy's readiness.
pub(super) const PROXY_HEALTH_PORT: u16 = 15021;

/// Where the programs of this installation are: beside `palisade` itself.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    folder: PathBuf,
}

/// What a proxy is told at its start.
#[derive(Debug)]
pub(super) struct ProxyStart<'a> {
    pub(super) pod: &'a PodId,
    pub(super) addresses: &'a [IpAddr],
    pub(super) control_ca: &'a Path,
    pub(super) token: &'a Path,
    /// Where it keeps things across its restarts.
    pub(super) state: &'a Path,
    /// Mark of its sockets, where it has no user of its own.
    pub(super) socket_mark: Option<u32>,
}

#[derive(Debug)]
pub(super) struct ControlStart<'a> {
    pub(super) documents: &'a [PathBuf],
    pub(super) namespace: &'a str,
    pub(super) ca_folder: &'a Path,
    pub(super) token_key: &'a Path,
    pub(super) cert_ttl_seconds: u64,
    pub(super) root_namespace: Option<&'a str>,
}

impl Programs {
    pub(super) fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        Ok(Self { folder: own.parent().context("this program lies in no folder")?.to_owned() })
    }

    /// This program's folder comes last: what is installed on this machine goes before it.
    pub(super) fn search_path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        format!("{path}:{}", self.folder.display())
    }

    pub(super) fn control(&self, start: &ControlStart<'_>) -> Vec<String> {
        let ControlStart { documents, namespace, ca_folder, token_key, cert_ttl_seconds, root_namespace } = start;
        let mut command = vec![self.program("palisade-control")];
        for document in *documents {
            command.extend(["--files".to_owned(), document.display().to_string()]);
        }
        command.extend([
            format!("--listen={CONTROL}:{CONTROL_PORT}"),
            format!("--admin=127.0.0.1:{CONTROL_ADMIN_PORT}"),
            format!("--ca-dir={}", ca_folder.display()),
            format!("--token-key={}", token_key.display()),
            format!("--cert-ttl={cert_ttl_seconds}"),
        ]);
        if *namespace != "default" {
            command.push(format!("--namespace={namespace}"));
        }
        if let Some(root_namespace) = root_namespace {
            command.push(format!("--root-namespace={root_namespace}"));
        }
        command
    }

    pub(super) fn sidecar(&self, start: &ProxyStart<'_>) -> Vec<String> {
        self.proxy("palisade-sidecar", start)
    }

    /// `gateway`: the Gateway API Gateway that it serves.
    pub(super) fn gateway(&self, start: &ProxyStart<'_>, gateway: Option<&str>) -> Vec<String> {
        let mut command = self.proxy("palisade-gateway", start);
        command.extend(gateway.map(|gateway| format!("--gateway={gateway}")));
        command
    }

    fn proxy(&self, program: &str, start: &ProxyStart<'_>) -> Vec<String> {
        let ProxyStart { pod, addresses, control_ca, token, state, socket_mark } = start;
        let mut command = vec![
            self.program(program),
            format!("--control={CONTROL_HOST}:{CONTROL_PORT}"),
            format!("--control-ca={}", control_ca.display()),
            format!("--token-file={}", token.display()),
            format!("--state-dir={}", state.display()),
            format!("--pod-ip={}", addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
            format!("--namespace={}", pod.namespace),
            format!("--name={}", pod.name),
            format!("--admin=127.0.0.1:{PROXY_ADMIN_PORT}"),
        ];
        command.extend(socket_mark.map(|mark| format!("--socket-mark={mark}")));
        command
    }

    fn program(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}
