//! Two replicas, proxies on both: what is said of an object is true of all of them, whoever leads and whoever is asked.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use palisade_tests::{kubernetes::Cluster, wait::until};

use crate::{
    control::{Replica, SOON, Stand, condition},
    fleet::{Proxy, Service, sidecar_pods},
    istio::CRD,
};

const PODS: [&str; 4] = ["p0", "p1", "p2", "p3"];

fn policy(allowed: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: all, namespace: replicas}}
spec: {{rules: [{{from: [{{source: {{namespaces: [{allowed}]}}}}]}}]}}
"
    )
}

/// What is said of the policy: `STATUS MESSAGE` of `Enforced`, if it is about the newest generation.
async fn told(stand: &Stand<'_>) -> anyhow::Result<String> {
    let object = stand.get("security.istio.io/v1", "authorizationpolicies", "replicas", "all").await?;
    let (status, _, generation, message) = condition(&object["status"]["conditions"], "Enforced")?;
    ensure!(Some(generation) == object["metadata"]["generation"].as_i64(), "{object}");
    Ok(format!("{status} {message}"))
}

async fn becomes(stand: &Stand<'_>, replica: &Replica, expected: &str) -> anyhow::Result<()> {
    until(expected, SOON, async || {
        let told = told(stand).await?;
        ensure!(told.starts_with(expected), "{told}");
        Ok(())
    })
    .await
    .with_context(|| replica.said())
}

async fn leader<'a>(
    stand: &Stand<'_>,
    first: &'a Replica,
    second: &'a Replica,
) -> anyhow::Result<(&'a Replica, &'a Replica)> {
    until("one leader", SOON, async || {
        let (a, b) = (stand.leads(first).await?, stand.leads(second).await?);
        ensure!(a != b, "{a} {b}");
        Ok(if a { (first, second) } else { (second, first) })
    })
    .await
}

/// The whole answer, whoever is asked.
async fn any_replica_tells_all(stand: &Stand<'_>, replicas: [&Replica; 2], document: &str) -> anyhow::Result<()> {
    for replica in replicas {
        let waited = stand.palisade(replica, &["wait", "-f", document, "--timeout", "20s"]).await?;
        let said = String::from_utf8_lossy(&waited.stdout).into_owned();
        ensure!(waited.status.success() && said.contains("enforced 4/4"), "{said} {}", replica.said());
        let listed = stand.palisade(replica, &["proxy", "status"]).await?;
        let said = String::from_utf8_lossy(&listed.stdout).into_owned();
        ensure!(listed.status.success(), "{said}");
        for pod in PODS {
            ensure!(said.matches(&format!("replicas/{pod}  current")).count() == 1, "{pod}: {said}");
            let shown = stand.palisade(replica, &["proxy", "config", &format!("replicas/{pod}"), "-o", "wide"]).await?;
            let said = String::from_utf8_lossy(&shown.stdout).into_owned();
            ensure!(said.contains("AuthorizationPolicy replicas/all") && said.contains("acked"), "{pod}: {said}");
        }
        let gone = stand.palisade(replica, &["proxy", "config", "replicas/none"]).await?;
        ensure!(gone.status.code() == Some(1), "{gone:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_proxies_of_all_replicas_do_is_counted_by_whoever_leads() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "replicas").await?;
    cluster.apply(CRD).await?;
    let established = "--for=condition=Established";
    cluster.kubectl(&["wait", established, "crd/authorizationpolicies.security.istio.io", "--timeout=30s"]).await?;
    cluster.apply(&format!("{}---{}", sidecar_pods("replicas", &PODS), policy("a"))).await?;
    cluster.kubectl(&["wait", "-n", "replicas", "--for=condition=Ready", "pod", "--all", "--timeout=30s"]).await?;
    let (one, two) = (stand.control("one").await?, stand.control("two").await?);
    let (leading, following) = leader(&stand, &one, &two).await?;
    becomes(&stand, leading, "False Enforced 0/0: replicas/p0: not connected").await?;

    let near_leader = Service::new(&stand, &[leading, following]).await?;
    let near_follower = Service::new(&stand, &[following, leading]).await?;
    let mut proxies = Vec::new();
    for (index, pod) in PODS.iter().enumerate() {
        let service = if index < 2 { &near_leader } else { &near_follower };
        proxies.push(Proxy::start(&stand, service, "replicas", pod).await?);
    }
    becomes(&stand, leading, "True Enforced 4/4").await?;
    let document = stand.folder().join("policy.yaml");
    fs::write(&document, policy("a"))?;
    let path = document.display().to_string();
    any_replica_tells_all(&stand, [leading, following], &path).await?;

    // One that takes its time at the replica that follows: nothing is said before it does.
    proxies[3].hold();
    let before = proxies[3].applied();
    cluster.apply(&policy("b")).await?;
    becomes(&stand, leading, "False Enforced 3/4: replicas/p3: not acknowledged yet").await?;
    ensure!(proxies[3].applied() == before, "it has");
    proxies[3].release();
    becomes(&stand, leading, "True Enforced 4/4").await?;

    // One that refuses there.
    proxies[2].refuse(true);
    cluster.apply(&policy("c")).await?;
    becomes(&stand, leading, "False Enforced 3/4: replicas/p2: refused: not any more").await?;
    proxies[2].refuse(false);
    cluster.apply(&policy("d")).await?;
    becomes(&stand, leading, "True Enforced 4/4").await?;

    // The leader dies: its proxies move, each is counted once.
    leading.signal(Signal::SIGKILL)?;
    until("a takeover", SOON, async || {
        ensure!(stand.leads(following).await?, "not yet");
        Ok(())
    })
    .await
    .with_context(|| following.said())?;
    cluster.apply(&policy("e")).await?;
    becomes(&stand, following, "True Enforced 4/4").await?;

    // Another one comes, and its proxies come with it; then it freezes, and nobody knows what they do.
    let three = stand.control("three").await?;
    let near_third = Service::new(&stand, &[&three]).await?;
    proxies.truncate(3);
    proxies.push(Proxy::start(&stand, &near_third, "replicas", "p3").await?);
    cluster.apply(&policy("f")).await?;
    becomes(&stand, following, "True Enforced 4/4").await?;
    fs::write(&document, policy("f"))?;
    any_replica_tells_all(&stand, [following, &three], &path).await?;
    three.signal(Signal::SIGSTOP)?;
    becomes(&stand, following, "False Enforced 3/3: replicas/p3: not connected").await?;
    let asked = stand.palisade(following, &["wait", "-f", &path, "--timeout", "1s"]).await?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    ensure!(asked.status.code() == Some(1), "{said}");
    ensure!(said.contains("replicas/p3: not connected") && said.contains("is gone, and 1 of its proxies"), "{said}");
    three.signal(Signal::SIGCONT)?;
    becomes(&stand, following, "True Enforced 4/4").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    any_replica_tells_all(&stand, [following, &three], &path).await?;
    three.stop().await
}
