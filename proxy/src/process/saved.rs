//! What a process takes up again after a restart.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::resource::Feature;
use palisade_wire::saved::Saved;

use super::identity::IdentityKeeper;
use crate::config::{Dialer, IssuedIdentity, StateFolder};

/// Where things are kept, and for which pod.
pub(super) struct Keeping {
    /// The folder.
    pub(super) folder: StateFolder,
    /// Namespace and name.
    pub(super) pod: (Arc<str>, Arc<str>),
}

impl Keeping {
    /// What was kept from before a restart; its certificate is installed, if it is still good.
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
        if let Some(identity) = identity {
            match keeper.install(Arc::clone(&identity)) {
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

    /// Keeps a certificate that was issued.
    pub(super) fn keep_identity(&self, issued: &IssuedIdentity) {
        let (namespace, name) = &self.pod;
        if let Err(error) = self.folder.keep_identity((namespace, name), issued) {
            tracing::warn!(%error, "the certificate is not kept");
        }
    }
}
