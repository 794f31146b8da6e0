//! Documents of a Kubernetes cluster: its API server is asked for a list of each kind that is read, then tells every change.

mod access;
mod discovery;
mod kinds;
mod pending;
mod reading;
mod store;
mod trim;
mod watches;
mod watching;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::Client;
use palisade_compile::{Inputs, Reference, ReferenceKind, SourceOptions, references};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::{
    access::{AccessRule, access_rules},
    reading::{ReadClusterError, read_cluster},
};
use self::{
    pending::{Changes, Pending},
    store::Store,
};
use super::live::{Live, Source};
use crate::{jwks::KeyFeed, metrics::Metrics, slices::MeshWatch};

/// How long a change waits for a Secret or ConfigMap that it names for the first time.
const PATIENCE: Duration = Duration::from_secs(1);

/// The namespace of Istio's own settings, where no other one is given.
const ISTIO_NAMESPACE: &str = "istio-system";

/// The ConfigMap with the settings of the mesh.
const MESH_CONFIG: &str = "istio";

/// The documents of a cluster.
pub(crate) struct ClusterDocuments {
    pending: Arc<Pending>,
    store: Store,
    wanted: watch::Sender<BTreeSet<Reference>>,
    /// Something changed that is not compiled yet.
    is_new: bool,
    /// Something was compiled.
    has_begun: bool,
    /// Until when what is new waits for objects that it refers to.
    patience: Option<Instant>,
    /// Objects that were waited for in vain: they may still come, and nothing waits for them any more.
    given_up: BTreeSet<Reference>,
    watches: JoinHandle<()>,
}

/// Begins to read a cluster; [`Live::follow`] compiles as soon as everything is there, and after each change. Until then the
/// mesh is `None`, however long the API server is away.
pub(crate) fn follow_cluster(
    client: Client,
    options: SourceOptions,
    metrics: Metrics,
    keys: Option<KeyFeed>,
) -> (Live<ClusterDocuments>, MeshWatch) {
    let pending = Arc::new(Pending::default());
    let (wanted, asked) = watch::channel(mesh_config(&options));
    let watches = tokio::spawn(watches::run(client, metrics.clone(), Arc::clone(&pending), asked));
    let documents = ClusterDocuments::new(pending, options.clone(), wanted, watches);
    Live::new(documents, options, metrics, keys)
}

/// The mesh of a cluster, kept current until `stop`; `None` until everything was read once.
pub fn cluster_mesh(client: Client, options: SourceOptions, stop: CancellationToken) -> MeshWatch {
    let (live, mesh) = follow_cluster(client, options, Metrics::new(), None);
    // It ends with `stop`.
    drop(tokio::spawn(live.follow(stop)));
    mesh
}

/// Where the settings of the mesh may be.
fn mesh_config(options: &SourceOptions) -> BTreeSet<Reference> {
    let given = options.control.root_namespace.as_deref();
    let namespaces = given.into_iter().chain([ISTIO_NAMESPACE]);
    let reference = |namespace: &str| Reference {
        kind: ReferenceKind::ConfigMap,
        namespace: namespace.into(),
        name: MESH_CONFIG.into(),
    };
    namespaces.map(reference).collect()
}

impl ClusterDocuments {
    /// Nothing yet; what `watches` notes in `pending` becomes documents.
    fn new(
        pending: Arc<Pending>,
        options: SourceOptions,
        wanted: watch::Sender<BTreeSet<Reference>>,
        watches: JoinHandle<()>,
    ) -> Self {
        Self {
            pending,
            store: Store::new(options),
            wanted,
            is_new: false,
            has_begun: false,
            patience: None,
            given_up: BTreeSet::new(),
            watches,
        }
    }
}

impl Source for ClusterDocuments {
    type Change = Changes;

    async fn next(&mut self) -> Changes {
        // Before anything is compiled there is no hurry.
        let Some(until) = self.patience.filter(|_| self.has_begun) else { return self.pending.next().await };
        tokio::select! {
            biased;
            changes = self.pending.next() => changes,
            () = tokio::time::sleep_until(until) => Changes::default(),
        }
    }

    fn take(&mut self, changes: Changes) -> bool {
        self.is_new |= self.store.take(changes);
        self.is_new && self.store.is_complete()
    }

    fn inputs(&mut self, options: &SourceOptions) -> Option<Inputs> {
        if !self.store.is_complete() {
            return None;
        }
        let inputs = self.store.inputs();
        let mut wanted = mesh_config(options);
        wanted.extend(references(&inputs));
        self.wanted.send_if_modified(|before| {
            let is_other = *before != wanted;
            if is_other {
                before.clone_from(&wanted);
            }
            is_other
        });
        let unknown = self.store.unknown(&wanted);
        // A reference that is new takes a moment. Without it a listener would be taken down that is up again at once.
        if !unknown.is_subset(&self.given_up) {
            let until = *self.patience.get_or_insert_with(|| Instant::now() + PATIENCE);
            if !self.has_begun || Instant::now() < until {
                return None;
            }
        }
        self.given_up = unknown;
        self.is_new = false;
        self.has_begun = true;
        self.patience = None;
        Some(inputs)
    }
}

impl Drop for ClusterDocuments {
    fn drop(&mut self) {
        self.watches.abort();
    }
}

#[cfg(test)]
mod tests;
