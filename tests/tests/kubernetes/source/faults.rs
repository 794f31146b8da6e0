//! Watches go on whatever the API server and its store do, and whatever the objects are.

use std::fmt::Write;

use anyhow::ensure;
use palisade_control::slices::Slices;
use palisade_tests::{kubernetes::Cluster, wait::until};

use super::{Followed, SOON, has_pod, install, pod, slice, text};

/// A service entry whose host tells it apart.
fn entry(name: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: faults}}, spec: {{hosts: \
         [{name}.example], ports: [{{number: 443, name: tls, protocol: TLS}}], resolution: DNS}}}}"
    )
}

fn sees(name: &str, is_there: bool) -> impl Fn(&dyn Slices) -> anyhow::Result<()> {
    move |mesh| {
        let told = text(mesh, "faults", "client")?;
        ensure!(told.contains(&format!("{name}.example")) == is_there, "{name} is there: {}", !is_there);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_outlive_the_api_server_and_its_store() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace("faults").await?;
    pod(&cluster, "faults", "client", "palisade.dev/proxy: sidecar").await?;
    cluster.apply(&entry("before")).await?;
    let mut followed = Followed::new(&cluster).await?;
    followed.until("the first entry", sees("before", true)).await?;

    cluster.stop_api_server().await?;
    // Nothing is forgotten because nobody answers.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    followed.until("while the API server is away", sees("before", true)).await?;
    cluster.start_api_server().await?;
    cluster.apply(&entry("after-restart")).await?;
    followed.until("an edit after the restart", sees("after-restart", true)).await?;

    cluster.stop_etcd().await?;
    followed.until("without etcd", sees("after-restart", true)).await?;
    cluster.start_etcd().await?;
    let write = async || {
        cluster.apply(&entry("after-etcd")).await?;
        cluster.kubectl(&["delete", "serviceentry", "before", "-n", "faults", "--ignore-not-found"]).await
    };
    until("written again", SOON, write).await?;
    followed.until("an edit after etcd's restart", sees("after-etcd", true)).await?;
    followed.until("a deletion after etcd's restart", sees("before", false)).await?;

    // Edits that no watch saw: the API server goes at once, and a new client begins before it is there.
    cluster.apply(&entry("unseen")).await?;
    cluster.kubectl(&["delete", "serviceentry", "after-restart", "-n", "faults"]).await?;
    cluster.stop_api_server().await?;
    let mut other = Followed::new(&cluster).await?;
    cluster.start_api_server().await?;
    for followed in [&mut followed, &mut other] {
        followed.until("what was written last", sees("unseen", true)).await?;
        followed.until("what was deleted last", sees("after-restart", false)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_as_large_and_as_long_as_the_api_allows() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(1).await?;
    let namespace = "n".repeat(63);
    cluster.namespace(&namespace).await?;
    let name = "p".repeat(63);
    let label = format!("{}/{}", vec!["a".repeat(61); 4].join("."), "k".repeat(63));
    let labels = format!("palisade.dev/proxy: sidecar, \"{label}\": {}", "v".repeat(63));
    pod(&cluster, &namespace, &name, &labels).await?;
    // A VirtualService of nearly a megabyte: etcd takes 1.5 MB.
    let mut rules = String::new();
    for index in 0..4000 {
        write!(
            rules,
            "{{name: rule-{index}, match: [{{uri: {{prefix: /{}-{index}}}}}], route: [{{destination: {{host: web}}}}]}},",
            "x".repeat(150)
        )?;
    }
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: {namespace}}}, spec: {{ports: [{{name: http, port: 80}}]}}}}"
    );
    cluster.apply(&service).await?;
    cluster
        .apply(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {}, namespace: {namespace}}}, spec: \
             {{hosts: [web], http: [{rules}]}}}}",
            vec!["v".repeat(62); 4].join(".")
        ))
        .await?;
    let mut followed = Followed::new(&cluster).await?;
    followed
        .until("the large object", |mesh| {
            has_pod(mesh, &namespace, &name)?;
            let told = text(mesh, &namespace, &name)?;
            ensure!(told.contains("rule-3999"), "the last rule is missing");
            Ok(())
        })
        .await?;
    let told = followed.until("a snapshot", |mesh| slice(mesh, &namespace, &name)).await?;
    ensure!(told.entries().len() > 4000, "{} resources", told.entries().len());
    Ok(())
}
