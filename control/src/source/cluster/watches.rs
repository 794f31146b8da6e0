//! Which watches run: one per kind that is served, one per Secret or ConfigMap that a document refers to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::Client;
use palisade_compile::{Reference, ReferenceKind};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    discovery::{self, Served},
    kinds::Kind,
    pending::{Pending, Watched},
    watching::{Running, Watching},
};
use crate::metrics::Metrics;

/// The version of Kubernetes' own kinds.
const BUILT_IN: &str = "v1";

/// Watches, each for as long as it is needed.
struct Watches {
    client: Client,
    metrics: Metrics,
    pending: Arc<Pending>,
    kinds: BTreeMap<Kind, (&'static str, Running)>,
    referenced: BTreeMap<Reference, Running>,
}

/// Runs all watches until it is dropped. `wanted` are the objects that documents refer to.
pub(super) async fn run(
    client: Client,
    metrics: Metrics,
    pending: Arc<Pending>,
    mut wanted: watch::Receiver<BTreeSet<Reference>>,
) {
    let watches = Mutex::new(Watches {
        client: client.clone(),
        metrics,
        pending,
        kinds: BTreeMap::new(),
        referenced: BTreeMap::new(),
    });
    let built_in = || Kind::built_in().map(|kind| (kind, BUILT_IN));
    watches.lock().serve(&built_in().collect());
    let kinds = discovery::follow(client, |served| {
        let mut watches = watches.lock();
        let served: Served = built_in().chain(served.iter().map(|(kind, version)| (*kind, *version))).collect();
        watches.serve(&served);
        watches.pending.serves(served.keys().copied().collect());
    });
    let references = async {
        loop {
            let now = wanted.borrow_and_update().clone();
            watches.lock().refer(&now);
            if wanted.changed().await.is_err() {
                return;
            }
        }
    };
    // The source is gone when nothing is wanted any more.
    tokio::select! { () = kinds => {}, () = references => {} }
}

impl Watches {
    /// Starts and stops watches of kinds.
    fn serve(&mut self, served: &Served) {
        let gone: Vec<Kind> = self.kinds.keys().filter(|kind| !served.contains_key(kind)).copied().collect();
        for kind in gone {
            tracing::info!(group = kind.group, kind = kind.kind, "no longer served by the API");
            self.kinds.remove(&kind);
            self.pending.end(&Watched::Kind(kind));
        }
        for (kind, version) in served {
            if self.kinds.get(kind).is_some_and(|(watched, _)| watched == version) {
                continue;
            }
            tracing::info!(group = kind.group, kind = kind.kind, version, "watched");
            // What was read at another version stays until the new list is whole.
            let running = self.start(*kind, version, None);
            self.kinds.insert(*kind, (version, running));
        }
    }

    /// Starts and stops watches of single objects.
    fn refer(&mut self, wanted: &BTreeSet<Reference>) {
        let unwanted: Vec<Reference> =
            self.referenced.keys().filter(|known| !wanted.contains(known)).cloned().collect();
        for reference in unwanted {
            self.referenced.remove(&reference);
            self.pending.end(&Watched::Referenced(reference));
        }
        for reference in wanted {
            if self.referenced.contains_key(reference) {
                continue;
            }
            let kind = match reference.kind {
                ReferenceKind::Secret => "Secret",
                ReferenceKind::ConfigMap => "ConfigMap",
            };
            let running = self.start(Kind { group: "", kind }, BUILT_IN, Some(reference));
            self.referenced.insert(reference.clone(), running);
        }
    }

    fn start(&self, kind: Kind, version: &str, only: Option<&Reference>) -> Running {
        let watched = only.map_or(Watched::Kind(kind), |reference| Watched::Referenced(reference.clone()));
        Running::start(Watching {
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            kind,
            resource: kind.resource(version),
            only: only.map(|Reference { kind: _, namespace, name }| (Arc::clone(namespace), Arc::clone(name))),
            teller: self.pending.begin(watched),
        })
    }
}
