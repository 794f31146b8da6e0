//! The rules that the source says it needs are those that it needs.

use std::collections::BTreeSet;

use anyhow::ensure;
use palisade_control::source::{access_rules, cluster_mesh};
use palisade_tests::{kubernetes::Cluster, wait::until};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Followed, SOON, has_pod, install, options, pod, text};

/// Binds a service account to rules, and reads the cluster as that account.
async fn follow_as(cluster: &Cluster, account: &str, rules: &serde_json::Value) -> anyhow::Result<Followed> {
    let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": "access"});
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": "access"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": account}, "rules": rules},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": account},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account}, "subjects": [subject]},
    ]});
    cluster.apply(&objects.to_string()).await?;
    let token = cluster.token("access", account, "https://kubernetes.default.svc.cluster.local", None).await?;
    let client = cluster.client_of(&cluster.kubeconfig_with(&token)?).await?;
    let stop = CancellationToken::new();
    Ok(Followed { mesh: cluster_mesh(client, options(), stop.clone()), _stop: stop.drop_guard() })
}

const GATEWAY: &str = "
apiVersion: v1
kind: Secret
metadata: {name: tls, namespace: access}
type: Opaque
stringData: {tls.crt: 'a certificate', tls.key: 'a key'}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: access}
spec:
  gatewayClassName: palisade
  listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_are_enough_and_none_is_too_much() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace("access").await?;
    cluster.apply(GATEWAY).await?;
    pod(&cluster, "access", "edge-0", "gateway.networking.k8s.io/gateway-name: edge").await?;
    let served: BTreeSet<String> =
        cluster.kubectl(&["api-resources", "-o", "name", "--verbs=watch"]).await?.lines().map(str::to_owned).collect();
    let rules = access_rules();
    let mut all = follow_as(&cluster, "all", &json!(rules)).await?;
    all.until("the certificate", |mesh| {
        has_pod(mesh, "access", "edge-0")?;
        ensure!(text(mesh, "access", "edge-0")?.contains("secret/access/tls"), "no certificate");
        Ok(())
    })
    .await?;

    // Without any one of them, for a kind that is there, nothing is compiled, or the certificate is missing.
    let mut left_out = 0;
    for (index, rule) in rules.iter().enumerate() {
        for resource in &rule.resources {
            let group = &rule.api_groups[0];
            let name = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            // Single objects, and kinds that this cluster does not have, are not missed.
            if !served.contains(&name) || resource == "configmaps" || resource == "secrets" {
                continue;
            }
            let mut fewer = rules.clone();
            fewer[index].resources.retain(|other| other != resource);
            fewer.retain(|rule| !rule.resources.is_empty());
            let account = format!("without-{resource}-{index}");
            let mut followed = follow_as(&cluster, &account, &json!(fewer)).await?;
            let first = tokio::time::timeout(std::time::Duration::from_millis(500), followed.mesh.changed()).await;
            ensure!(first.is_err(), "compiled without {name}");
            left_out += 1;
        }
    }
    ensure!(left_out >= 12, "{left_out} kinds are here");
    let mut no_secrets = rules.clone();
    no_secrets
        .iter_mut()
        .for_each(|rule| rule.resources.retain(|resource| resource != "secrets" && resource != "configmaps"));
    let mut followed = follow_as(&cluster, "no-secrets", &json!(no_secrets)).await?;
    followed
        .until("all but the certificate", |mesh| {
            has_pod(mesh, "access", "edge-0")?;
            ensure!(mesh.reports().to_string().contains("secret `access/tls` does not exist"), "the secret was read");
            Ok(())
        })
        .await?;
    // A permission that comes later is found without a restart.
    let bind = ["create", "clusterrolebinding", "later", "--clusterrole=all", "--serviceaccount=access:no-secrets"];
    until("a binding", SOON, async || cluster.kubectl(&bind).await).await?;
    followed
        .until("the certificate", |mesh| {
            ensure!(text(mesh, "access", "edge-0")?.contains("secret/access/tls"), "no certificate");
            Ok(())
        })
        .await
}
