//! A gateway's listeners for datagrams: each sender's datagrams are one flow, which goes to one endpoint while it lasts.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::AHashMap;
use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Runtime;
use crate::serve::{Bind, ListenerError, ListenerKey, socket::canonical};

mod flow;

pub use flow::FlowSubject;

/// Flows that one listener keeps at once. A flow holds a socket: senders whose addresses are made up must not take all of them.
const MAX_FLOWS: usize = 4096;
/// Datagrams of one flow that wait until they are judged or sent; more are lost, as on any link that is full.
const QUEUE: usize = 64;
/// Longest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// The datagram listeners of one process, reconciled with what is desired. Dropping it ends all flows.
pub struct DatagramListeners {
    runtime: Arc<Runtime>,
    running: BTreeMap<ListenerKey, Running>,
}

struct Running {
    address: SocketAddr,
    local: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Where a listener's datagrams come from and answers go to.
struct Door {
    runtime: Arc<Runtime>,
    key: ListenerKey,
    socket: Arc<UdpSocket>,
    /// The socket's own address.
    local: SocketAddr,
}

/// Flows by sender.
#[derive(Default)]
struct Flows {
    senders: AHashMap<SocketAddr, (Id, mpsc::Sender<Bytes>)>,
    tasks: JoinSet<SocketAddr>,
    /// The sender of each task, for those that end badly.
    owners: AHashMap<Id, SocketAddr>,
}

/// What was lost at a listener, told now and then.
#[derive(Debug, Default)]
struct Lost(AtomicU64);

impl DatagramListeners {
    /// None yet.
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime, running: BTreeMap::new() }
    }

    /// Makes the sockets those that are desired. What stays keeps its socket and its flows; the flows of what goes end.
    ///
    /// Gives one error per bind that does not listen now; the others are in force. Must run inside a tokio runtime.
    pub async fn reconcile(&mut self, desired: Vec<Bind>) -> Vec<ListenerError> {
        let desired: BTreeMap<ListenerKey, Bind> = desired.into_iter().map(|bind| (bind.key.clone(), bind)).collect();
        let stays = |key: &ListenerKey, running: &Running| {
            desired.get(key).is_some_and(|bind| bind.address == running.address && !running.stop.is_cancelled())
        };
        let gone: Vec<ListenerKey> =
            self.running.iter().filter(|(key, running)| !stays(key, running)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            if let Some(running) = self.running.remove(&key) {
                info!(listener = %key, address = %running.local, "listener takes no more datagrams");
                running.end().await;
            }
        }
        let mut errors = Vec::new();
        for (key, Bind { key: _, address, options: _ }) in desired {
            if self.running.contains_key(&key) {
                continue;
            }
            match self.listen(&key, address) {
                Ok(running) => {
                    info!(listener = %key, address = %running.local, "taking datagrams");
                    self.running.insert(key, running);
                }
                Err(source) => {
                    warn!(listener = %key, %address, error = %source, "cannot take datagrams");
                    errors.push(ListenerError { key, address, source });
                }
            }
        }
        errors
    }

    /// Where a listener really listens.
    pub fn local_address(&self, key: &ListenerKey) -> Option<SocketAddr> {
        self.running.get(key).map(|running| running.local)
    }

    /// Ends all listeners and their flows.
    pub async fn end(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.end().await;
        }
    }

    fn listen(&self, key: &ListenerKey, address: SocketAddr) -> io::Result<Running> {
        let socket = Arc::new(bind(address)?);
        let local = socket.local_addr()?;
        let stop = CancellationToken::new();
        let door = Door { runtime: Arc::clone(&self.runtime), key: key.clone(), socket, local };
        let mut tasks = JoinSet::new();
        tasks.spawn(door.serve(stop.clone()));
        Ok(Running { address, local, stop, tasks })
    }
}

impl Running {
    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Door {
    /// Deals datagrams to flows until told to stop. Flows end with it.
    async fn serve(self, stop: CancellationToken) {
        let mut flows = Flows::default();
        let mut buffer = vec![0; MAX_DATAGRAM];
        let lost = Lost::default();
        loop {
            // `recv_from` is cancel safe: a datagram is either returned or still queued.
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = flows.tasks.join_next_with_id() => {
                    flows.forget(ended);
                    continue;
                }
                received = self.socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((length, sender)) => {
                    let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                    self.deal(&mut flows, sender, datagram, &lost);
                }
                // An answer that could not be delivered comes back here as an error of the socket: it concerns one sender.
                Err(error) => {
                    tracing::debug!(listener = %self.key, %error, "cannot receive");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    fn deal(&self, flows: &mut Flows, sender: SocketAddr, datagram: Bytes, lost: &Lost) {
        let datagram = match flows.senders.get(&sender) {
            Some((_, queue)) => match queue.try_send(datagram) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return lost.one(&self.key, "a sender is faster than its backend");
                }
                // The flow has just ended: the next one begins with this.
                Err(mpsc::error::TrySendError::Closed(datagram)) => datagram,
            },
            None => {
                let limit = self.runtime.limits().max_connections;
                if flows.senders.len() >= limit.map_or(MAX_FLOWS, |limit| limit.get().min(MAX_FLOWS)) {
                    return lost.one(&self.key, "it has as many senders as it may");
                }
                datagram
            }
        };
        self.begin(flows, sender, datagram);
    }

    fn begin(&self, flows: &mut Flows, sender: SocketAddr, datagram: Bytes) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        // The queue is empty and there is room for one.
        let _ = queue.try_send(datagram);
        let flow = flow::Flow {
            runtime: Arc::clone(&self.runtime),
            listener: self.key.clone(),
            socket: Arc::clone(&self.socket),
            sender,
            facts: flow::facts(canonical(sender), canonical(self.local), &self.runtime),
        };
        let task = flows.tasks.spawn(async move {
            flow.serve(waiting).await;
            sender
        });
        flows.owners.insert(task.id(), sender);
        flows.senders.insert(sender, (task.id(), queue));
    }
}

impl Flows {
    /// Forgets a flow that has ended, unless the sender has begun another one since.
    fn forget(&mut self, ended: Result<(Id, SocketAddr), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(sender) = self.owners.remove(&id) else { return };
        if self.senders.get(&sender).is_some_and(|(present, _)| *present == id) {
            self.senders.remove(&sender);
        }
    }
}

impl Lost {
    /// Counts a datagram; one line for the first of each thousand.
    fn one(&self, key: &ListenerKey, why: &'static str) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        if before.is_multiple_of(1000) {
            warn!(listener = %key, lost = before + 1, why, "datagrams are lost");
        }
    }
}

impl std::fmt::Debug for DatagramListeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramListeners").field("listeners", &self.running.keys()).finish_non_exhaustive()
    }
}

impl Drop for DatagramListeners {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
    }
}

/// A socket for datagrams. `[::]` takes IPv4 too.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests;
