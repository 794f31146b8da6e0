//! One runtime per core, each with connections, upstream pools and timers of its own (docs/decisions/0007-runtime.md).
//!
//! Requests never change threads, so no queue is shared and nobody is woken across cores. Connections are dealt to the
//! worker with the fewest, by one accept loop: the kernel's SO_REUSEPORT would deal by a hash, blind to how many are open.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::runtime::{Builder, Handle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::Runtime;
use crate::{
    http::MeshApp,
    transport::{EmbedError, MeshConnector, Proxy, ProxySettings, build_proxy},
};

/// How often a worker looks after its idle upstream connections.
const UPKEEP: Duration = Duration::from_secs(5);

/// The workers of a process. Dropping them ends every connection that they serve.
pub struct Workers {
    workers: Vec<Worker>,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

/// A thread with a runtime.
struct Worker {
    handle: Handle,
    proxy: Arc<Proxy<MeshApp>>,
    connections: Arc<AtomicUsize>,
}

/// A place on a worker for one connection, which counts until it is dropped.
pub(super) struct Seat {
    handle: Handle,
    /// The worker's own proxy.
    pub(super) proxy: Arc<Proxy<MeshApp>>,
    counted: Counted,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts as many workers as the settings say, else as there are cores for this process.
    ///
    /// # Errors
    /// When a thread cannot be started or Pingora does not hand out its proxy.
    pub async fn start(runtime: &Arc<Runtime>, settings: &ProxySettings) -> Result<Self, EmbedError> {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let count = runtime.settings().workers.unwrap_or_else(cores);
        let mut started = Self { workers: Vec::new(), stop: CancellationToken::new(), threads: Vec::new() };
        for number in 0..count.get() {
            let connector = runtime.transports.connector().sibling(count);
            let app = MeshApp::new(Arc::clone(runtime));
            let proxy = build_proxy(app, connector.clone(), settings).await?;
            let (handle, thread) = spawn(number, connector, started.stop.clone())?;
            started.threads.push(thread);
            started.workers.push(Worker { handle, proxy, connections: Arc::default() });
        }
        Ok(started)
    }

    /// The worker with the fewest connections; `None` only where there is none.
    pub(super) fn seat(&self) -> Option<Seat> {
        let worker = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            handle: worker.handle.clone(),
            proxy: Arc::clone(&worker.proxy),
            counted: Counted(Arc::clone(&worker.connections)),
        })
    }
}

impl Seat {
    /// Starts a connection on the worker. Dropping what this returns ends the connection; it holds no more than a handle,
    /// so that an idle connection costs its memory once.
    pub(super) fn run(self, connection: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
        let Self { handle, proxy: _, counted } = self;
        let serving = AbortOnDropHandle::new(handle.spawn(async move {
            connection.await;
            drop(counted);
        }));
        Box::pin(async move {
            if let Err(error) = serving.await
                && error.is_panic()
            {
                tracing::error!(%error, "a connection's task panicked");
            }
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A worker ends within one step of its tasks.
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("count", &self.workers.len()).finish_non_exhaustive()
    }
}

fn spawn(number: usize, connector: MeshConnector, stop: CancellationToken) -> io::Result<(Handle, JoinHandle<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let upkeep = async move {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => connector.reap(),
            }
        }
    };
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        runtime.block_on(upkeep);
        // Look-ups of names may hang for long in the system's resolver.
        runtime.shutdown_background();
    })?;
    Ok((handle, thread))
}
