//! Connections in: TLS from the network, or a pipe inside this process.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::server::Connected;

use super::caller::PeerProof;
use crate::metrics::{Metrics, Refusal};

/// A TLS handshake must be over by then.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that wait for the server to take them; more wait in the kernel.
const BACKLOG: usize = 64;

/// An accepted connection.
pub(crate) struct Connection {
    io: Io,
    proof: PeerProof,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Pipe(DuplexStream),
}

impl Connection {
    /// One end of a pipe. It proves nothing by itself.
    pub(crate) fn pipe(io: DuplexStream) -> Self {
        Self { io: Io::Pipe(io), proof: PeerProof::default(), _permit: None }
    }
}

/// Accepts until `stop`, at most `limit` connections at a time; those above are closed at once.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limit: usize,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> mpsc::Receiver<Connection> {
    let (ready, connections) = mpsc::channel(BACKLOG);
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(limit));
    let handshakes = tasks.clone();
    tasks.spawn(async move {
        loop {
            let stream = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, most likely: waiting is all that helps.
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                metrics.refuse(Refusal::Limit);
                continue;
            };
            let (acceptor, ready, metrics, stop) = (acceptor.clone(), ready.clone(), metrics.clone(), stop.clone());
            handshakes.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    connection = handshake(acceptor, stream, permit, metrics) => {
                        if let Some(connection) = connection {
                            // The server is gone: so is the connection.
                            drop(ready.send(connection).await);
                        }
                    }
                }
            });
        }
    });
    connections
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    metrics: Metrics,
) -> Option<Connection> {
    let address = stream.peer_addr().ok().map(|peer| peer.ip().to_canonical());
    let peer = stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
            let proof = PeerProof { certificates, address };
            Some(Connection { io: Io::Tls(Box::new(stream)), proof, _permit: Some(permit) })
        }
        Ok(Err(error)) => {
            metrics.refuse(Refusal::Handshake);
            tracing::warn!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            metrics.refuse(Refusal::Handshake);
            tracing::warn!(%peer, "TLS handshake timed out");
            None
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerProof;

    fn connect_info(&self) -> PeerProof {
        self.proof.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Pipe(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Pipe(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Pipe(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Pipe(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
