//! What connected proxies have acknowledged, as statuses ask for it.

use std::collections::BTreeSet;

use palisade_compile::{
    Revisions,
    status::{Acked, Acks, Concern, ExpectedProxy},
};
use palisade_model::{origin::Origin, settings::WorkloadRef};

use crate::fleet::{Enforced, Fleet};

/// The fleet, and the proxies that should be in it.
#[derive(Debug)]
pub struct FleetAcks<'a> {
    fleet: &'a Fleet,
    /// Those that should be connected and are not.
    absent: Vec<&'a ExpectedProxy>,
    /// Those that have not been told yet what the mesh in question says.
    behind: BTreeSet<WorkloadRef>,
    /// Only proxies of this replica are counted.
    is_here: bool,
}

impl<'a> FleetAcks<'a> {
    /// The fleet as it is now.
    /// Of proxies that should be connected those count that belong to these revisions; `None` = all.
    pub fn new(fleet: &'a Fleet, expected: &'a [ExpectedProxy], revisions: Option<&Revisions>) -> Self {
        let connected: BTreeSet<WorkloadRef> = fleet.connected();
        let is_own = |proxy: &&ExpectedProxy| revisions.is_none_or(|own| own.owns(proxy.revision.as_deref()));
        let absent = expected.iter().filter(is_own).filter(|proxy| !connected.contains(&proxy.pod)).collect();
        Self { fleet, absent, behind: BTreeSet::new(), is_here: false }
    }

    /// Of connected proxies only those of this replica.
    pub fn here(mut self) -> Self {
        self.is_here = true;
        self
    }

    /// Nothing that a proxy did before it was told of this mesh counts: where objects have no generation nothing else tells what
    /// they said before from what they say now.
    pub fn since(mut self, epoch: u64) -> Self {
        self.behind = self.fleet.behind(epoch);
        self
    }

    /// What proxies of this replica have to say about all that they should do.
    pub fn in_step(&self) -> Acked {
        self.complete(self.fleet.in_step(), &Concern::Mesh)
    }

    /// With the proxies that an object may concern and that are not connected: what they do nobody knows.
    fn complete(&self, enforced: Enforced, concern: &Concern) -> Acked {
        let Enforced { by, of, missing } = enforced;
        let is_concerned = |proxy: &&&ExpectedProxy| match concern {
            Concern::Mesh => true,
            Concern::Namespace(namespace) => proxy.pod.namespace == *namespace,
            Concern::Gateways(gateways) => proxy.gateways.iter().any(|gateway| gateways.contains(gateway)),
        };
        let mut missing = missing;
        for pod in &self.behind {
            let name = format!("{}/{}", pod.namespace, pod.name);
            missing.entry(name).or_insert_with(|| "not told yet".to_owned());
        }
        let absent = self
            .absent
            .iter()
            .filter(is_concerned)
            .map(|proxy| format!("{}/{}", proxy.pod.namespace, proxy.pod.name))
            .collect();
        Acked { by, of, missing, absent }
    }
}

impl Acks for FleetAcks<'_> {
    fn enforced(&self, object: &Origin, concern: &Concern) -> Acked {
        let enforced = if self.is_here { self.fleet.enforced_here(object) } else { self.fleet.enforced(object) };
        self.complete(enforced, concern)
    }

    fn programmed(&self, object: &Origin, concern: &Concern) -> Acked {
        let programmed = if self.is_here { self.fleet.programmed_here(object) } else { self.fleet.programmed(object) };
        self.complete(programmed, concern)
    }
}
