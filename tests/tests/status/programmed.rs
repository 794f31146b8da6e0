//! `Programmed` and `Enforced` are true when a proxy has acknowledged, and not before.

use std::{fs, process::Stdio};

use anyhow::{Context, ensure};
use palisade_tests::{checkout, kubernetes::Cluster, wait::until};
use serde_json::Value;
use tokio::process::Child;

use crate::control::{GATEWAY_API, Replica, SOON, Stand, condition, gateway, route, told};

/// A gateway process for a pod that only seems to run.
async fn gateway_process(stand: &Stand<'_>, control: &Replica, namespace: &str, pod: &str) -> anyhow::Result<Child> {
    let file = stand.folder().join("token");
    fs::write(&file, stand.cluster.token(namespace, "default", "palisade", Some(pod)).await?)?;
    let roots = stand.folder().join("root-cert.pem");
    until("the bundle of roots", SOON, async || {
        let map =
            ["get", "configmap", "-n", namespace, "palisade-ca-root-cert", "-o", "jsonpath={.data.root-cert\\.pem}"];
        let text = stand.cluster.kubectl(&map).await?;
        ensure!(text.contains("BEGIN CERTIFICATE"), "{text}");
        Ok(fs::write(&roots, text)?)
    })
    .await?;
    let log = fs::File::create(stand.folder().join("gateway.log"))?;
    let child = stand
        .cluster
        .command(checkout::binary("palisade-gateway")?)
        .args(["--control", &control.listen.to_string(), "--control-name", "palisade-control"])
        .arg("--control-ca")
        .arg(&roots)
        .arg("--token-file")
        .arg(file)
        .args(["--pod-ip", "127.0.0.1", "--namespace", namespace, "--name", pod])
        .args(["--admin", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(stand.folder().join("state"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child)
}

#[tokio::test]
async fn a_gateway_is_programmed_once_its_proxy_has_acknowledged() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "programmed").await?;
    let port = cluster.connector().free_address().await?.port();
    let service = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: programmed}
spec: {selector: {app: web}, ports: [{port: 80}]}
";
    let documents =
        format!("{}---{service}---{}", gateway("programmed", port), route("programmed", "web", "a.example.com"));
    cluster.apply(&documents).await?;
    let control = stand.control("one").await?;
    let edge = async || stand.get(GATEWAY_API, "gateways", "programmed", "edge").await;
    let web = async || stand.get(GATEWAY_API, "httproutes", "programmed", "web").await;

    until("a first status", SOON, async || {
        let status = &edge().await?["status"];
        ensure!(told(&status["conditions"], "Accepted")? == "True Accepted", "{status}");
        ensure!(told(&status["conditions"], "Programmed")? == "False AddressNotAssigned", "{status}");
        ensure!(status["listeners"][0]["attachedRoutes"] == 1, "{status}");
        let parents = &web().await?["status"]["parents"];
        ensure!(told(&parents[0]["conditions"], "Accepted")? == "True Accepted", "{parents}");
        Ok(())
    })
    .await
    .with_context(|| control.said())?;

    // A pod that is ready and whose proxy says nothing.
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: edge-0, namespace: programmed, labels: {gateway.networking.k8s.io/gateway-name: edge}}
spec: {nodeName: fake-0, containers: [{name: proxy, image: 'palisade:1'}]}
";
    cluster.apply(pod).await?;
    until("a pod without a proxy", SOON, async || {
        let status = &edge().await?["status"];
        let (truth, reason, _, message) = condition(&status["conditions"], "Programmed")?;
        ensure!(
            truth == "False" && reason == "Pending" && message.contains("programmed/edge-0: not connected"),
            "{status}"
        );
        ensure!(told(&status["listeners"][0]["conditions"], "Programmed")? == "False Pending", "{status}");
        Ok(())
    })
    .await?;
    let late = stand
        .palisade(&control, &["wait", "Gateway/programmed/edge", "--for", "programmed", "--timeout", "1s"])
        .await?;
    let said = String::from_utf8_lossy(&late.stdout).into_owned();
    ensure!(late.status.code() == Some(1) && said.contains("programmed/edge-0: not connected"), "{said}");

    let waiting = stand
        .asking(&control, &["wait", "Gateway/programmed/edge", "--for", "programmed", "--timeout", "30s"])?
        .spawn()?;
    let mut proxy = gateway_process(&stand, &control, "programmed", "edge-0").await?;
    let waited = waiting.wait_with_output().await?;
    ensure!(waited.status.success(), "{waited:?} {}", control.said());
    // What it waited for is true: the proxy listens.
    drop(cluster.connector().connect(([127, 0, 0, 1], port).into()).await.context("the gateway does not listen")?);
    let file = stand.folder().join("documents.yaml");
    fs::write(&file, &documents)?;
    let path = file.display().to_string();
    let waited = stand.palisade(&control, &["wait", "-f", &path, "--timeout", "20s"]).await?;
    ensure!(waited.status.success(), "{}", String::from_utf8_lossy(&waited.stdout));

    until("acks in statuses", SOON, async || {
        let status = &edge().await?["status"];
        ensure!(told(&status["conditions"], "Programmed")? == "True Programmed", "{status}");
        ensure!(told(&status["listeners"][0]["conditions"], "Programmed")? == "True Programmed", "{status}");
        let parents = &web().await?["status"]["parents"];
        let (truth, _, _, message) = condition(&parents[0]["conditions"], "palisade.dev/Enforced")?;
        ensure!(truth == "True" && message == "Enforced 1/1", "{parents}");
        Ok(())
    })
    .await?;

    quick_edits(&stand, &control).await?;

    // Another content than what was applied last is not waited for in vain: it is said to differ.
    let other = documents.replace("a.example.com", "b.example.com");
    fs::write(&file, other)?;
    let late = stand.palisade(&control, &["wait", "-f", &path, "--timeout", "500ms"]).await?;
    ensure!(late.status.code() == Some(1), "{late:?}");
    ensure!(String::from_utf8_lossy(&late.stdout).contains("something else"), "{late:?}");

    proxy.kill().await?;
    until("a proxy that is gone", SOON, async || {
        let status = &edge().await?["status"];
        ensure!(told(&status["conditions"], "Programmed")? == "False Pending", "{status}");
        Ok(())
    })
    .await?;
    control.stop().await
}

/// Many edits of a route: the last generation is what is said in the end, and none is said before its time.
async fn quick_edits(stand: &Stand<'_>, control: &Replica) -> anyhow::Result<()> {
    let web = async || stand.get(GATEWAY_API, "httproutes", "programmed", "web").await;
    let observed = |object: &Value| -> anyhow::Result<(i64, i64)> {
        let (.., generation, _) = condition(&object["status"]["parents"][0]["conditions"], "Accepted")?;
        Ok((object["metadata"]["generation"].as_i64().context("no generation")?, generation))
    };
    for edit in 0..20 {
        let host = format!("v{edit}.example.com");
        stand.cluster.apply(&route("programmed", "web", &host)).await?;
        let (generation, observed) = observed(&web().await?)?;
        ensure!(observed <= generation, "generation {observed} is said of {generation}");
    }
    until("the last generation", SOON, async || {
        let object = web().await?;
        let (generation, observed) = observed(&object)?;
        ensure!(generation > 20 && generation == observed, "{object}");
        let (truth, _, enforced, _) =
            condition(&object["status"]["parents"][0]["conditions"], "palisade.dev/Enforced")?;
        ensure!(truth == "True" && enforced == generation, "{object}");
        Ok(())
    })
    .await
    .with_context(|| control.said())?;
    let listed = stand.palisade(control, &["proxy", "status"]).await?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(listed.status.success() && text.contains("programmed/edge-0  current"), "{text}");
    let shown = stand.palisade(control, &["proxy", "config", "programmed/edge-0", "-o", "wide"]).await?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(text.contains("HTTPRoute programmed/web") && text.contains("acked"), "{text}");
    Ok(())
}
