//! One proxy: an accept loop around `serve_h1` and `serve_h2`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use palisade_proxy::transport::{
    AppProtocol, ConnMeta, ConnectionEnd, ConnectorSettings, H1Limits, H2Limits, MeshConnector, MeshStream, Proxy,
    ProxySettings, TlsFacts, TlsTransport, Transport, UpstreamProtocol, Wire, build_proxy, serve_h1, serve_h2,
};

use super::app::{Forward, Seen, Speak};

/// How a hop is set up.
#[derive(Clone)]
pub struct Setup {
    pub listen: SocketAddr,
    pub upstream: SocketAddr,
    pub accept_tls: Option<Arc<ServerConfig>>,
    pub dial_tls: Option<TlsTransport>,
    pub source: Option<std::net::IpAddr>,
    pub speak: Speak,
    pub h1: H1Limits,
    pub h2: H2Limits,
    pub connector: ConnectorSettings,
    pub stream_idle: Option<Duration>,
    /// Requests that one upstream connection carries.
    pub max_requests: Option<NonZeroU32>,
    pub connect_timeout: Duration,
}

pub struct Hop {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    pub connector: MeshConnector,
    /// Downstream connections accepted so far.
    pub accepted: Arc<AtomicUsize>,
    /// How the connections ended.
    pub ends: Arc<parking_lot::Mutex<Vec<ConnectionEnd>>>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    connections: Arc<tokio::sync::Mutex<tokio::task::JoinSet<()>>>,
}

pub const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl Setup {
    pub fn to(upstream: SocketAddr) -> Self {
        Self {
            listen: LOOPBACK,
            upstream,
            accept_tls: None,
            dial_tls: None,
            source: None,
            speak: Speak::Same,
            h1: H1Limits::default(),
            h2: H2Limits::default(),
            connector: ConnectorSettings::default(),
            stream_idle: None,
            max_requests: None,
            connect_timeout: Duration::from_secs(10),
        }
    }

    pub fn speaking(mut self, protocol: UpstreamProtocol) -> Self {
        self.speak = Speak::Always(protocol);
        self
    }

    pub async fn start(self) -> Hop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(self.listen).unwrap();
        self.start_on(socket.listen(1024).unwrap()).await
    }

    pub async fn start_on(self, listener: TcpListener) -> Hop {
        let _ = rustls::crypto::ring::default_provider().install_default();
        super::show_logs();
        let connector = MeshConnector::new(self.connector.clone());
        let transport =
            connector.intern(Transport { tls: self.dial_tls.clone(), source: self.source, ..Transport::plaintext() });
        let seen = Arc::<Seen>::default();
        let app = Forward {
            connector: connector.clone(),
            upstream: self.upstream,
            transport,
            speak: self.speak,
            stream_idle: self.stream_idle,
            max_requests: self.max_requests,
            connect_timeout: self.connect_timeout,
            seen: Arc::clone(&seen),
        };
        let settings = ProxySettings { max_attempts: 8 };
        let proxy = build_proxy(app, connector.clone(), &settings).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, signal) = watch::channel(false);
        let (accepted, ends) = (Arc::<AtomicUsize>::default(), Arc::default());
        let connections = Arc::new(tokio::sync::Mutex::new(tokio::task::JoinSet::new()));
        let accepting = tokio::spawn(accept(
            listener,
            proxy,
            self,
            signal,
            Arc::clone(&accepted),
            Arc::clone(&ends),
            Arc::clone(&connections),
        ));
        Hop { address, seen, connector, accepted, ends, stop, accepting, connections }
    }
}

impl Hop {
    /// Refuses new connections, lets the old ones complete.
    pub async fn drain(&self) {
        self.accepting.abort();
        self.stop.send_replace(true);
        let mut connections = self.connections.lock().await;
        while connections.join_next().await.is_some() {}
    }

    /// Begins to drain, without waiting.
    pub fn signal(&self) {
        self.accepting.abort();
        self.stop.send_replace(true);
    }

    pub fn ends(&self) -> Vec<ConnectionEnd> {
        self.ends.lock().clone()
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    proxy: Arc<Proxy<Forward>>,
    setup: Setup,
    signal: watch::Receiver<bool>,
    accepted: Arc<AtomicUsize>,
    ends: Arc<parking_lot::Mutex<Vec<ConnectionEnd>>>,
    connections: Arc<tokio::sync::Mutex<tokio::task::JoinSet<()>>>,
) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        accepted.fetch_add(1, SeqCst);
        let (proxy, setup, signal, ends) = (Arc::clone(&proxy), setup.clone(), signal.clone(), Arc::clone(&ends));
        connections.lock().await.spawn(async move {
            let end = match admit(tcp, &setup).await {
                Some(stream) if stream.protocol() == AppProtocol::Http2 => {
                    serve_h2(&proxy, stream, &setup.h2, signal, drop).await
                }
                Some(stream) => serve_h1(&proxy, stream, &setup.h1, signal).await,
                None => return,
            };
            ends.lock().push(end);
        });
    }
}

async fn admit(tcp: TcpStream, setup: &Setup) -> Option<MeshStream> {
    let mut meta = ConnMeta::new(tcp.peer_addr().ok()?, tcp.local_addr().ok()?);
    meta.owner = Some(Arc::new("owner"));
    let Some(tls) = &setup.accept_tls else {
        let (protocol, prefix) = sniff(&tcp).await?;
        let wire = if prefix.is_empty() { Wire::new(tcp) } else { Wire::with_prefix(tcp, &prefix) };
        return MeshStream::plain(wire, protocol, meta).ok();
    };
    let tls = TlsAcceptor::from(Arc::clone(tls)).accept(Wire::new(tcp)).await.ok()?;
    let facts = TlsFacts::of_server(tls.get_ref().1, Arc::from([])).ok()?;
    let is_h2 = facts.negotiated_alpn.as_deref() == Some(b"h2");
    meta.tls = Some(facts);
    let protocol = if is_h2 { AppProtocol::Http2 } else { AppProtocol::Http1 };
    MeshStream::tls(tls, protocol, meta).ok()
}

/// Consumes what it looks at, to test that the bytes come back.
async fn sniff(tcp: &TcpStream) -> Option<(AppProtocol, Vec<u8>)> {
    let mut seen = Vec::new();
    loop {
        tcp.readable().await.ok()?;
        let mut buf = [0; 3];
        match tcp.try_read(&mut buf) {
            Ok(0) => return None,
            Ok(n) => seen.extend_from_slice(&buf[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        if seen.len() >= 3 || !b"PRI".starts_with(&seen) {
            let protocol = if seen.starts_with(b"PRI") { AppProtocol::Http2 } else { AppProtocol::Http1 };
            return Some((protocol, seen));
        }
    }
}
