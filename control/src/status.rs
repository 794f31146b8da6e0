//! Status of documents, written back: by the leader alone, own entries only, and nothing where nothing changed.
//!
//! What an object's status should say comes from the compiled mesh and from what proxies have acknowledged; what it says comes from
//! a watch. Where the two differ, the difference is written, at a pace that a fight with another controller or a thousand changes at
//! once cannot raise.

use std::{net::SocketAddr, sync::Arc};

use kube::Client;
use palisade_compile::Revisions;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::options::DEFAULT_REVISION,
    leader::{Candidate, campaign},
    provisioning::{GatewayObjects, Provisioner, Troubles},
    replicas::{Place, follow},
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

/// Name of the Lease of the replica that writes status for the default revision; those of others end with their name.
pub const LEASE_NAME: &str = "palisade-control-leader";

/// Which replica this is to the others.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Its revision, and what else it is called.
    pub revisions: Revisions,
    /// Where the others reach it.
    pub address: SocketAddr,
}

/// Campaigns for the lease, and until `stop` writes while it is held, and tells its holder while it is not: statuses, and what runs
/// Gateways where `gateways` says by what it is made.
pub fn start(
    client: Client,
    seat: Seat,
    shared: &Arc<Shared>,
    gateways: Option<GatewayObjects>,
    stop: CancellationToken,
) -> Vec<JoinHandle<()>> {
    let Seat { namespace, revisions, address } = seat;
    let identity = replica_name();
    let lease = lease_name(revisions.name());
    let candidate = Candidate { namespace: namespace.clone(), lease, identity: identity.clone(), address };
    let (leadership, campaign) = campaign(client.clone(), candidate, stop.clone());
    let place =
        Place { namespace, name: identity.into(), revisions: revisions.clone(), leadership: leadership.clone() };
    shared.replicas.take_place(place);
    let telling = follow(Arc::clone(shared), campaign.leaders());
    let (mesh, fleet) = (shared.mesh.clone(), Arc::clone(&shared.fleet));
    let (sender, troubles) = watch::channel(Troubles::default());
    let (leads, metrics) = (leadership.clone(), shared.metrics.clone());
    let writer = StatusWriter::new(client.clone(), mesh.clone(), fleet, leads, metrics.clone(), revisions, troubles);
    let mut tasks = vec![tokio::spawn(campaign.run()), tokio::spawn(writer.run(stop.clone())), tokio::spawn(telling)];
    if let Some(gateways) = gateways {
        let provisioner = Provisioner::new(client, mesh, leadership, gateways, metrics, sender);
        tasks.push(tokio::spawn(provisioner.run(stop)));
    }
    tasks
}

/// The Lease of a revision: those of different revisions lead side by side.
pub fn lease_name(revision: &str) -> String {
    if revision == DEFAULT_REVISION { LEASE_NAME.to_owned() } else { format!("{LEASE_NAME}-{revision}") }
}

/// A name of this replica that no other has.
pub(crate) fn replica_name() -> String {
    format!("{}_{:016x}", host(), fastrand::u64(..))
}

/// The pod's name, where this is a pod.
fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".to_owned())
}
