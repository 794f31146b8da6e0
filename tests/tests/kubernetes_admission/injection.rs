//! Pods that the API server creates get their sidecars.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use palisade_tests::{kubernetes::Cluster, wait::until};

use crate::webhooks::Webhooks;

const SOON: Duration = Duration::from_secs(30);

fn pod(namespace: &str, name: &str, metadata: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}{metadata}}}, spec: {{containers: [{{name: web, image: 'web:1', \
         readinessProbe: {{httpGet: {{path: /r, port: 8080}}}}}}]}}}}"
    )
}

fn steps(pod: &Pod) -> Vec<&str> {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    inits.map(|container| container.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_their_sidecars_where_they_are_asked_for() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    for (name, labels) in [
        ("inject-on", "istio-injection: enabled"),
        ("inject-own", "palisade.dev/injection: enabled"),
        ("inject-rev", "istio.io/rev: default"),
        ("inject-other", "istio.io/rev: canary"),
        ("inject-off", "istio-injection: disabled, istio.io/rev: default"),
        ("inject-silent", ""),
    ] {
        cluster.namespace(name).await?;
        cluster
            .apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}"))
            .await?;
    }
    let webhooks = Webhooks::start(&cluster, "").await?;
    let client = cluster.client().await?;
    let read = async |namespace: &str, name: &str| Api::<Pod>::namespaced(client.clone(), namespace).get(name).await;

    until("the webhook", SOON, async || {
        drop(
            cluster
                .kubectl(&[
                    "delete",
                    "pod",
                    "-n",
                    "inject-on",
                    "web",
                    "--ignore-not-found",
                    "--grace-period=0",
                    "--force",
                ])
                .await,
        );
        cluster.apply(&pod("inject-on", "web", "")).await?;
        let web = read("inject-on", "web").await?;
        ensure!(steps(&web) == ["palisade-redirect", "palisade-proxy"], "{:?}", steps(&web));
        Ok(())
    })
    .await?;
    let web = read("inject-on", "web").await?;
    let spec = web.spec.as_ref().context("a spec")?;
    let proxy = &spec.init_containers.as_ref().context("steps")?[1];
    ensure!(proxy.restart_policy.as_deref() == Some("Always"));
    let context = proxy.security_context.as_ref().context("a security context")?;
    ensure!(context.run_as_non_root == Some(true) && context.read_only_root_filesystem == Some(true));
    let probe =
        spec.containers[0].readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref()).context("a probe")?;
    ensure!(probe.path.as_deref() == Some("/app-health/web/readyz"), "{probe:?}");
    let labels = web.metadata.labels.clone().unwrap_or_default();
    ensure!(labels.get("security.istio.io/tlsMode").is_some_and(|mode| mode == "istio"), "{labels:?}");

    for (namespace, name, metadata, is_injected) in [
        ("inject-own", "plain", "", true),
        ("inject-rev", "plain", "", true),
        ("inject-other", "plain", "", false),
        ("inject-off", "plain", "", false),
        ("inject-off", "wants", ", labels: {sidecar.istio.io/inject: 'true'}", false),
        ("inject-silent", "plain", "", false),
        ("inject-silent", "wants", ", labels: {sidecar.istio.io/inject: 'true'}", true),
        ("inject-silent", "revision", ", labels: {istio.io/rev: default}", true),
        ("inject-on", "refuses", ", labels: {sidecar.istio.io/inject: 'false'}", false),
        ("inject-on", "annotated", ", annotations: {sidecar.istio.io/inject: 'false'}", false),
    ] {
        cluster.apply(&pod(namespace, name, metadata)).await?;
        let found = read(namespace, name).await?;
        ensure!(steps(&found).contains(&"palisade-proxy") == is_injected, "{namespace}/{name}: {:?}", steps(&found));
    }
    let refused =
        cluster.apply(&pod("inject-on", "tproxy", ", annotations: {sidecar.istio.io/interceptionMode: TPROXY}")).await;
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("sidecar.istio.io/interceptionMode")),
        "TPROXY was taken"
    );

    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: api, namespace: inject-on}, spec: {selector: {matchLabels: {a: b}}, \
                      template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: 'a:1'}]}}}}";
    cluster.apply(deployment).await?;
    until("the deployment's pod", SOON, async || {
        let pods =
            Api::<Pod>::namespaced(client.clone(), "inject-on").list(&ListParams::default().labels("a=b")).await?;
        let pod = pods.items.first().context("no pod yet")?;
        ensure!(steps(pod).contains(&"palisade-proxy"));
        let name = pod.metadata.labels.as_ref().and_then(|labels| labels.get("service.istio.io/canonical-name"));
        ensure!(name.is_some_and(|name| name == "api"), "{name:?}");
        Ok(())
    })
    .await?;
    webhooks.unregister(&cluster).await
}
