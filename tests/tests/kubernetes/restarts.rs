//! Parts of the cluster that go and come back.

use std::time::Duration;

use anyhow::ensure;
use palisade_tests::{kubernetes::Cluster, wait::until};

#[tokio::test]
async fn what_is_stored_survives_the_api_server_and_etcd() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]).await?;
    let read = async || cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]).await;

    cluster.stop_api_server().await?;
    ensure!(read().await.is_err(), "the API server answers");
    cluster.start_api_server().await?;
    ensure!(read().await? == "b");

    cluster.stop_etcd().await?;
    let written = cluster.kubectl(&["create", "configmap", "lost", "--request-timeout=2s"]).await;
    ensure!(written.is_err(), "something is stored without etcd");
    cluster.start_etcd().await?;
    until("what was stored", Duration::from_secs(20), async || {
        let text = read().await?;
        ensure!(text == "b", "{text}");
        Ok(())
    })
    .await
}
