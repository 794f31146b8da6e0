//! The plain YAML on a real API server: what it installs is admitted, and with its rights alone a control plane does all of its work.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use kube::config::Kubeconfig;
use palisade_tests::{checkout, kubernetes::Cluster, wait::until};
use serde_json::Value;
use tokio::process::Command;

use crate::control::{GATEWAY_API, SOON, Stand, condition, gateway, route, told};

/// The YAML that users apply.
fn manifest(name: &str) -> anyhow::Result<String> {
    Ok(fs::read_to_string(checkout::root().join("deploy/kubernetes").join(name))?)
}

/// A kubeconfig of the control plane's service account.
async fn own_kubeconfig(cluster: &Cluster, folder: &Path) -> anyhow::Result<PathBuf> {
    let token = cluster.kubectl(&["create", "token", "palisade-control", "-n", "palisade-system"]).await?;
    let mut config = Kubeconfig::read_from(cluster.kubeconfig())?;
    for user in config.auth_infos.iter_mut().filter_map(|user| user.auth_info.as_mut()) {
        *user = serde_json::from_value(serde_json::json!({"token": token.trim()}))?;
    }
    let path = folder.join("own.conf");
    fs::write(&path, serde_json::to_string(&config)?)?;
    Ok(path)
}

const DOCUMENTS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: installed}
spec: {rules: [{from: [{source: {namespaces: [a]}}]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: installed}
spec: {hosts: [example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS, location: MESH_EXTERNAL}
---
apiVersion: palisade.dev/v1alpha1
kind: CedarPolicy
metadata: {name: reads, namespace: installed}
spec:
  policies: 'permit (principal, action in Mesh::Action::\"l7\", resource is Mesh::Workload) when { context.http.method == \"GET\" };'
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: installed}
spec: {selector: {app: web}, ports: [{port: 80}]}
---";

/// `palisade check`: its exit code and what it found.
async fn check(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<(i32, Vec<Value>)> {
    let mut command = cluster.command(checkout::binary("palisade")?);
    let output = command.args(["check", "-o", "jsonl"]).args(arguments).output().await?;
    let text = String::from_utf8(output.stdout)?;
    let found = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok((output.status.code().context("no exit code")?, found))
}

/// The worst that was found about something.
fn level(found: &[Value], check: &str) -> anyhow::Result<String> {
    const LEVELS: [&str; 5] = ["ok", "info", "unknown", "warning", "error"];
    let levels = found.iter().filter(|finding| finding["check"] == check).filter_map(|own| own["level"].as_str());
    let worst = levels.max_by_key(|level| LEVELS.iter().position(|known| known == level));
    Ok(worst.with_context(|| format!("nothing about {check}: {found:#?}"))?.to_owned())
}

#[tokio::test]
async fn the_plain_yaml_is_all_that_a_control_plane_needs() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    cluster.install_gateway_api("standard").await?;
    cluster.fake_nodes(1).await?;
    let (code, found) = check(&cluster, &["--before"]).await?;
    ensure!(code == 0 && level(&found, "kubernetes")? == "ok" && level(&found, "rights")? == "ok", "{code} {found:#?}");
    ensure!(level(&found, "definitions")? == "info" && level(&found, "gateway-api")? == "ok", "{found:#?}");
    ensure!(check(&cluster, &["--after"]).await?.0 == 1, "nothing is installed");
    let istio = cluster.command(checkout::binary("palisade")?).args(["crds", "apply", "--istio"]).output().await?;
    ensure!(istio.status.success(), "{}", String::from_utf8_lossy(&istio.stderr));
    cluster.apply(&manifest("crds.yaml")?).await?;
    cluster.apply(&manifest("palisade.yaml")?).await?;
    cluster.namespace("installed").await?;
    until("pods that Pod Security `restricted` admits", SOON, async || {
        let ready = [
            "get",
            "deployment",
            "-n",
            "palisade-system",
            "palisade-control",
            "-o",
            "jsonpath={.status.readyReplicas}",
        ];
        let ready = cluster.kubectl(&ready).await?;
        ensure!(ready == "2", "{ready} ready");
        Ok(())
    })
    .await?;

    let folder = tempfile::tempdir()?;
    let stand = Stand::as_owner(&cluster, own_kubeconfig(&cluster, folder.path()).await?).await?;
    let webhook = cluster.connector().free_address().await?;
    let flags = [
        "--gateway-provisioning=on".to_owned(),
        format!("--webhook={webhook}"),
        format!("--webhook-url=https://{webhook}"),
    ];
    let control = stand.control_with("installed", &flags.each_ref().map(String::as_str)).await?;
    let documents = format!("{DOCUMENTS}{}---{}", gateway("installed", 80), route("installed", "web", "a.example.com"));
    until("documents that admission takes", SOON, async || cluster.apply(&documents).await)
        .await
        .with_context(|| control.said())?;
    let work = until("everything that a control plane does", SOON, async || {
        let edge = stand.get(GATEWAY_API, "gateways", "installed", "edge").await?;
        let (_, reason, ..) = condition(&edge["status"]["conditions"], "Programmed")?;
        ensure!(reason == "AddressNotAssigned", "{edge}");
        let web = stand.get(GATEWAY_API, "httproutes", "installed", "web").await?;
        ensure!(told(&web["status"]["parents"][0]["conditions"], "Accepted")? == "True Accepted", "{web}");
        for (api, plural, name) in [
            ("security.istio.io/v1", "authorizationpolicies", "allow"),
            ("networking.istio.io/v1", "serviceentries", "outside"),
            ("palisade.dev/v1alpha1", "cedarpolicies", "reads"),
        ] {
            let object = stand.get(api, plural, "installed", name).await?;
            ensure!(told(&object["status"]["conditions"], "Accepted")?.starts_with("True"), "{object}");
        }
        let class = cluster
            .kubectl(&["get", "gatewayclass", "palisade", "-o", "jsonpath={.status.conditions[*].type}"])
            .await?;
        ensure!(class == "Accepted SupportedVersion", "{class}");
        cluster
            .kubectl(&["get", "deployment,service,hpa,pdb,serviceaccount", "-n", "installed", "edge-palisade"])
            .await?;
        cluster.kubectl(&["get", "configmap", "-n", "installed", "palisade-ca-root-cert"]).await?;
        for kind in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
            cluster.kubectl(&["get", kind, "palisade"]).await?;
        }
        cluster.kubectl(&["get", "validatingadmissionpolicy", "authorization.policies.palisade.dev"]).await?;
        Ok(())
    });
    work.await.with_context(|| control.said())?;
    let (code, found) = check(&cluster, &[]).await?;
    for (name, expected) in
        [("control-plane", "ok"), ("leader", "ok"), ("roots", "ok"), ("webhooks", "ok"), ("gateways", "warning")]
    {
        ensure!(level(&found, name)? == expected, "{name}: {found:#?}");
    }
    ensure!(code == 0, "{found:#?}");
    ensure!(check(&cluster, &["--strict"]).await?.0 == 1, "a Gateway has no address");
    let refused = cluster.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: bad, namespace: installed}, spec: {rules: [{from: [{source: {}}]}]}}").await;
    ensure!(refused.is_err(), "nobody checks documents");
    let log = control.log();
    let refusals: Vec<&str> = log.lines().filter(|line| line.to_ascii_lowercase().contains("forbidden")).collect();
    ensure!(refusals.is_empty(), "{refusals:#?}");
    control.stop().await?;
    let (code, found) = check(&cluster, &[]).await?;
    ensure!(code == 1 && level(&found, "leader")? == "error" && level(&found, "webhooks")? == "error", "{found:#?}");

    // What is taken away takes along what the control plane wrote for the whole cluster.
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", "palisade-control"]).await?;
    until("webhooks that went", SOON, async || {
        let left = ["get", "validatingwebhookconfiguration,mutatingwebhookconfiguration,validatingadmissionpolicy,validatingadmissionpolicybinding", "-l", "app.kubernetes.io/part-of=palisade", "-o", "name"];
        let left = cluster.kubectl(&left).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await?;
    // Whoever comes next would miss the proxies of its pods.
    cluster.kubectl(&["delete", "namespace", "installed", "--timeout=90s"]).await.map(drop)
}

#[tokio::test]
async fn the_plain_yaml_is_what_the_charts_say() -> anyhow::Result<()> {
    let script = checkout::root().join("deploy/scripts/manifests");
    let output = Command::new(script).arg("--check").output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
