//! From what the documents name to what holders start: commands, users, files, logs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use palisade_sidecar::redirect::PROXY_ID;

use crate::dev::commands::{ControlStart, Programs, ProxyStart};
use crate::dev::directory::Directory;
use crate::dev::images::{ContainerCommand, Images};
use crate::dev::plan::{ContainerPlan, GatewayPlan, Plan, PodId, PodPlan};
use crate::dev::pod::{Interception, Pod, PodSpec, ProcessSpec};
use crate::dev::{External, MeshOptions, front, network, tokens};

/// Name of a proxy's process.
pub(super) const PROXY: &str = "proxy";
/// Name of the one process of what is no pod of the user's.
pub(super) const APPLICATION: &str = "app";

/// What all specs have in common.
#[derive(Debug)]
pub(super) struct Specs {
    programs: Programs,
    images: Images,
    logs: PathBuf,
    ca_folder: PathBuf,
    token_key: PathBuf,
    search_path: String,
    /// `None`: there is one user only.
    proxy_user: Option<u32>,
}

impl Specs {
    pub(super) fn prepare(options: &MeshOptions, directory: &Directory) -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let logs = match &options.log_directory {
            Some(path) => {
                std::fs::create_dir_all(path).with_context(|| format!("cannot create `{}`", path.display()))?;
                path.canonicalize()?
            }
            None => directory.folder("logs")?,
        };
        let ca_folder = match &options.ca_directory {
            Some(path) => std::path::absolute(path)?,
            None => directory.path().join("ca"),
        };
        let token_key = directory.path().join("token.key");
        Ok(Self {
            search_path: programs.search_path(),
            programs,
            images: Images::read(options.images.as_deref())?,
            logs,
            ca_folder,
            token_key,
            proxy_user: front::has_users()?.then_some(PROXY_ID),
        })
    }

    /// Where `NS/POD/{app,proxy}.log` are.
    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Whether everything in the plan has a command.
    pub(super) fn check(&self, plan: &Plan) -> anyhow::Result<()> {
        for pod in &plan.pods {
            for container in &pod.containers {
                self.images.command(container).with_context(|| format!("pod `{}`", pod.id))?;
            }
        }
        Ok(())
    }

    pub(super) fn pod(&self, plan: &PodPlan, services: &str, directory: &Directory) -> anyhow::Result<PodSpec> {
        let PodPlan { id, uid, addresses, service_account, hostname, annotations, is_injected, containers } = plan;
        let hostname = hostname.as_deref().unwrap_or(&id.name);
        let mut spec = self.empty(id, hostname, addresses, services, directory)?;
        if *is_injected {
            let start = self.identity(id, uid, addresses, service_account, directory)?;
            let command = self.programs.sidecar(&start.borrow(id, self.socket_mark()));
            spec.processes.push(self.process(id, PROXY, command, PathBuf::from("/"), directory)?);
            spec.interception = Some(Interception {
                annotations: annotations.clone(),
                proxy_user: self.proxy_user,
                dns_servers: vec![network::HOST.into()],
            });
        }
        for container in containers {
            spec.processes.push(self.container(id, hostname, container, directory)?);
            spec.ports.extend(&container.ports);
        }
        Ok(spec)
    }

    fn container(
        &self,
        id: &PodId,
        hostname: &str,
        container: &ContainerPlan,
        directory: &Directory,
    ) -> anyhow::Result<ProcessSpec> {
        let ContainerCommand { command, folder } = self.images.command(container)?;
        let mut process = self.process(id, &container.name, command, folder, directory)?;
        process.user = None;
        process.environment.push(("HOSTNAME".to_owned(), hostname.to_owned()));
        process.environment.extend(container.env.iter().cloned());
        Ok(process)
    }

    pub(super) fn gateway(&self, plan: &GatewayPlan, services: &str, directory: &Directory) -> anyhow::Result<PodSpec> {
        let GatewayPlan { name, pod, addresses, service_account, is_gateway_api, ports: _ } = plan;
        let mut spec = self.empty(pod, &pod.name, addresses, services, directory)?;
        let start = self.identity(pod, "", addresses, service_account, directory)?;
        let gateway = is_gateway_api.then_some(name.as_str());
        let command = self.programs.gateway(&start.borrow(pod, self.socket_mark()), gateway);
        spec.processes.push(self.process(pod, PROXY, command, PathBuf::from("/"), directory)?);
        Ok(spec)
    }

    pub(super) fn control(
        &self,
        options: &MeshOptions,
        documents: &[PathBuf],
        directory: &Directory,
    ) -> anyhow::Result<PodSpec> {
        let id = PodId { namespace: "palisade-system".to_owned(), name: "palisade-control".to_owned() };
        let mut spec = self.empty(&id, &id.name, &[network::CONTROL.into()], "", directory)?;
        let command = self.programs.control(&ControlStart {
            documents,
            namespace: &options.documents.namespace,
            ca_folder: &self.ca_folder,
            token_key: &self.token_key,
            cert_ttl_seconds: options.cert_ttl,
            root_namespace: options.root_namespace.as_deref(),
        });
        let mut process = self.process(&id, APPLICATION, command, PathBuf::from("/"), directory)?;
        // It reads the user's documents and keeps the root's key.
        process.user = None;
        spec.processes.push(process);
        Ok(spec)
    }

    pub(super) fn external(
        &self,
        external: &External,
        address: IpAddr,
        services: &str,
        directory: &Directory,
    ) -> anyhow::Result<PodSpec> {
        let External { host, command } = external;
        let id = PodId { namespace: "external".to_owned(), name: host.clone() };
        let mut spec = self.empty(&id, host, &[address], services, directory)?;
        let command = ["/bin/sh", "-c", &format!("exec {command}")].map(str::to_owned).to_vec();
        let mut process = self.process(&id, APPLICATION, command, std::env::current_dir()?, directory)?;
        process.user = None;
        process.environment.push(("HOSTNAME".to_owned(), host.clone()));
        spec.processes.push(process);
        Ok(spec)
    }

    /// Once the control plane runs: its root, where proxies may read it.
    pub(super) fn take_root_certificate(&self, directory: &Directory) -> anyhow::Result<()> {
        let path = self.ca_folder.join("root-cert.pem");
        let root = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        directory.write(ROOT_CERTIFICATE, &root).map(drop)
    }

    fn socket_mark(&self) -> Option<u32> {
        match self.proxy_user {
            Some(_) => None,
            None => Some(PROXY_ID),
        }
    }

    fn identity(
        &self,
        id: &PodId,
        uid: &str,
        addresses: &[IpAddr],
        service_account: &str,
        directory: &Directory,
    ) -> anyhow::Result<Identity> {
        if addresses.is_empty() {
            bail!("pod `{id}` has no address");
        }
        let token = tokens::mint(&self.token_key, id, uid, service_account)?;
        let file = format!("pods/{id}/token");
        Ok(Identity {
            addresses: addresses.to_vec(),
            token: directory.write_secret(&file, token.as_bytes(), self.proxy_user)?,
            state: directory.private_folder(&format!("pods/{id}/state"), self.proxy_user)?,
            control_ca: directory.path().join(ROOT_CERTIFICATE),
        })
    }

    fn empty(
        &self,
        id: &PodId,
        hostname: &str,
        addresses: &[IpAddr],
        services: &str,
        directory: &Directory,
    ) -> anyhow::Result<PodSpec> {
        let folder = format!("pods/{id}");
        directory.folder(&folder)?;
        let resolv_conf = network::resolv_conf(&id.namespace);
        let hosts = network::hosts(hostname, addresses);
        Ok(PodSpec {
            name: id.to_string(),
            hostname: hostname.chars().take(64).collect(),
            addresses: addresses.to_vec(),
            resolv_conf: directory.write(&format!("{folder}/resolv.conf"), resolv_conf.as_bytes())?,
            hosts: directory.write(&format!("{folder}/hosts"), hosts.as_bytes())?,
            interception: None,
            services: services.to_owned(),
            processes: Vec::new(),
            ports: Vec::new(),
        })
    }

    fn process(
        &self,
        id: &PodId,
        name: &str,
        command: Vec<String>,
        folder: PathBuf,
        directory: &Directory,
    ) -> anyhow::Result<ProcessSpec> {
        let log = self.logs.join(&id.namespace).join(&id.name);
        std::fs::create_dir_all(&log).with_context(|| format!("cannot create `{}`", log.display()))?;
        Ok(ProcessSpec {
            name: name.to_owned(),
            command,
            environment: vec![
                ("PATH".to_owned(), self.search_path.clone()),
                ("HOME".to_owned(), "/".to_owned()),
                ("POD_NAME".to_owned(), id.name.clone()),
                ("POD_NAMESPACE".to_owned(), id.namespace.clone()),
            ],
            folder,
            user: self.proxy_user,
            log: log.join(if name == PROXY { "proxy.log" } else { "app.log" }),
            pid_file: directory.path().join(format!("pods/{id}/{name}.pid")),
        })
    }
}

/// The root of the control plane's certificates, in the mesh's folder.
const ROOT_CERTIFICATE: &str = "root-cert.pem";

struct Identity {
    addresses: Vec<IpAddr>,
    token: PathBuf,
    state: PathBuf,
    control_ca: PathBuf,
}

impl Identity {
    fn borrow<'a>(&'a self, pod: &'a PodId, socket_mark: Option<u32>) -> ProxyStart<'a> {
        let Self { addresses, token, state, control_ca } = self;
        ProxyStart { pod, addresses, control_ca, token, state, socket_mark }
    }
}

/// The id of a pod's process, as this machine counts; `None` while it does not run.
pub(super) fn process_id(pod: &Pod, name: &str) -> Option<u32> {
    let process = pod.spec.processes.iter().find(|process| process.name == name)?;
    read_pid(&process.pid_file)
}

fn read_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
