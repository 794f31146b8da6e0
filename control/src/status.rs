//! Status of documents, written back: by the leader alone, own entries only, and nothing where nothing changed.
//!
//! What an object's status should say comes from the compiled mesh and from what proxies have acknowledged; what it says comes from
//! a watch. Where the two differ, the difference is written, at a pace that a fight with another controller or a thousand changes at
//! once cannot raise.

use std::sync::Arc;

use kube::Client;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    leader::{Candidate, campaign},
    provisioning::{GatewayObjects, Provisioner, Troubles},
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
pub(crate) use kinds::written;
pub use writer::StatusWriter;

/// Field manager of all status writes.
pub const FIELD_MANAGER: &str = "palisade-status";

/// Name of the Lease of the replica that writes status.
pub const LEASE_NAME: &str = "palisade-control-leader";

/// Campaigns for the lease and writes while it is held, until `stop`: statuses, and what runs Gateways where `gateways` says by what
/// it is made.
pub fn start(
    client: Client,
    namespace: &str,
    shared: &Arc<Shared>,
    gateways: Option<GatewayObjects>,
    stop: CancellationToken,
) -> Vec<JoinHandle<()>> {
    let identity = replica_name();
    let candidate = Candidate { namespace: namespace.to_owned(), lease: LEASE_NAME.to_owned(), identity };
    let (leadership, campaign) = campaign(client.clone(), candidate, stop.clone());
    let (mesh, fleet) = (shared.mesh.clone(), Arc::clone(&shared.fleet));
    let (sender, troubles) = watch::channel(Troubles::default());
    let (leads, metrics) = (leadership.clone(), shared.metrics.clone());
    let writer = StatusWriter::new(client.clone(), mesh.clone(), fleet, leads, metrics.clone(), troubles);
    let mut tasks = vec![tokio::spawn(campaign.run()), tokio::spawn(writer.run(stop.clone()))];
    if let Some(gateways) = gateways {
        let provisioner = Provisioner::new(client, mesh, leadership, gateways, metrics, sender);
        tasks.push(tokio::spawn(provisioner.run(stop)));
    }
    tasks
}

/// A name of this replica that no other has.
pub(crate) fn replica_name() -> String {
    format!("{}_{:016x}", host(), fastrand::u64(..))
}

/// The pod's name, where this is a pod.
fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".to_owned())
}
