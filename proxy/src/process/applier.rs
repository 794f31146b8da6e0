//! What the configuration stream does in this process: puts snapshots in force, answers lookups, explains decisions.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;
use palisade_model::{resource::ResourceKey, service::Query, snapshot::Snapshot};
use palisade_wire::delta::Unbound;
use tokio::sync::{mpsc, oneshot};

use super::identity::IdentityKeeper;
use crate::{
    config::{Applied, Applier, ApplyRejection, Explainer, Resolution, Subscriptions},
    runtime::{ApplyError, LookupUnavailable, Lookups, Runtime, source::explain_decision},
};

/// How long listeners may take to follow a snapshot before it counts as applied all the same: an address that cannot be
/// bound is no reason to keep old policies.
const RECONCILE: Duration = Duration::from_secs(2);

/// Puts snapshots in force.
pub(super) struct RuntimeApplier {
    pub(super) runtime: Arc<Runtime>,
    pub(super) keeper: Arc<IdentityKeeper>,
    /// A gateway's listeners follow before a snapshot counts as applied, and tell which of them do not listen.
    pub(super) reconcile: Option<mpsc::Sender<oneshot::Sender<Vec<Unbound>>>>,
}

/// Explains to control what the admin page `/why/ID` explains here.
pub(super) struct RecentDecisions(pub(super) Arc<Runtime>);

impl Explainer for RecentDecisions {
    fn why(&self, decision: &str) -> Option<serde_json::Value> {
        explain_decision(&self.0, decision)
    }
}

#[async_trait]
impl Applier for RuntimeApplier {
    async fn apply(&self, snapshot: Arc<Snapshot>, _changed: Vec<ResourceKey>) -> Result<Applied, ApplyRejection> {
        let reject = |message: String| ApplyRejection { key: None, message };
        let (runtime, keeper) = (Arc::clone(&self.runtime), Arc::clone(&self.keeper));
        let applied = tokio::task::spawn_blocking(move || {
            runtime.apply_with(snapshot, |index| keeper.set_terms(index.settings()))
        })
        .await;
        applied.map_err(|error| reject(format!("building the index failed: {error}")))?.map_err(
            |error| match error {
                ApplyError::Build(error) => ApplyRejection { key: Some(error.key.clone()), message: error.to_string() },
                ApplyError::Prepare(message) => reject(message),
            },
        )?;
        let mut unbound = Vec::new();
        if let Some(reconcile) = &self.reconcile {
            let (done, waiting) = oneshot::channel();
            if reconcile.send(done).await.is_ok() {
                match tokio::time::timeout(RECONCILE, waiting).await {
                    Ok(told) => unbound = told.unwrap_or_default(),
                    Err(_) => tracing::warn!("listeners take long to follow the configuration"),
                }
            }
        }
        Ok(Applied { unbound })
    }

    fn used(&self) -> Vec<Query> {
        self.runtime.index().map(|index| index.services().take_used()).unwrap_or_default()
    }
}

/// Lookups over the configuration stream.
pub(super) struct SubscriptionLookups(pub(super) Subscriptions);

impl Lookups for SubscriptionLookups {
    fn ask(&self, query: Query) -> BoxFuture<'static, Result<(), LookupUnavailable>> {
        let subscriptions = self.0.clone();
        Box::pin(async move {
            match subscriptions.resolve(&query).await {
                Resolution::Known(_) | Resolution::Absent(_) => Ok(()),
                Resolution::Unavailable => Err(LookupUnavailable),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use palisade_model::{resource::Resource, settings::ProxyKind};
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::{
        config::IssuedIdentity,
        request::testing,
        runtime::RuntimeSettings,
        telemetry::{AccessLog, Metrics, access_log::Capture},
        tls::{IdentityStore, testing::TestCa},
    };

    /// A configuration of a mesh with an alias of its trust domain; `broken`: one of its resources cannot be built.
    fn aliased(broken: bool) -> Arc<Snapshot> {
        let mut settings = testing::settings(ProxyKind::Sidecar);
        settings.trust_domain_aliases.insert("old.example".parse().unwrap());
        let mut resources = vec![Resource::Settings(settings)];
        resources.extend(broken.then(testing::unbuildable));
        testing::snapshot(resources)
    }

    #[tokio::test]
    async fn a_configuration_that_cannot_be_built_changes_nothing() {
        let (ca, identities) = (TestCa::new("mesh"), Arc::new(IdentityStore::new()));
        let (log, _writer) = AccessLog::start(Capture::default(), Counter::default()).unwrap();
        let settings = RuntimeSettings::new("foo/a");
        let runtime = Runtime::new(settings, Arc::clone(&identities), Arc::new(Metrics::new()), log);
        let keeper = Arc::new(IdentityKeeper::new(Arc::clone(&identities), None));
        let own = ca.mesh("spiffe://cluster.local/ns/foo/sa/a");
        keeper.install(Arc::new(IssuedIdentity::new(own.chain, own.key, ca.pem()).unwrap())).unwrap();
        let applier = RuntimeApplier { runtime, keeper, reconcile: None };
        let before = identities.generation();
        applier.apply(aliased(true), Vec::new()).await.unwrap_err();
        assert_eq!(identities.generation(), before, "the identity is installed for the trust domains in force");
        assert!(applier.runtime.index().is_none());
        applier.apply(aliased(false), Vec::new()).await.unwrap();
        assert_eq!(identities.generation(), before + 1);
        assert!(applier.runtime.index().is_some());
    }
}
