//! Opaque connections: dialling upstream and relaying bytes with half-close, idle timeout and revocation.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use palisade_model::reason::Reason;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::transport::ConnectionOptions;

use super::{
    registry::Registration,
    relay::{Direction, Fault},
    socket,
};

/// Where and how to dial.
#[derive(Debug, Clone)]
pub struct Dial {
    /// The endpoint.
    pub address: SocketAddr,
    /// The local address to dial from (127.0.0.6 for the application behind a sidecar). `None`: the system's choice.
    pub source: Option<IpAddr>,
    /// Firewall mark (`SO_MARK`), by which redirection rules know the proxy's own sockets; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// Settings of the connection; `None` = the defaults.
    pub options: Option<Arc<ConnectionOptions>>,
    /// The time for TCP and TLS together.
    pub timeout: Duration,
    /// TLS to speak, mesh or user's. `None`: plaintext.
    pub tls: Option<DialTls>,
}

/// TLS towards an endpoint.
#[derive(Debug, Clone)]
pub struct DialTls {
    /// From [`crate::tls::MeshIdentity::client_config`] or [`crate::tls::Origination::config`].
    pub config: Arc<ClientConfig>,
    /// The SNI; an IP address sends none.
    pub server_name: ServerName<'static>,
}

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Upstream {
    /// Plaintext.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why an endpoint could not be reached. All of them are reason `upstream-connect`.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The socket could not be made or bound.
    #[error("cannot prepare a socket towards {address}: {source}")]
    Socket {
        /// The endpoint.
        address: SocketAddr,
        /// The operating system's error.
        source: io::Error,
    },
    /// Refused or unreachable.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The endpoint.
        address: SocketAddr,
        /// The operating system's error.
        source: io::Error,
    },
    /// The TLS handshake failed; for a peer with another identity the source says which.
    #[error("TLS handshake with {address} failed: {source}")]
    Tls {
        /// The endpoint.
        address: SocketAddr,
        /// What rustls said.
        source: io::Error,
    },
    /// Not done in time.
    #[error("connecting to {address} took more than {timeout:?}")]
    Timeout {
        /// The endpoint.
        address: SocketAddr,
        /// The time that was given.
        timeout: Duration,
    },
}

/// Bounds of one relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Without a byte in either direction for this long, both ends are closed. `None`: never.
    pub idle: Option<Duration>,
    /// Both ends are closed after this, whatever moves. `None`: never.
    pub life: Option<Duration>,
    /// Bytes held per direction at most.
    pub buffer: usize,
}

/// Live byte counts of one relay.
#[derive(Debug, Default)]
pub struct RelayCounts {
    received: AtomicU64,
    sent: AtomicU64,
}

/// How a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both directions ended in order.
    Finished,
    /// Neither side said anything for the idle time.
    Idle,
    /// It has lived for as long as it may.
    Expired,
    /// The registry closed it.
    Revoked(Reason),
    /// The client failed: reset, or broken TLS.
    DownstreamFailed(io::Error),
    /// The endpoint failed: reset, or broken TLS.
    UpstreamFailed(io::Error),
}

impl Default for RelayLimits {
    /// One hour idle, as Envoy's TCP proxy; 16 KiB, one TLS record.
    fn default() -> Self {
        Self { idle: Some(Duration::from_secs(3600)), life: None, buffer: 16 * 1024 }
    }
}

impl RelayCounts {
    /// Bytes from downstream to upstream so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes from upstream to downstream so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl RelayEnd {
    /// The access log's reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Finished | Self::Expired => Reason::Ok,
            Self::Idle => Reason::IdleTimeout,
            Self::Revoked(reason) => *reason,
            Self::DownstreamFailed(_) => Reason::DownstreamClosed,
            Self::UpstreamFailed(_) => Reason::UpstreamReset,
        }
    }
}

/// Dials an endpoint.
///
/// # Errors
/// [`DialError`]; nothing stays open then.
pub async fn dial(target: &Dial) -> Result<Upstream, DialError> {
    let Dial { address, source, mark, options, timeout, tls } = target;
    let (address, timeout) = (*address, *timeout);
    let deadline = Instant::now() + timeout;
    let elapsed = |_| DialError::Timeout { address, timeout };
    let unprepared = |source| DialError::Socket { address, source };
    let socket = socket::dialling_socket(address, *source, *mark).map_err(unprepared)?;
    if let Some(options) = options {
        options.prepare(SockRef::from(&socket)).map_err(unprepared)?;
    }
    let mut stream = timeout_at(deadline, socket.connect(address))
        .await
        .map_err(elapsed)?
        .map_err(|source| DialError::Connect { address, source })?;
    let preamble = options.as_ref().map(|options| &*options.preamble).unwrap_or_default();
    if !preamble.is_empty() {
        timeout_at(deadline, stream.write_all(preamble))
            .await
            .map_err(elapsed)?
            .map_err(|source| DialError::Connect { address, source })?;
    }
    let Some(DialTls { config, server_name }) = tls else {
        return Ok(Upstream::Plain(stream));
    };
    let handshake = TlsConnector::from(Arc::clone(config)).connect(server_name.clone(), stream);
    let stream =
        timeout_at(deadline, handshake).await.map_err(elapsed)?.map_err(|source| DialError::Tls { address, source })?;
    Ok(Upstream::Tls(Box::new(stream)))
}

/// Copies bytes both ways until both ends are done, one fails, nothing moves for the idle time, or the registry says
/// stop. An end of one direction is passed on while the other goes on (half-close).
///
/// Holds at most twice `limits.buffer` bytes; a slow reader slows its writer. Dropping the future ends the relay.
pub async fn relay<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    limits: RelayLimits,
    counts: &RelayCounts,
    registration: &Registration,
) -> RelayEnd
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut inwards = Direction::new(limits.buffer, &counts.received);
    let mut outwards = Direction::new(limits.buffer, &counts.sent);
    let mut closed = pin!(registration.closed());
    let mut last_moved = Instant::now();
    let mut timer = pin!(tokio::time::sleep(limits.idle.unwrap_or_default()));
    let mut life = pin!(tokio::time::sleep(limits.life.unwrap_or_default()));
    std::future::poll_fn(|cx| {
        if closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(RelayEnd::Revoked(registration.close_reason().unwrap_or(Reason::Draining)));
        }
        let before = (counts.received(), counts.sent());
        let inwards = match inwards.poll_copy(cx, downstream, upstream) {
            Poll::Ready(Err(Fault::Source(error))) => return Poll::Ready(RelayEnd::DownstreamFailed(error)),
            Poll::Ready(Err(Fault::Sink(error))) => return Poll::Ready(RelayEnd::UpstreamFailed(error)),
            other => other.is_ready(),
        };
        let outwards = match outwards.poll_copy(cx, upstream, downstream) {
            Poll::Ready(Err(Fault::Source(error))) => return Poll::Ready(RelayEnd::UpstreamFailed(error)),
            Poll::Ready(Err(Fault::Sink(error))) => return Poll::Ready(RelayEnd::DownstreamFailed(error)),
            other => other.is_ready(),
        };
        if inwards && outwards {
            return Poll::Ready(RelayEnd::Finished);
        }
        if limits.life.is_some() && life.as_mut().poll(cx).is_ready() {
            return Poll::Ready(RelayEnd::Expired);
        }
        let Some(idle) = limits.idle else {
            return Poll::Pending;
        };
        if before != (counts.received(), counts.sent()) {
            last_moved = Instant::now();
        }
        // The timer is moved only when it fires: a busy relay touches it once per idle time.
        while timer.as_mut().poll(cx).is_ready() {
            let due = last_moved + idle;
            if Instant::now() >= due {
                return Poll::Ready(RelayEnd::Idle);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await
}

impl Upstream {
    /// The TCP socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
