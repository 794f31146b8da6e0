//! The mesh's roots for everybody: a ConfigMap in every namespace, which pods mount to verify the control plane by.
//!
//! Every replica writes, none leads. They write the same, so that who was first does not matter; and what another replica
//! wrote since this one's roots changed last is left alone, so that replicas with different roots, as in the middle of a
//! rotation, do not write against each other: the one that changed last wins. `istio-ca-root-cert` is not written: an istiod owns that
//! name, writes it without asking, and with other roots would fight for ever. Pods that it injected keep theirs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::{
        controller::{Action, Config, Controller},
        reflector::ObjectRef,
        watcher,
    },
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

use crate::ca::{LiveAuthority, ROOTS};

/// The ConfigMap in every namespace; its key is Istio's `root-cert.pem`.
pub const NAME: &str = "palisade-ca-root-cert";

/// Who writes it, as the API server notes it. The same for all replicas.
const FIELD_MANAGER: &str = "palisade-ca-root-cert";

/// Namespaces that are written at a time.
const CONCURRENCY: u16 = 16;

/// When a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

const NOT_FOUND: u16 = 404;
const FORBIDDEN: u16 = 403;

struct Publisher {
    client: Client,
    roots: watch::Receiver<String>,
    /// Namespaces that this replica has seen to once with its present roots: what others of us write there later stands.
    seen: Mutex<HashSet<String>>,
}

/// The roots of an authority as they change.
pub fn roots(authority: &Arc<LiveAuthority>) -> watch::Receiver<String> {
    let mut changes = authority.follow();
    let (sender, receiver) = watch::channel(changes.borrow_and_update().root_bundle().to_owned());
    let authority = Arc::clone(authority);
    // Ends with whoever listens.
    tokio::spawn(async move {
        while tokio::select! { () = sender.closed() => false, changed = changes.changed() => changed.is_ok() } {
            let roots = authority.current().root_bundle().to_owned();
            sender.send_if_modified(|known| {
                let is_new = *known != roots;
                *known = roots;
                is_new
            });
        }
    });
    receiver
}

/// Keeps the roots in every namespace until `stop`.
pub async fn publish(client: Client, roots: watch::Receiver<String>, stop: CancellationToken) {
    let namespaces = Api::<Namespace>::all(client.clone());
    let maps = Api::<ConfigMap>::all(client.clone());
    let ours = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let publisher = Arc::new(Publisher { client, roots: roots.clone(), seen: Mutex::default() });
    let changed = Arc::clone(&publisher);
    let changes = WatchStream::from_changes(roots).map(move |_| changed.seen.lock().clear());
    Controller::new(namespaces, watcher::Config::default())
        .watches(maps, ours, |map| map.namespace().map(|namespace| ObjectRef::new(&namespace)))
        .reconcile_all_on(changes)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, retry, publisher)
        .for_each(|result| {
            if let Err(error) = result {
                tracing::debug!(%error, "roots of a namespace");
            }
            std::future::ready(())
        })
        .await;
}

async fn reconcile(namespace: Arc<Namespace>, publisher: Arc<Publisher>) -> Result<Action, kube::Error> {
    let name = namespace.name_any();
    if namespace.meta().deletion_timestamp.is_some() {
        publisher.seen.lock().remove(&name);
        return Ok(Action::await_change());
    }
    let maps = Api::<ConfigMap>::namespaced(publisher.client.clone(), &name);
    let roots = publisher.roots.borrow().clone();
    let is_first = !publisher.seen.lock().contains(&name);
    if let Some(there) = maps.get_opt(NAME).await?
        && may_stay(&there, &roots, is_first)
    {
        publisher.seen.lock().insert(name);
        return Ok(Action::await_change());
    }
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "palisade".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(ROOTS.to_owned(), roots.clone())])),
        ..ConfigMap::default()
    };
    let how = PatchParams::apply(FIELD_MANAGER).force();
    match maps.patch(NAME, &how, &Patch::Apply(&map)).await {
        Ok(_) => {
            tracing::debug!(namespace = %name, "roots written");
            if *publisher.roots.borrow() == roots {
                publisher.seen.lock().insert(name);
            }
            Ok(Action::await_change())
        }
        // The namespace went in between: nothing can be written there, and nobody needs it.
        Err(kube::Error::Api(status)) if status.code == NOT_FOUND => Ok(Action::await_change()),
        Err(kube::Error::Api(status)) if status.code == FORBIDDEN && status.message.contains("being terminated") => {
            Ok(Action::await_change())
        }
        Err(error) => Err(error),
    }
}

fn retry(namespace: Arc<Namespace>, error: &kube::Error, _publisher: Arc<Publisher>) -> Action {
    tracing::warn!(namespace = %namespace.name_any(), %error, "cannot write the mesh's roots");
    Action::requeue(RETRY)
}

/// Whether what is there is right, or another replica's.
fn may_stay(map: &ConfigMap, roots: &String, is_first: bool) -> bool {
    let text = map.data.as_ref().and_then(|data| data.get(ROOTS));
    if text == Some(roots) {
        return true;
    }
    if is_first || text.is_none() {
        return false;
    }
    let managers = map.metadata.managed_fields.iter().flatten();
    let mut writers = managers.filter(|entry| {
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:data"));
        fields.is_some_and(|data| data.get(format!("f:{ROOTS}")).is_some())
    });
    // Somebody else who wrote it as well, or instead, is no replica.
    writers.next().is_some_and(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER)) && writers.next().is_none()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};

    use super::*;

    fn map(text: &str, managers: &[&str]) -> ConfigMap {
        let entry = |manager: &&str| ManagedFieldsEntry {
            manager: Some((*manager).to_owned()),
            fields_v1: Some(FieldsV1(serde_json::json!({"f:data": {"f:root-cert.pem": {}}}))),
            ..ManagedFieldsEntry::default()
        };
        ConfigMap {
            metadata: ObjectMeta {
                managed_fields: Some(managers.iter().map(entry).collect()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(ROOTS.to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn replicas_do_not_fight_and_nobody_else_has_a_say() {
        for (name, map, is_first, stays) in [
            ("right", map("ours", &["kubectl"]), false, true),
            ("right at the start", map("ours", &[FIELD_MANAGER]), true, true),
            ("an older replica's", map("theirs", &[FIELD_MANAGER]), true, false),
            ("a younger replica's", map("theirs", &[FIELD_MANAGER]), false, true),
            ("somebody's", map("theirs", &["kubectl"]), false, false),
            ("somebody's beside a replica's", map("theirs", &[FIELD_MANAGER, "kubectl"]), false, false),
            ("nobody's", map("theirs", &[]), false, false),
            ("empty", ConfigMap::default(), false, false),
        ] {
            assert_eq!(may_stay(&map, &"ours".to_owned(), is_first), stays, "{name}");
        }
    }
}
