//! Pingora's `HttpProxy` without Pingora's server: built once, driven by our own accept loop.

use std::io;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{Fds, ShutdownWatch};
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use pingora_proxy::{HttpProxy, ProxyHttp, ProxyServiceBuilder};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::connector::MeshConnector;

/// Pingora's proxy, with our connector.
pub type Proxy<SV> = HttpProxy<SV, MeshConnector>;

/// What of Pingora's server configuration matters to an embedded proxy.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Tries of one request, the first included; at least 1. The application decides about each retry; this is the wall.
    pub max_attempts: usize,
}

/// Why a proxy could not be built.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The loopback listener or the memory file of the construction.
    #[error("cannot set up the proxy's construction: {0}")]
    Io(#[from] io::Error),
    /// The placeholder certificate.
    #[error("cannot make the placeholder certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Pingora did not hand the proxy out.
    #[error("the proxy was not handed out within {0:?}")]
    NotHandedOut(Duration),
}

/// Loopback and one task switch; more means that the machine is in trouble.
const HAND_OUT: Duration = Duration::from_secs(10);

/// Builds the proxy around an application. Needs a tokio runtime with I/O and time, and loopback.
///
/// Pingora keeps the constructor of a proxy with a connector of one's own to itself, and shows such a proxy only to the
/// callback for custom sessions. So a service is started on a loopback port that nobody knows, one connection is made to it,
/// and the proxy that the callback receives is kept; the listener closes at once.
///
/// # Errors
/// [`EmbedError`]; all of them concern the machine, none the application.
pub async fn build_proxy<SV>(
    app: SV,
    connector: MeshConnector,
    settings: &ProxySettings,
) -> Result<Arc<Proxy<SV>>, EmbedError>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync + 'static,
{
    // Room for one: whoever else connects to the port has nothing to add.
    let (handed, mut proxy) = mpsc::channel(1);
    let roots = placeholder_roots()?;
    let conf = ServerConf {
        max_retries: settings.max_attempts.max(1),
        // Idle connections are kept by our connector.
        upstream_keepalive_pool_size: 16,
        // Pingora's own connectors, which are never used, load their roots when they are made, and panic if there are none.
        ca_file: Some(format!("/proc/self/fd/{}", roots.as_raw_fd())),
        ..ServerConf::default()
    };
    let mut options = HttpServerOptions::default();
    options.force_custom = true;
    let mut service: Service<Proxy<SV>> = ProxyServiceBuilder::new(&Arc::new(conf), app)
        .custom(
            connector,
            Arc::new(move |proxy, _stream, _shutdown: &ShutdownWatch| {
                let _ = handed.try_send(proxy);
                Box::pin(async { None })
            }),
        )
        .server_options(options)
        .build();
    drop(roots);

    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let mut fds = Fds::new();
    fds.add(address.to_string(), listener.into_raw_fd());
    service.add_tcp(&address.to_string());
    let (stop, shutdown) = watch::channel(false);
    let handed_out = {
        let start = service.start_service(Some(Arc::new(parking_lot::Mutex::new(fds))), shutdown, 1);
        let knock = async {
            let _connection = TcpStream::connect(address).await?;
            proxy.recv().await.ok_or(EmbedError::NotHandedOut(HAND_OUT))
        };
        tokio::select! {
            () = start => Err(EmbedError::NotHandedOut(HAND_OUT)),
            handed_out = knock => handed_out,
            () = tokio::time::sleep(HAND_OUT) => Err(EmbedError::NotHandedOut(HAND_OUT)),
        }
        // `start` is dropped unfinished: its end would mark the proxy as shutting down.
    };
    // Ends the accept loop, which has become a task of its own, and closes the listener.
    let _ = stop.send(true);
    handed_out
}

/// A file with one certificate that nobody has the key of.
fn placeholder_roots() -> Result<OwnedFd, EmbedError> {
    let certificate = rcgen::generate_simple_self_signed(vec!["unused.invalid".to_owned()])?;
    let fd = memfd_create(c"unused-roots", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(certificate.cert.pem().as_bytes())?;
    Ok(file.into())
}
