//! `palisade run`: one gateway by itself, bound on this machine's addresses, from files.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use palisade_compile::SourceOptions;
use palisade_control::standalone;
use palisade_model::settings::{ProxyKind, WorkloadRef};
use palisade_proxy::{
    config::{Dialer, Pipe, TokenSource},
    process::{ControlAccess, LimitOptions, Pages, Process, ProcessSettings, log},
    runtime::RuntimeSettings,
    serve::{DrainPlan, drain::terminated},
};
use tokio_util::sync::CancellationToken;

use crate::{
    inputs::{self, SettingOptions},
    options::DocumentOptions,
};

/// Run one gateway by itself, from files.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    documents: DocumentOptions,
    #[command(flatten)]
    settings: SettingOptions,
    /// The gateway: a Gateway API Gateway, or the pod that Istio Gateways select.
    #[arg(long, value_name = "NS/NAME")]
    gateway: String,
    /// Admin pages.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// What clients may take.
    #[command(flatten)]
    limits: LimitOptions,
    /// Log filter on standard error.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// The authority of this run; nobody else needs it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the run's authority is left behind");
        }
    }
}

impl Run {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let filter = log::start(&self.log).map_err(anyhow::Error::msg)?;
        if self.documents.files.is_empty() {
            bail!("no documents: name files or folders with -f");
        }
        let inputs = inputs::read(&self.documents, &self.settings)?;
        let plan = palisade_compile::plan(&inputs);
        let is_meant = |key: &str| key == self.gateway;
        let gateway =
            plan.gateways.iter().find(|gateway| is_meant(&format!("{}/{}", gateway.key.namespace, gateway.key.name)));
        let gateway = gateway.with_context(|| {
            let known: Vec<String> =
                plan.gateways.iter().map(|g| format!("{}/{}", g.key.namespace, g.key.name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("no document makes a gateway `{}`; there is {known}", self.gateway)
        })?;
        let pod = WorkloadRef { namespace: Arc::clone(&gateway.namespace), name: Arc::clone(&gateway.name) };
        let mut runtime = RuntimeSettings::new(format!("{}/{}", pod.namespace, pod.name));
        self.limits.apply(&mut runtime);
        let settings = ProcessSettings {
            kind: ProxyKind::Gateway,
            pod: (Arc::clone(&pod.namespace), Arc::clone(&pod.name)),
            captures: Vec::new(),
            pages: Pages { admin: Some(self.admin), metrics: None, health: None },
            drain: DrainPlan::default(),
            runtime,
        };
        let process = Process::new(settings, filter, io::stdout())?;
        let scratch = Scratch(std::env::temp_dir().join(format!("palisade-run-{}", std::process::id())));
        let workers = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let outcome = workers.block_on(self.serve(process, &pod, &scratch.0));
        workers.shutdown_timeout(Duration::from_secs(1));
        outcome.map(|()| ExitCode::SUCCESS)
    }

    async fn serve(&self, process: Process, pod: &WorkloadRef, authority: &Path) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let options = SourceOptions { control: self.settings.control(true)?, is_files: true };
        let files = self.documents.files.clone();
        let control = standalone(files, &self.documents.namespace, options, authority, stop.clone())?;
        let access = ControlAccess {
            dialer: Dialer::Pipe(Pipe::new(control.connect.clone())),
            token: TokenSource::Fixed(control.token(pod)?),
            lifetime: None,
            state: None,
        };
        let told = CancellationToken::new();
        let (drain, first) = (Arc::clone(&process.runtime().drain), told.clone());
        let signals = tokio::spawn(async move {
            match terminated(&drain).await {
                Ok(second) => {
                    first.cancel();
                    second.await;
                }
                Err(error) => tracing::error!(%error, "signals are not heard"),
            }
        });
        let outcome = process.run(access, told.cancelled()).await;
        signals.abort();
        stop.cancel();
        outcome.map(drop).map_err(Into::into)
    }
}
