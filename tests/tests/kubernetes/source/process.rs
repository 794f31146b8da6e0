//! The real thing: `palisade-control` as a service account with no more than its rules, and a gateway that it tells.

use std::{fs, path::Path, process::Stdio, time::Instant};

use anyhow::{Context, ensure};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy, rt::TokioExecutor};
use palisade_control::source::access_rules;
use palisade_tests::{
    checkout,
    kubernetes::{Cluster, Connector},
    wait::until,
};
use serde_json::json;
use tokio::process::{Child, Command};

use super::{SOON, install, pod};

type Client = legacy::Client<Connector, Empty<bytes::Bytes>>;

fn redirect(host: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: away, namespace: process}}, spec: \
         {{parentRefs: [{{name: edge}}], rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {host}}}}}]}}]}}}}"
    )
}

/// A page of a server beside the cluster.
pub(super) async fn page(cluster: &Cluster, url: &str) -> anyhow::Result<String> {
    let client: Client = legacy::Client::builder(TokioExecutor::new()).build(cluster.connector());
    let answer = client.request(Request::get(url).body(Empty::new())?).await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    Ok(String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?)
}

/// Starts a program that logs to a file.
pub(super) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
    let log = fs::File::create(log)?;
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

async fn location(client: &Client, url: &str) -> anyhow::Result<String> {
    let answer = client.request(Request::get(url).header("host", "here.example").body(Empty::new())?).await?;
    let location = answer.headers().get("location").with_context(|| format!("{}", answer.status()))?;
    Ok(location.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_live_at_a_gateway() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace("process").await?;
    let port = cluster.connector().free_address().await?.port();
    cluster
        .apply(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: edge, namespace: process}}, spec: \
             {{gatewayClassName: palisade, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}}}"
        ))
        .await?;
    cluster.apply(&redirect("first.example")).await?;
    pod(&cluster, "process", "edge-0", "gateway.networking.k8s.io/gateway-name: edge").await?;

    // Exactly the permissions that it says it needs, to read and to identify; those of the leader it can do without.
    let rules = access_rules();
    let page_text = fs::read_to_string(checkout::root().join("docs/operations/identity.md"))?;
    let rights = page_text.split("## Rights").nth(1).and_then(|rest| rest.split("```yaml\n").nth(1));
    let rights = rights.and_then(|rest| rest.split("```").next()).context("no YAML")?;
    cluster
        .apply(&rights.replace("palisade-system", "process").replace("palisade-control-identity", "identifying"))
        .await?;
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "control", "namespace": "process"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "control"}, "rules": rules},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "control"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "control"},
         "subjects": [{"kind": "ServiceAccount", "name": "control", "namespace": "process"}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "identifying"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "identifying"},
         "subjects": [{"kind": "ServiceAccount", "name": "control", "namespace": "process"}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
         "metadata": {"name": "identifying", "namespace": "process"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "identifying"},
         "subjects": [{"kind": "ServiceAccount", "name": "control", "namespace": "process"}]},
    ]});
    cluster.apply(&objects.to_string()).await?;
    let token = cluster.token("process", "control", "https://kubernetes.default.svc.cluster.local", None).await?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let listen = cluster.connector().free_address().await?;
    let admin = cluster.connector().free_address().await?;
    let mut control = cluster.command(checkout::binary("palisade-control")?);
    control
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig_with(&token)?)
        .args(["--control-namespace", "process"])
        .arg(format!("--listen={listen}"))
        .arg(format!("--admin={admin}"));
    let _control = start(&mut control, &path("control.log"))?;
    let client: Client = legacy::Client::builder(TokioExecutor::new()).build(cluster.connector());
    let said = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    until("a control plane", SOON, async || page(&cluster, &format!("http://{admin}/metrics")).await)
        .await
        .with_context(|| said("control.log"))?;

    fs::write(path("pod.token"), cluster.token("process", "default", "palisade", Some("edge-0")).await?)?;
    until("the bundle of roots", SOON, async || {
        let map =
            ["get", "configmap", "-n", "process", "palisade-ca-root-cert", "-o", "jsonpath={.data.root-cert\\.pem}"];
        let text = cluster.kubectl(&map).await?;
        ensure!(text.contains("BEGIN CERTIFICATE"), "{text}");
        Ok(fs::write(path("root-cert.pem"), text)?)
    })
    .await?;
    let mut gateway = cluster.command(checkout::binary("palisade-gateway")?);
    gateway
        .arg(format!("--control={listen}"))
        .arg("--control-name=palisade-control")
        .arg("--control-ca")
        .arg(path("root-cert.pem"))
        .arg("--token-file")
        .arg(path("pod.token"))
        .args(["--pod-ip=127.0.0.1", "--namespace=process", "--name=edge-0"]);
    for flag in ["admin", "metrics", "health"] {
        gateway.arg(format!("--{flag}={}", cluster.connector().free_address().await?));
    }
    let _gateway = start(&mut gateway, &path("gateway.log"))?;
    let url = format!("http://127.0.0.1:{port}/");
    let moved = until("the first redirect", SOON, async || location(&client, &url).await).await;
    let moved = moved.with_context(|| format!("{}\n{}", said("gateway.log"), said("control.log")))?;
    ensure!(moved.contains("first.example"), "{moved}");

    for host in ["second.example", "third.example"] {
        cluster.apply(&redirect(host)).await?;
        let written = Instant::now();
        let live = async || {
            let moved = location(&client, &url).await?;
            ensure!(moved.contains(host), "{moved}");
            Ok(())
        };
        until(host, SOON, live).await?;
        eprintln!("{host}: live at the gateway {:?} after kubectl ended", written.elapsed());
    }
    let metrics = page(&cluster, &format!("http://{admin}/metrics")).await?;
    ensure!(!metrics.contains("palisade_control_watch_failures_total{"), "a rule is missing: {metrics}");
    Ok(())
}
