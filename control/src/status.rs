//! Status of documents, written back: by the leader alone, own entries only, and nothing where nothing changed.
//!
//! What an object's status should say comes from the compiled mesh and from what proxies have acknowledged; what it says comes from
//! a watch. Where the two differ, the difference is written, at a pace that a fight with another controller or a thousand changes at
//! once cannot raise.

use std::sync::Arc;

use kube::Client;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    leader::{Candidate, campaign},
    serve::Shared,
};

mod acks;
mod kinds;
mod merge;
mod observed;
mod pace;
mod patch;
mod writer;

pub use acks::FleetAcks;
pub use writer::StatusWriter;

/// Field manager of all status writes.
pub const FIELD_MANAGER: &str = "palisade-status";

/// Name of the Lease of the replica that writes status.
pub const LEASE_NAME: &str = "palisade-control-leader";

/// Campaigns for the lease and writes while it is held, until `stop`: two tasks.
pub fn start(client: Client, namespace: &str, shared: &Arc<Shared>, stop: CancellationToken) -> [JoinHandle<()>; 2] {
    let identity = replica_name();
    let candidate = Candidate { namespace: namespace.to_owned(), lease: LEASE_NAME.to_owned(), identity };
    let (leadership, campaign) = campaign(client.clone(), candidate, stop.clone());
    let (mesh, fleet) = (shared.mesh.clone(), Arc::clone(&shared.fleet));
    let writer = StatusWriter::new(client, mesh, fleet, leadership, shared.metrics.clone());
    [tokio::spawn(campaign.run()), tokio::spawn(writer.run(stop))]
}

/// A name of this replica that no other has.
pub(crate) fn replica_name() -> String {
    format!("{}_{:016x}", host(), fastrand::u64(..))
}

/// The pod's name, where this is a pod.
fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".to_owned())
}
