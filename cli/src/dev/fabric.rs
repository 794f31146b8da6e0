//! The network namespace in the middle: the bridge, the DNS server, and sockets opened in any pod.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CloneFlags, setns, unshare};
use palisade_sidecar::dns::{DnsServer, DnsSettings};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::names::Table;
use super::network;

/// Work for the thread in the middle; each piece takes milliseconds, so that senders hardly ever wait.
const JOBS: usize = 64;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// The namespace lives as long as this value: nothing but open files refers to it.
#[derive(Debug, Clone)]
pub(super) struct Fabric {
    namespace: Arc<File>,
    jobs: SyncSender<Job>,
    next_port: Arc<AtomicU32>,
}

impl Fabric {
    /// Makes the namespace with its bridge, and a thread that stays in it.
    pub(super) async fn create() -> anyhow::Result<Self> {
        let (jobs, work) = sync_channel::<Job>(JOBS);
        let (made, result) = oneshot::channel();
        std::thread::Builder::new().name("fabric".to_owned()).spawn(move || {
            let is_made = made.send(make_namespace());
            if is_made.is_ok() {
                for job in work {
                    job();
                }
            }
        })?;
        let namespace = result.await.context("the thread of the network ended")??;
        Ok(Self { namespace: Arc::new(namespace), jobs, next_port: Arc::new(AtomicU32::new(0)) })
    }

    /// Joins the namespace of process `pid` to the bridge.
    pub(super) async fn attach(&self, pid: u32) -> anyhow::Result<()> {
        let index = self.next_port.fetch_add(1, Ordering::Relaxed);
        self.run(move || network::attach(index, pid)).await?
    }

    /// Connects from the bridge, as a host on the network.
    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.connect_from(&self.namespace, address).await
    }

    /// Connects from inside `namespace`, such as a pod's, whose loopback addresses are then meant.
    pub(super) async fn connect_from(&self, namespace: &Arc<File>, address: SocketAddr) -> io::Result<TcpStream> {
        let (inside, home) = (Arc::clone(namespace), Arc::clone(&self.namespace));
        // A socket stays in the namespace where it was made; connecting may happen anywhere.
        let socket = self.run(move || socket_in(&inside, &home, address)).await.map_err(io::Error::other)??;
        tokio::time::timeout(CONNECT_TIMEOUT, TcpSocket::from_std_stream(socket.into()).connect(address)).await?
    }

    /// Answers DNS queries on the bridge until the process ends.
    pub(super) async fn serve_names(&self, table: Table) -> anyhow::Result<()> {
        let namespace = Arc::clone(&self.namespace);
        let (bound, result) = oneshot::channel();
        std::thread::Builder::new().name("names".to_owned()).spawn(move || {
            let serve = || -> anyhow::Result<_> {
                setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let settings = DnsSettings {
                    listen: vec![(network::HOST, 53).into()],
                    search: Vec::new(),
                    resolvers: Vec::new(),
                    socket_mark: None,
                };
                let server = runtime.block_on(DnsServer::bind(settings, table))?;
                Ok((runtime, server))
            };
            match serve() {
                Ok((runtime, server)) => {
                    let _ = bound.send(Ok(()));
                    runtime.block_on(server.serve(std::future::pending()));
                }
                Err(error) => {
                    let _ = bound.send(Err(error));
                }
            }
        })?;
        result.await.context("the DNS thread ended")?.context("cannot serve DNS")
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            // The one who asked may have gone.
            let _ = done.send(work());
        });
        self.jobs.send(job).ok().context("the thread of the network ended")?;
        result.await.context("the thread of the network ended")
    }
}

fn make_namespace() -> anyhow::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("no permission to make network namespaces")?;
    network::make_bridge()?;
    File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")
}

/// On the thread whose namespace is `home`, and is again afterwards.
fn socket_in(namespace: &File, home: &File, address: SocketAddr) -> io::Result<Socket> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    setns(home, CloneFlags::CLONE_NEWNET)?;
    let socket = socket?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}
