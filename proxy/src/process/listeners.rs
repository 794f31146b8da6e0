//! A gateway's listeners follow its configuration. An address that is taken is tried again until it is free.

use std::{sync::Arc, time::Duration};

use palisade_wire::delta::Unbound;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    runtime::{Runtime, datagrams::DatagramListeners},
    serve::ListenerSet,
};

/// The pause before an address that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Reconciles when asked, and tells whoever asked which listeners do not listen, until `ended` completes.
pub(super) async fn follow(
    listeners: &mut ListenerSet,
    datagrams: &mut DatagramListeners,
    runtime: &Runtime,
    asked: &mut mpsc::Receiver<oneshot::Sender<Vec<Unbound>>>,
    ended: impl Future<Output = ()>,
) {
    tokio::pin!(ended);
    let mut retry: Option<Instant> = None;
    loop {
        let done = tokio::select! {
            biased;
            () = &mut ended => return,
            Some(done) = asked.recv() => Some(done),
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => None,
        };
        let edge = runtime.edge();
        let mut errors = listeners.reconcile(edge.binds()).await;
        errors.extend(datagrams.reconcile(edge.datagram_binds()).await);
        for error in &errors {
            tracing::error!(%error, "a listener of the configuration does not listen; trying again");
        }
        retry = (!errors.is_empty()).then(|| Instant::now() + RETRY);
        if let Some(done) = done {
            let unbound = errors
                .iter()
                .map(|error| Unbound { listener: Arc::from(error.key.as_str()), message: error.to_string().into() });
            // Whoever asked may have given up waiting.
            let _ = done.send(unbound.collect());
        }
    }
}
