//! From this machine's loopback into the mesh's network.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::fabric::Fabric;

/// Connections at the same time through one relay; further ones wait in the kernel's queue.
const CONNECTION_LIMIT: usize = 4096;

/// A port on this machine's loopback that leads into the mesh. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

/// Where a relay leads.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    /// `None`: as a host on the network; else from inside this namespace.
    pub(super) namespace: Option<Arc<File>>,
    pub(super) address: SocketAddr,
}

impl Relay {
    /// Port 0: any free one.
    pub(super) async fn open(fabric: &Fabric, host_port: u16, inside: Inside) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, host_port))
            .await
            .with_context(|| format!("cannot publish on port {host_port} of this machine"))?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, fabric.clone(), inside));
        Ok(Self { address, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, fabric: Fabric, inside: Inside) {
    let limit = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&limit).acquire_owned().await else { return };
        let Ok((outer, _)) = listener.accept().await else {
            // Out of descriptors: trying again at once would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (fabric, inside) = (fabric.clone(), inside.clone());
        connections.spawn(async move {
            relay(outer, &fabric, &inside).await;
            drop(place);
        });
    }
}

/// A side that breaks off breaks off the other: nothing else could be told it.
async fn relay(mut outer: TcpStream, fabric: &Fabric, inside: &Inside) {
    let inner = match &inside.namespace {
        Some(namespace) => fabric.connect_from(namespace, inside.address).await,
        None => fabric.connect(inside.address).await,
    };
    let Ok(mut inner) = inner else {
        // A reset, as from a port that nobody listens on.
        let _ = outer.set_zero_linger();
        return;
    };
    let _ = outer.set_nodelay(true);
    if tokio::io::copy_bidirectional(&mut outer, &mut inner).await.is_err() {
        let _ = outer.set_zero_linger();
    }
}
