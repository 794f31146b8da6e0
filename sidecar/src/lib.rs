//! The proxy beside a pod's application: the parts that only a pod needs.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::{CommandFactory, Parser};
use palisade_model::settings::ProxyKind;
use palisade_proxy::{
    process::{Process, ProcessError, ProxyOptions, log, run_to_end, variables},
    runtime::{Runtime, server::Role},
    serve::{Bind, ListenerKey, ListenerOptions},
};
use tokio_util::sync::CancellationToken;

pub mod dns;
mod names;
pub mod redirect;
pub mod step;

pub use names::MeshNames;

use dns::{DnsServer, DnsSettings, ResolvConf};
use redirect::{DNS_PORT, INBOUND_PORT, OUTBOUND_PORT};
use step::RedirectOptions;

/// The sidecar of one pod.
#[derive(Debug, Parser)]
#[command(
    name = "palisade-sidecar",
    version,
    about = "The proxy beside a pod's application.",
    after_help = "`palisade-sidecar redirect` leads a pod's traffic to its sidecar and ends; `palisade-sidecar redirect --help` says more."
)]
pub struct Options {
    /// What every proxy is told.
    #[command(flatten)]
    pub proxy: ProxyOptions,
    /// Port that connections to the pod are redirected to.
    #[arg(long, env = "PALISADE_INBOUND_PORT", value_name = "PORT", default_value_t = INBOUND_PORT)]
    pub inbound_port: u16,
    /// Port that connections of the application are redirected to.
    #[arg(long, env = "PALISADE_OUTBOUND_PORT", value_name = "PORT", default_value_t = OUTBOUND_PORT)]
    pub outbound_port: u16,
    /// Port that the application's DNS queries are redirected to; 0 = DNS is not answered.
    #[arg(long, env = "PALISADE_DNS_PORT", value_name = "PORT", default_value_t = DNS_PORT)]
    pub dns_port: u16,
    /// Search domains and resolvers for names that are not the mesh's.
    #[arg(long, env = "PALISADE_RESOLV_CONF", value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
}

/// Runs a sidecar from the command line until it has drained; as `redirect`, the step before it.
pub fn main() -> ExitCode {
    // The sidecar's own flags are required ones, which a step has no use for.
    let result = if std::env::args_os().nth(1).is_some_and(|word| word == "redirect") {
        RedirectOptions::parse_from(std::env::args_os().skip(1)).run().map_err(|error| error.to_string())
    } else {
        run(&Options::parse()).map_err(|error| error.to_string())
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("palisade-sidecar: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs a sidecar until it has drained.
///
/// # Errors
/// When it cannot be set up.
pub fn run(options: &Options) -> Result<(), ProcessError> {
    let Options { proxy, inbound_port, outbound_port, dns_port: _, resolv_conf: _ } = options;
    let filter = log::start(&proxy.log).map_err(ProcessError::Option)?;
    tracing::info!(namespace = %proxy.namespace, name = %proxy.name, "sidecar starting");
    variables::warn_of_unread(&Options::command());
    let bind = |name: &str, port| Bind {
        key: ListenerKey::new(name),
        address: proxy.bind_address(port),
        options: ListenerOptions {
            max_connections: NonZeroUsize::new(proxy.limits.max_connections),
            ..ListenerOptions::default()
        },
    };
    let captures =
        vec![(Role::Inbound, bind("inbound", *inbound_port)), (Role::Outbound, bind("outbound", *outbound_port))];
    let settings = proxy.settings(ProxyKind::Sidecar, captures);
    let process = Process::new(settings, Arc::clone(&filter) as _, io::stdout())?;
    let dns = dns_settings(options)?;
    let outcome = run_to_end(process, proxy.access()?, |runtime, stop| answer_names(dns, runtime, stop))?;
    tracing::info!(?outcome, "sidecar ended");
    Ok(())
}

fn dns_settings(options: &Options) -> Result<Option<DnsSettings>, ProcessError> {
    if options.dns_port == 0 {
        return Ok(None);
    }
    let text = match fs::read_to_string(&options.resolv_conf) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(ProcessError::Option(format!("`{}`: {error}", options.resolv_conf.display()))),
    };
    let ResolvConf { servers, search } = ResolvConf::parse(&text);
    let has_v6 = options.proxy.pod_ip.iter().any(std::net::IpAddr::is_ipv6);
    let mut listen = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), options.dns_port)];
    if has_v6 {
        listen.push(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), options.dns_port));
    }
    let resolvers = servers.into_iter().map(|server| SocketAddr::new(server, 53)).collect();
    Ok(Some(DnsSettings { listen, search, resolvers, socket_mark: options.proxy.socket_mark }))
}

async fn answer_names(
    settings: Option<DnsSettings>,
    runtime: Arc<Runtime>,
    stop: CancellationToken,
) -> Result<(), ProcessError> {
    let Some(settings) = settings else {
        stop.cancelled().await;
        return Ok(());
    };
    let server = DnsServer::bind(settings, MeshNames::new(runtime)).await?;
    server.serve(stop.cancelled_owned()).await;
    Ok(())
}
