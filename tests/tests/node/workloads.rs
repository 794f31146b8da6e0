//! What users run: Jobs, StatefulSets, headless Services, probes, protocols in which the server speaks first, names that only the
//! mesh knows, pods outside it; sidecars that crash, and pods that go under load.

use std::cell::RefCell;

use anyhow::{Context, ensure};
use palisade_tests::{kubernetes::Node, wait::until};
use serde_json::{Value, json};

use crate::support::{SOON, mesh, meshed_namespace};

const DOCUMENTS: &str = include_str!("workloads.yaml");
const JOB: &str = include_str!("job.yaml");
const NAMESPACE: &str = "workloads";

/// Requests at a time, as long as a rolling restart takes.
const REQUESTS: &str = "500";

async fn ask(node: &Node, url: &str) -> anyhow::Result<Value> {
    node.call(NAMESPACE, "caller", &[url]).await
}

/// The body of an answer, which the echo writes as JSON.
fn body(answer: &Value) -> Value {
    answer["body"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_of_every_kind_work_in_the_mesh() -> anyhow::Result<()> {
    let Some(node) = mesh().await? else { return Ok(()) };
    meshed_namespace(node, NAMESPACE).await?;
    node.apply(DOCUMENTS).await?;
    for workload in ["deployment/echo", "deployment/locked", "statefulset/store"] {
        node.rollout(NAMESPACE, workload).await?;
    }
    node.kubectl(&["wait", "-n", NAMESPACE, "pod/caller", "--for=condition=Ready", "--timeout=60s"]).await?;
    node.kubectl(&["wait", "-n", "open", "pod/plain", "pod/outside", "--for=condition=Ready", "--timeout=60s"]).await?;
    node.palisade(&["wait", "PeerAuthentication/workloads/default", "Sidecar/workloads/default"]).await?;

    job(node).await.context("a Job")?;
    names(node).await.context("names")?;
    greeting(node).await.context("the server speaks first")?;
    edges(node).await.context("pods outside the mesh")?;
    probes(node).await.context("probes under default deny")?;
    restart(node).await.context("a rolling restart under load")?;
    crash(node).await.context("a sidecar that crashes")
}

/// It starts after its sidecar, so that its first call passes, and ends before it, so that it is complete.
async fn job(node: &Node) -> anyhow::Result<()> {
    node.apply(JOB).await?;
    let done = node.kubectl(&["wait", "-n", NAMESPACE, "job/task", "--for=condition=Complete", "--timeout=60s"]).await;
    if let Err(error) = done {
        return Err(error.context(node.said_of(NAMESPACE).await));
    }
    for container in ["first", "app"] {
        let said = node.kubectl(&["logs", "-n", NAMESPACE, "job/task", "-c", container]).await?;
        ensure!(said.contains("\"status\":200"), "{container}: {said}");
    }
    Ok(())
}

async fn names(node: &Node) -> anyhow::Result<()> {
    for pod in ["store-0", "store-1"] {
        for host in [format!("{pod}.store"), format!("{pod}.store.workloads.svc.cluster.local")] {
            let answer = ask(node, &format!("http://{host}:8080/")).await?;
            ensure!(answer["status"] == 200 && body(&answer)["pod"] == pod, "{host}: {answer}");
        }
    }
    // Headless, and an alias that only the mesh knows.
    for host in ["store:8080", "store.alias.example"] {
        let answer = ask(node, &format!("http://{host}/")).await?;
        let pod = body(&answer)["pod"].clone();
        ensure!(
            answer["status"] == 200 && pod.as_str().is_some_and(|pod| pod.starts_with("store-")),
            "{host}: {answer}"
        );
    }
    let lines = node.log_lines(NAMESPACE, "store-1", "palisade-proxy").await?;
    let by_caller = |line: &&Value| line["source"] == "spiffe://cluster.local/ns/workloads/sa/caller";
    ensure!(lines.iter().any(|line| by_caller(&line) && line["direction"] == "inbound"), "no mutual TLS in {lines:?}");
    Ok(())
}

async fn greeting(node: &Node) -> anyhow::Result<()> {
    for address in ["store-0.store:2525", "greeter:25"] {
        let said = node.exec(NAMESPACE, "caller", "app", &["/bookinfo", "greeting", address]).await?;
        ensure!(said.starts_with("220 store-"), "{address}: {said}");
    }
    Ok(())
}

async fn edges(node: &Node) -> anyhow::Result<()> {
    let answer = ask(node, "http://plain.open/").await?;
    ensure!(answer["status"] == 200, "a pod outside the mesh: {answer}");
    for url in ["http://echo.workloads/", "http://store-0.store.workloads:8080/"] {
        let answer = node.call("open", "plain", &[url]).await?;
        ensure!(answer["status"].is_null(), "plaintext was taken under STRICT at {url}: {answer}");
    }
    let answer = ask(node, "http://two.outside.example:8080/").await?;
    ensure!(answer["status"] == 502, "a host that no document names: {answer}");
    let answer = node.call("open", "plain", &["http://two.outside.example:8080/"]).await?;
    ensure!(answer["status"] == 200, "the host outside does not answer: {answer}");
    Ok(())
}

/// The kubelet has no certificate and no permission, and still learns how the application is.
async fn probes(node: &Node) -> anyhow::Result<()> {
    let refused = ask(node, "http://locked:8080/health").await?;
    ensure!(refused["status"] == 403, "{refused}");
    let path =
        "jsonpath={.items[0].status.containerStatuses[0].restartCount} {.items[0].status.containerStatuses[0].ready}";
    let state = node.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "app=locked", "-o", path]).await?;
    ensure!(state == "0 true", "{state}");
    Ok(())
}

/// Calls without end: every answer is 200, or it ends with what came instead.
async fn load(node: &Node) -> anyhow::Result<()> {
    let mut answered = 0;
    loop {
        let count = node.call(NAMESPACE, "caller", &["http://echo/", "-n", REQUESTS, "--count"]).await?;
        ensure!(count == json!({"200": REQUESTS.parse::<u32>()?}), "{count} after {answered} times {REQUESTS}");
        answered += 1;
    }
}

/// Old pods withdraw before they go.
async fn restart(node: &Node) -> anyhow::Result<()> {
    let restart = async {
        node.kubectl(&["rollout", "restart", "-n", NAMESPACE, "deployment/echo"]).await?;
        node.rollout(NAMESPACE, "deployment/echo").await
    };
    tokio::select! {
        biased;
        failed = load(node) => failed,
        restarted = restart => restarted,
    }
}

/// While it is away nothing comes in around it, and nothing gets out.
async fn crash(node: &Node) -> anyhow::Result<()> {
    let state = ".status.initContainerStatuses[?(@.name==\"palisade-proxy\")]";
    for round in 1..=2 {
        for pod in ["store-0", "caller"] {
            let path = format!("jsonpath={{{state}.containerID}}");
            let id = node.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", &path]).await?;
            node.kill_container(id.trim_start_matches("containerd://")).await?;
        }
        let running = format!("jsonpath={{{state}.restartCount}} {{{state}.ready}}");
        let around = RefCell::new(Vec::new());
        until("both sidecars back", SOON, async || {
            let inward =
                node.call("open", "plain", &["http://store-0.store.workloads:8080/", "--timeout-ms=500"]).await?;
            if !inward["status"].is_null() {
                around.borrow_mut().push(inward);
            }
            let outward =
                node.call(NAMESPACE, "caller", &["http://two.outside.example:8080/", "--timeout-ms=500"]).await?;
            if outward["status"] == 200 {
                around.borrow_mut().push(outward);
            }
            for pod in ["store-0", "caller"] {
                let state = node.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", &running]).await?;
                ensure!(state == format!("{round} true"), "{pod}: {state}");
            }
            Ok(())
        })
        .await?;
        let around = around.into_inner();
        ensure!(around.is_empty(), "around a sidecar that is away: {around:?}");
    }
    until("calls between them", SOON, async || {
        let answer = ask(node, "http://store-0.store:8080/").await?;
        ensure!(answer["status"] == 200, "{answer}");
        Ok(())
    })
    .await
}
