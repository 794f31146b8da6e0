//! Connections into a cluster's network namespace, from wherever the caller is.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use tokio::{net::TcpStream, sync::oneshot};
use tower::Service;

/// How long a connection may take to come about.
const LIMIT: Duration = Duration::from_secs(5);

/// Makes connections inside a network namespace; for clients that take a connector.
#[derive(Debug, Clone)]
pub struct Connector {
    network: Arc<File>,
}

impl Connector {
    pub(super) fn new(network: Arc<File>) -> Self {
        Self { network }
    }

    /// Does something on a thread inside the namespace. What it opens stays there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and as `work` does.
    pub async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let network = Arc::clone(&self.network);
        let (sender, result) = oneshot::channel();
        // A thread of its own: one that has been inside is of no use outside.
        std::thread::Builder::new().spawn(move || {
            let entered = setns(&*network, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            // A receiver that is gone wants no answer.
            drop(sender.send(entered.and_then(|()| work())));
        })?;
        result.await.map_err(|_| io::Error::other("the thread inside the namespace panicked"))?
    }

    /// A connection to an address in the namespace.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.inside(move || {
            let stream = std::net::TcpStream::connect_timeout(&address, LIMIT)?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        TcpStream::from_std(stream.await?)
    }

    /// An address that nobody listens at.
    ///
    /// # Errors
    /// When the namespace has no port left.
    pub async fn free_address(&self) -> io::Result<SocketAddr> {
        self.inside(|| std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()).await
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let port = uri.port_u16().unwrap_or(443);
            let host = uri.host().unwrap_or_default();
            let address = host.parse().map_err(|_| io::Error::other(format!("`{host}` is not an address")))?;
            Ok(TokioIo::new(connector.connect(SocketAddr::new(address, port)).await?))
        })
    }
}
