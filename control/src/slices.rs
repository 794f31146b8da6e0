//! What serving needs of a compiled mesh: who its workloads are, and what each proxy may see of it.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{
    Mesh, Slice, SourceDocument,
    status::{Holding, StatusOptions, Statuses},
};
use palisade_model::{
    identity::{InvalidSpiffeId, SpiffeId, TrustDomain},
    origin::Origin,
    service::Query,
    settings::WorkloadRef,
    snapshot::Snapshot,
};
use tokio::sync::watch;

/// A compiled mesh. Immutable: a change is a new one.
pub trait Slices: Send + Sync + 'static {
    /// The domain of all identities that are issued.
    fn trust_domain(&self) -> &TrustDomain;

    /// A pod that runs a proxy; `None` = there is no such pod.
    fn workload(&self, pod: &WorkloadRef) -> Option<Workload>;

    /// Pods of the cluster that run a proxy of a mesh, ours or Istio's.
    fn proxied(&self) -> Vec<WorkloadRef> {
        Vec::new()
    }

    /// Whether a WorkloadEntry of this namespace names this service account: machines outside the cluster have it.
    fn is_declared(&self, namespace: &str, service_account: &str) -> bool;

    /// Everything that the pod's proxy needs while it is subscribed to `queries`.
    ///
    /// # Errors
    /// In one line, when there is no such pod or its slice is not closed.
    fn slice(&self, pod: &WorkloadRef, queries: &BTreeSet<Query>) -> Result<Snapshot, String>;

    /// The same, kept for the next mesh: `previous` itself if nothing that it was made from has changed.
    ///
    /// # Errors
    /// As [`Slices::slice`].
    fn slice_after(
        &self,
        _previous: Option<&Arc<Slice>>,
        pod: &WorkloadRef,
        queries: &BTreeSet<Query>,
    ) -> Result<Arc<Slice>, String> {
        self.slice(pod, queries).map(|snapshot| Arc::new(Slice::from(snapshot)))
    }

    /// Whether [`Slices::slice_after`] is known to give `previous` itself. Costs microseconds.
    fn is_slice(&self, _previous: &Slice, _pod: &WorkloadRef, _queries: &BTreeSet<Query>) -> bool {
        false
    }

    /// Diagnostics and conditions of this mesh, as JSON.
    fn reports(&self) -> serde_json::Value;

    /// The mesh as it was compiled, if it was.
    fn mesh(&self) -> Option<&Mesh> {
        None
    }

    /// Its number in this process: a later mesh has a higher one.
    fn epoch(&self) -> u64;

    /// What the status of each object should say.
    fn statuses(&self, options: &StatusOptions) -> Arc<Statuses>;

    /// Whether a document is what is compiled.
    fn holding(&self, document: &SourceDocument) -> Holding;

    /// An object by name, at its compiled generation; an empty group stands for any.
    fn find(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Origin>;
}

/// What identifies a pod beyond its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `metadata.uid`; empty where documents come from files, then any uid is taken.
    pub uid: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// It is a gateway, whose slice holds private keys.
    pub is_gateway: bool,
}

/// The mesh as it changes; `None` before the first one is compiled.
pub type MeshWatch = watch::Receiver<Option<Arc<dyn Slices>>>;

/// The identity of a service account in the mesh.
///
/// # Errors
/// When a name holds what no identity may.
pub fn identity(mesh: &dyn Slices, namespace: &str, service_account: &str) -> Result<SpiffeId, InvalidSpiffeId> {
    SpiffeId::new(mesh.trust_domain().clone(), namespace, service_account)
}
