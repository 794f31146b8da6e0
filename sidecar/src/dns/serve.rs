//! The DNS server's sockets.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::answer::{Handled, Response, encode, handle, udp_limit};
use super::upstream::{forward, read_frame, write_frame};
use super::{DnsSettings, Names};

/// Queries over UDP that wait for the control plane or a resolver; further ones are dropped, and their clients ask again. Those
/// that can be answered at once always are.
const QUERY_LIMIT: usize = 1024;

/// TCP connections; further ones wait in the kernel's queue.
const CONNECTION_LIMIT: usize = 128;

/// Longest wait for a client's next query on a TCP connection.
const IDLE: Duration = Duration::from_secs(10);

/// Longest query over UDP that is read; longer ones fail to parse.
const QUERY_BYTES: usize = 4096;

/// A server whose sockets are bound.
#[derive(Debug)]
pub struct DnsServer<N> {
    sockets: Vec<(UdpSocket, TcpListener)>,
    shared: Arc<Shared<N>>,
}

#[derive(Debug)]
struct Shared<N> {
    names: N,
    search: Vec<String>,
    resolvers: Vec<SocketAddr>,
    socket_mark: Option<u32>,
    queries: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// UDP and TCP on one port. A port that the system chooses for one may be taken for the other: then another one is asked for.
async fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const TRIES: usize = 32;
    let mut left = TRIES;
    loop {
        let udp = UdpSocket::bind(address).await?;
        left -= 1;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if address.port() == 0 && left > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

impl<N: Names> DnsServer<N> {
    /// Binds every address, UDP and TCP on the same port.
    ///
    /// # Errors
    /// Where an address cannot be bound.
    pub async fn bind(settings: DnsSettings, names: N) -> io::Result<Self> {
        let DnsSettings { listen, search, resolvers, socket_mark } = settings;
        let mut sockets = Vec::with_capacity(listen.len());
        for address in listen {
            let (udp, tcp) = bind_both(address).await?;
            if let Some(mark) = socket_mark {
                // Answers are told from the application's packets as everything else of the proxy is.
                socket2::SockRef::from(&udp).set_mark(mark)?;
            }
            sockets.push((udp, tcp));
        }
        let shared = Shared {
            names,
            search,
            resolvers,
            socket_mark,
            queries: Arc::new(Semaphore::new(QUERY_LIMIT)),
            connections: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
        };
        Ok(Self { sockets, shared: Arc::new(shared) })
    }

    /// The bound addresses, in the order of the settings.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(|(udp, _)| udp.local_addr()).collect()
    }

    /// Answers until `shutdown` completes; queries still in progress are then given up.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        for (udp, tcp) in self.sockets {
            tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&self.shared)));
            tasks.spawn(serve_tcp(tcp, Arc::clone(&self.shared)));
        }
        tokio::select! {
            () = shutdown => {}
            // Neither ends by itself.
            _ = tasks.join_next() => tracing::error!("the DNS server ended"),
        }
    }
}

impl<N: Names> Shared<N> {
    /// The answer to one packet; `None`: there is none to give.
    async fn answer(&self, packet: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let (message, udp_limit) = match handle(&self.names, &self.search, packet).await {
            Handled::Nothing => return None,
            Handled::Response(response) => {
                let Response { message, udp_limit } = *response;
                (message, udp_limit)
            }
            Handled::Forward(query) => {
                let response = forward(&self.resolvers, self.socket_mark, &query, over_tcp).await;
                (response, udp_limit(&query.request))
            }
        };
        encode(&message, if over_tcp { u16::MAX } else { udp_limit })
    }
}

async fn serve_udp<N: Names>(socket: Arc<UdpSocket>, shared: Arc<Shared<N>>) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; QUERY_BYTES];
    loop {
        while tasks.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Such as an earlier answer that its client no longer took; the socket itself is fine.
                tracing::debug!(%error, "DNS socket");
                continue;
            }
        };
        let packet = buffer.get(..length).unwrap_or_default().to_vec();
        let answering = Arc::clone(&shared);
        let mut answer = Box::pin(async move { answering.answer(&packet, false).await });
        // What is known needs no task of its own. The waker may be lost: whoever is not ready is polled again by its task.
        let polled = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(None) => {}
            Poll::Ready(Some(answer)) => send(&socket, &answer, client).await,
            Poll::Pending => {
                let Ok(place) = Arc::clone(&shared.queries).try_acquire_owned() else { continue };
                let socket = Arc::clone(&socket);
                tasks.spawn(async move {
                    if let Some(answer) = answer.await {
                        send(&socket, &answer, client).await;
                    }
                    drop(place);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, %error, "DNS answer not sent");
    }
}

async fn serve_tcp<N: Names>(listener: TcpListener, shared: Arc<Shared<N>>) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&shared.connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "DNS connection not accepted");
                // Out of descriptors: trying again at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            if let Err(error) = serve_connection(stream, &shared).await {
                tracing::debug!(%error, "DNS connection");
            }
            drop(place);
        });
    }
}

async fn serve_connection<N: Names>(mut stream: TcpStream, shared: &Shared<N>) -> io::Result<()> {
    loop {
        let packet = match tokio::time::timeout(IDLE, read_frame(&mut stream)).await {
            Ok(Ok(packet)) => packet,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        match shared.answer(&packet, true).await {
            Some(answer) => write_frame(&mut stream, &answer).await?,
            None => return Ok(()),
        }
    }
}
