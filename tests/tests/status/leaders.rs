//! Two replicas, one leader: after a crash, after a stop, and when a leader wakes from a freeze.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use palisade_tests::{kubernetes::Cluster, wait::until};

use crate::control::{GATEWAY_API, Replica, SOON, Stand, condition, gateway};

/// Who has the lease.
async fn holder(stand: &Stand<'_>) -> anyhow::Result<String> {
    let lease = stand.get("coordination.k8s.io/v1", "leases", "palisade-system", "palisade-control-leader").await?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the newest generation of the Gateway is what its status is about.
async fn status_follows(stand: &Stand<'_>, port: u16, limit: Duration) -> anyhow::Result<()> {
    stand.cluster.apply(&gateway("leaders", port)).await?;
    until("a status", limit, async || {
        let edge = stand.get(GATEWAY_API, "gateways", "leaders", "edge").await?;
        let (.., generation, _) = condition(&edge["status"]["conditions"], "Accepted")?;
        ensure!(Some(generation) == edge["metadata"]["generation"].as_i64(), "{edge}");
        Ok(())
    })
    .await
}

async fn one_leads(stand: &Stand<'_>, first: &Replica, second: &Replica) -> anyhow::Result<()> {
    until("one leader", SOON, async || {
        let (a, b) = (stand.leads(first).await?, stand.leads(second).await?);
        ensure!(a != b, "{a} {b}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn one_replica_writes_and_another_takes_over() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "leaders").await?;
    let first = stand.control("first").await?;
    until("the first leads", SOON, async || {
        ensure!(stand.leads(&first).await?, "not yet");
        Ok(())
    })
    .await
    .with_context(|| first.said())?;
    let second = stand.control("second").await?;
    one_leads(&stand, &first, &second).await?;
    status_follows(&stand, 8081, SOON).await?;
    ensure!(stand.writes(&second, "Gateway", "Done").await? == 0, "the follower has written");

    // A crash.
    let identity = holder(&stand).await?;
    let crashed = Instant::now();
    first.signal(Signal::SIGKILL)?;
    drop(first);
    until("a takeover", SOON, async || {
        ensure!(stand.leads(&second).await?, "not yet");
        Ok(())
    })
    .await
    .with_context(|| second.said())?;
    let took = crashed.elapsed();
    println!("takeover after a crash: {took:?}");
    ensure!(took <= Duration::from_secs(15), "{took:?}");
    ensure!(holder(&stand).await? != identity, "the lease is the dead one's");
    status_follows(&stand, 8082, SOON).await?;

    // A leader that freezes, and wakes when another one leads.
    let third = stand.control("third").await?;
    second.signal(Signal::SIGSTOP)?;
    until("a takeover", SOON, async || {
        ensure!(stand.leads(&third).await?, "not yet");
        Ok(())
    })
    .await
    .with_context(|| third.said())?;
    // It wakes to a change that it would have written, with all that it saw before.
    stand.cluster.apply(&gateway("leaders", 8083)).await?;
    let frozen = stand.get(GATEWAY_API, "gateways", "leaders", "edge").await?;
    second.signal(Signal::SIGCONT)?;
    let before = until("it answers again", SOON, async || stand.writes(&second, "Gateway", "Done").await).await?;
    status_follows(&stand, 8084, SOON).await.with_context(|| frozen.to_string())?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(stand.writes(&second, "Gateway", "Done").await? == before, "it has written after it woke");
    ensure!(!stand.leads(&second).await? && stand.leads(&third).await?, "two lead");

    // An orderly stop hands the lease over at once.
    let stopped = Instant::now();
    third.stop().await?;
    until("a handover", SOON, async || {
        ensure!(stand.leads(&second).await?, "not yet");
        Ok(())
    })
    .await?;
    let took = stopped.elapsed();
    println!("handover after a stop: {took:?}");
    ensure!(took <= Duration::from_secs(5), "{took:?}");
    status_follows(&stand, 8085, SOON).await?;
    second.stop().await
}
