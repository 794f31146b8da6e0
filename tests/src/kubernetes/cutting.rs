//! Connections into a cluster that break off in the middle, after as many bytes as a seed says.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower::Service;

use super::Connector;

/// Bytes that a connection may bring at least, so that a handshake mostly gets through, and above that at most.
const LEAST: u64 = 6_000;
const FURTHER: u64 = 60_000;

/// Makes connections that break off.
#[derive(Debug, Clone)]
pub struct Cutting {
    connector: Connector,
    state: Arc<Mutex<u64>>,
    cuts: Arc<AtomicUsize>,
}

/// A connection that breaks off.
#[derive(Debug)]
pub struct Cut {
    stream: TcpStream,
    left: usize,
    cuts: Arc<AtomicUsize>,
}

impl Cutting {
    /// Connections of a seed.
    pub fn new(connector: Connector, seed: u64) -> Self {
        Self { connector, state: Arc::new(Mutex::new(seed)), cuts: Arc::default() }
    }

    /// Connections that have broken off.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }

    fn budget(&self) -> usize {
        let Ok(mut state) = self.state.lock() else { return 0 };
        // Knuth's MMIX generator: the same cuts for the same seed.
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(LEAST + (*state >> 33) % FURTHER).unwrap_or(usize::MAX)
    }
}

impl Service<Uri> for Cutting {
    type Response = TokioIo<Cut>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (mut connector, left, cuts) = (self.connector.clone(), self.budget(), Arc::clone(&self.cuts));
        Box::pin(async move {
            let stream = connector.call(uri).await?.into_inner();
            Ok(TokioIo::new(Cut { stream, left, cuts }))
        })
    }
}

impl Connection for Cut {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Cut {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.cuts.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let came = buffer.filled().len().saturating_sub(before);
        self.left = self.left.saturating_sub(came);
        read
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
