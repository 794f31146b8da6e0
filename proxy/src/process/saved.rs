//! What a process takes up again after a restart.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::resource::Feature;
use palisade_wire::saved::Saved;

use super::identity::IdentityKeeper;
use crate::config::{Dialer, StateFolder, Trusting};

/// Where things are kept, and for which pod.
pub(super) struct Keeping {
    /// The folder.
    pub(super) folder: StateFolder,
    /// Namespace and name.
    pub(super) pod: (Arc<str>, Arc<str>),
}

impl Keeping {
    /// What was kept from before a restart, trust and all; its certificate is installed, if it is still good.
    pub(super) async fn restored(
        &self,
        features: BTreeSet<Feature>,
        keeper: &IdentityKeeper,
        dialer: &Dialer,
    ) -> Saved {
        let reading = {
            let (folder, (namespace, name)) = (self.folder.clone(), self.pod.clone());
            move || {
                let pod = (&*namespace, &*name);
                (folder.configuration(pod, &features), folder.identity(pod))
            }
        };
        let (saved, identity) = tokio::task::spawn_blocking(reading).await.unwrap_or_default();
        if let Some((identity, trust)) = identity {
            match keeper.restore(Arc::clone(&identity), trust) {
                Ok(()) => {
                    if let Dialer::Tls(dialer) = dialer {
                        dialer.credentials.set(identity);
                    }
                }
                Err(error) => tracing::warn!(%error, "the saved certificate is not installed"),
            }
        }
        saved
    }

    /// Keeps each certificate that is installed, and what is trusted with it. Never ends.
    pub(super) async fn follow(self: Arc<Self>, keeper: Arc<IdentityKeeper>) {
        let mut standing = keeper.standing();
        while standing.changed().await.is_ok() {
            let Some((issued, trust)) = keeper.to_keep() else { continue };
            let keeping = Arc::clone(&self);
            let written = tokio::task::spawn_blocking(move || {
                let (namespace, name) = &keeping.pod;
                keeping.folder.keep_identity((namespace, name), &issued, trust.as_ref())
            });
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the certificate is not kept"),
                Err(error) => tracing::warn!(%error, "the certificate is not kept"),
            }
        }
    }
}
