//! The roots in every namespace.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use palisade_control::identity::bundle::{NAME, publish};
use palisade_tests::{kubernetes::Cluster, wait::until};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

/// A replica that publishes; it ends with the value.
struct Replica {
    stop: CancellationToken,
    roots: watch::Sender<String>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Replica {
    async fn start(cluster: &Cluster, roots: &str) -> anyhow::Result<Self> {
        let (client, stop) = (cluster.client().await?, CancellationToken::new());
        let (sender, roots) = watch::channel(roots.to_owned());
        let task = tokio::spawn(publish(client, roots, stop.clone()));
        Ok(Self { stop, roots: sender, _task: tokio_util::task::AbortOnDropHandle::new(task) })
    }
}

fn text(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get("root-cert.pem").map(String::as_str)
}

async fn expect(maps: &Api<ConfigMap>, roots: &str) -> anyhow::Result<ConfigMap> {
    until("the roots", SOON, async || {
        let map = maps.get(NAME).await?;
        ensure!(text(&map) == Some(roots), "{:?}", text(&map));
        Ok(map)
    })
    .await
}

#[tokio::test]
async fn every_namespace_has_the_roots_and_gets_them_back() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    cluster.namespace("old").await?;
    let client = cluster.client().await?;
    let replica = Replica::start(&cluster, "one").await?;
    let namespaces = Api::<Namespace>::all(client.clone());
    for namespace in namespaces.list(&ListParams::default()).await? {
        let name = namespace.metadata.name.context("no name")?;
        expect(&Api::namespaced(client.clone(), &name), "one").await.context(name)?;
    }
    cluster.kubectl(&["create", "namespace", "new"]).await?;
    let new = Api::<ConfigMap>::namespaced(client.clone(), "new");
    expect(&new, "one").await?;

    let old = Api::<ConfigMap>::namespaced(client.clone(), "old");
    old.delete(NAME, &DeleteParams::default()).await?;
    expect(&old, "one").await.context("deleted")?;
    let foreign = Patch::Merge(serde_json::json!({"data": {"root-cert.pem": "evil", "own": "note"}}));
    old.patch(NAME, &PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() }, &foreign)
        .await?;
    let map = expect(&old, "one").await.context("overwritten")?;
    ensure!(map.data.as_ref().is_some_and(|data| data.contains_key("own")), "what is not ours stays");

    // Another root, in every namespace and without a restart.
    replica.roots.send_replace("two".to_owned());
    expect(&old, "two").await.context("changed")?;
    expect(&new, "two").await.context("changed")?;

    // A namespace that goes takes its copy with it.
    cluster.kubectl(&["delete", "namespace", "new", "--timeout=60s"]).await?;
    replica.stop.cancel();
    Ok(())
}

/// In the middle of a rotation replicas have different roots.
#[tokio::test]
async fn of_two_replicas_the_younger_wins_and_neither_writes_again() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    cluster.namespace("contested").await?;
    let maps = Api::<ConfigMap>::namespaced(cluster.client().await?, "contested");
    let _older = Replica::start(&cluster, "older").await?;
    expect(&maps, "older").await?;
    let _younger = Replica::start(&cluster, "younger").await?;
    let won = expect(&maps, "younger").await?.metadata.resource_version;
    // Both have seen it: what either would write, it would write now.
    cluster.kubectl(&["create", "namespace", "later"]).await?;
    let later = Api::<ConfigMap>::namespaced(cluster.client().await?, "later");
    until("the roots of a new namespace", SOON, async || Ok(later.get(NAME).await?)).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let map = maps.get(NAME).await?;
    ensure!(text(&map) == Some("younger") && map.metadata.resource_version == won, "{:?}", text(&map));
    Ok(())
}
