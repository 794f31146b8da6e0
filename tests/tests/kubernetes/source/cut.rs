//! Watches whose connections break off in the middle, at moments that a seed chooses, and an API server that is away for long while
//! everybody works.

use std::time::Duration;

use anyhow::ensure;
use palisade_control::source::cluster_mesh;
use palisade_tests::kubernetes::{Cluster, Cutting};
use tokio_util::sync::CancellationToken;

use super::{Followed, install, options, pod, text};

/// Edits of each seed.
const EDITS: usize = 25;

fn entry(seed: u64, revision: usize) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: cut-{seed}, namespace: cut}}, spec: {{hosts: \
         [v{revision}.seed-{seed}.example], ports: [{{number: 443, name: tls, protocol: TLS}}], resolution: DNS}}}}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_watches_are_cut_at_seeded_moments() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace("cut").await?;
    pod(&cluster, "cut", "client", "palisade.dev/proxy: sidecar").await?;
    for seed in [1, 2, 3] {
        let connections = Cutting::new(cluster.connector(), seed);
        let stop = CancellationToken::new();
        let mesh = cluster_mesh(cluster.cut_client(connections.clone()).await?, options(), stop.clone());
        let mut followed = Followed { mesh, _stop: stop.drop_guard() };
        for revision in 0..EDITS {
            cluster.apply(&entry(seed, revision)).await?;
        }
        let last = format!("v{}.seed-{seed}.example", EDITS - 1);
        followed
            .until("the last edit", |mesh| {
                let told = text(mesh, "cut", "client")?;
                ensure!(told.contains(&last), "not yet");
                ensure!(!told.contains(&format!("v0.seed-{seed}.example")), "an older state is there as well");
                Ok(())
            })
            .await?;
        cluster.kubectl(&["delete", "serviceentry", "-n", "cut", &format!("cut-{seed}")]).await?;
        followed
            .until("the deletion", |mesh| {
                ensure!(!text(mesh, "cut", "client")?.contains(&last), "it is there still");
                Ok(())
            })
            .await?;
        println!("seed {seed}: {} connections broke off", connections.cuts());
        ensure!(connections.cuts() > 0, "nothing broke off");
    }

    // Away for long, and the mesh as it was for as long.
    cluster.apply(&entry(9, 1)).await?;
    let mut followed = Followed::new(&cluster).await?;
    let is_there = |name: &'static str| {
        move |mesh: &dyn palisade_control::slices::Slices| {
            ensure!(text(mesh, "cut", "client")?.contains(name), "{name} is missing");
            Ok(())
        }
    };
    followed.until("the entry", is_there("v1.seed-9.example")).await?;
    cluster.stop_api_server().await?;
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while tokio::time::Instant::now() < end {
        // What proxies ask for meanwhile is answered.
        followed.until("while it is away", is_there("v1.seed-9.example")).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.start_api_server().await?;
    cluster.apply(&entry(9, 2)).await?;
    followed.until("an edit afterwards", is_there("v2.seed-9.example")).await
}
