//! `palisade dev`: a whole mesh of real processes on one Linux machine.
//!
//! Four kinds of processes, each ending with the one before it: the front, which the person sees; the mesh, first
//! process of a PID namespace, so that the kernel ends everything below when it goes, however it goes; one holder per
//! pod, which owns the pod's namespaces; and in them the proxy and the applications.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::options::DocumentOptions;

mod calls;
mod commands;
mod directory;
mod exec;
mod fabric;
mod follow;
mod front;
mod holder;
mod images;
mod launch;
mod mesh;
mod names;
mod network;
mod plan;
mod pod;
mod ready;
mod relay;
mod services;
mod tokens;

pub(crate) use directory::find_control;
pub(crate) use holder::run as run_pod;
pub(crate) use launch::DevLaunch;

/// Run a whole mesh on this machine: control plane, gateways, and every pod with its sidecar in namespaces of its own.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Dev {
    #[command(subcommand)]
    command: Option<DevCommand>,
    #[command(flatten)]
    mesh: MeshOptions,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    Exec(exec::Exec),
    Requests(calls::Requests),
    Calls(calls::Calls),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MeshOptions {
    #[command(flatten)]
    documents: DocumentOptions,
    /// Which command runs for which image: a map from globs over image references to command lines.
    #[arg(long, value_name = "FILE")]
    images: Option<PathBuf>,
    /// A gateway's port on this machine's loopback; HOST_PORT 0 is any free one. May be repeated; ports that are not
    /// named here get any free one.
    #[arg(long, value_name = "HOST_PORT:[NS/GATEWAY:]PORT")]
    publish: Vec<Publish>,
    /// A command that runs as a host outside the mesh, found by its DNS name. May be repeated.
    #[arg(long = "external", value_name = "HOST=COMMAND")]
    externals: Vec<External>,
    /// Written once everything is ready.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    instance: Instance,
    /// Folder of the certificate authority; created if it is not there. Default: a new one each time.
    #[arg(long = "ca", value_name = "DIR")]
    ca_directory: Option<PathBuf>,
    /// Gets `NS/POD/{app,proxy}.log`.
    #[arg(long = "log-dir", value_name = "DIR")]
    log_directory: Option<PathBuf>,
    /// Lifetime of workload certificates, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    cert_ttl: u64,
    /// Namespace of mesh-wide policy.
    #[arg(long, value_name = "NS")]
    root_namespace: Option<String>,
    /// Remove what dead meshes left behind, and end.
    #[arg(long)]
    clean: bool,
}

/// Which of several meshes on this machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct Instance {
    /// Keeps several meshes apart.
    #[arg(long, default_value = "default")]
    name: MeshName,
    /// Where running meshes keep their files. Default: `/run/palisade-dev` for root, else the user's runtime folder.
    #[arg(long, env = "PALISADE_RUNTIME_DIR", value_name = "DIR", overrides_with = "runtime_directory")]
    runtime_directory: Option<PathBuf>,
}

/// A DNS label.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MeshName(String);

/// Where a gateway's port appears on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Publish {
    host_port: u16,
    /// `NS/NAME`; `None`: every gateway that has the port, and the first gets it.
    gateway: Option<String>,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct External {
    host: String,
    /// For `/bin/sh -c`.
    command: String,
}

/// What the mesh process is told beyond the user's own options.
#[derive(Debug, Args)]
pub(crate) struct DevMesh {
    /// Process id of the front, as the host sees it.
    #[arg(long)]
    front: u32,
    #[command(flatten)]
    mesh: MeshOptions,
}

impl Dev {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Some(DevCommand::Exec(exec)) => exec.run(),
            Some(DevCommand::Requests(requests)) => requests.run(),
            Some(DevCommand::Calls(calls)) => calls.run(),
            None if self.mesh.clean => directory::clean(&self.mesh.instance),
            None => front::run(&self.mesh),
        }
    }
}

impl DevMesh {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        front::bind_life_to(self.front)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let result = runtime.block_on(mesh::run(self.mesh));
        // Whatever still runs is below this process and ends with it.
        runtime.shutdown_background();
        result
    }
}

impl FromStr for MeshName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 63 || name.starts_with('-') || !name.bytes().all(is_plain) {
            return Err("a name is 1 to 63 lower-case letters, digits and `-`");
        }
        Ok(Self(name.to_owned()))
    }
}

impl FromStr for Publish {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "expected HOST_PORT:[NS/GATEWAY:]PORT";
        let (host_port, rest) = text.split_once(':').ok_or(SHAPE)?;
        let (gateway, port) = match rest.rsplit_once(':') {
            Some((gateway, _)) if gateway.split('/').filter(|part| !part.is_empty()).count() != 2 => return Err(SHAPE),
            Some((gateway, port)) => (Some(gateway.to_owned()), port),
            None => (None, rest),
        };
        let port: u16 = port.parse().map_err(|_| SHAPE)?;
        Ok(Self { host_port: host_port.parse().map_err(|_| SHAPE)?, gateway, port })
    }
}

impl FromStr for External {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, command) = text.split_once('=').ok_or("expected HOST=COMMAND")?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) || command.trim().is_empty() {
            return Err("expected HOST=COMMAND");
        }
        Ok(Self { host: host.trim_end_matches('.').to_ascii_lowercase(), command: command.to_owned() })
    }
}

/// `http://ADDRESS` of something this machine reaches.
fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_may_name_its_gateway() {
        let plain: Publish = "8080:80".parse().unwrap();
        assert_eq!(plain, Publish { host_port: 8080, gateway: None, port: 80 });
        let named: Publish = "0:web/edge:443".parse().unwrap();
        assert_eq!(named, Publish { host_port: 0, gateway: Some("web/edge".to_owned()), port: 443 });
        for wrong in ["80", "a:80", "80:edge:443", "80:a/b/c:443", "80:/b:443", ":80"] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_external_host_is_a_name_and_a_command() {
        let external: External = "Api.Example.com=echo --port=80".parse().unwrap();
        assert_eq!(external, External { host: "api.example.com".to_owned(), command: "echo --port=80".to_owned() });
        assert!("api.example.com".parse::<External>().is_err());
        assert!("a b=c".parse::<External>().is_err());
    }
}
