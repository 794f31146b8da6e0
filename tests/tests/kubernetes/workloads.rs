//! The controllers, the scheduler and simulated nodes.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{Api, api::ListParams};
use palisade_tests::{kubernetes::Cluster, wait::until};

const SOON: Duration = Duration::from_secs(30);

const WORKLOAD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: workloads}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'web:1', ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: workloads}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

#[tokio::test]
async fn a_deployment_gets_pods_and_its_service_endpoints() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.fake_nodes(2).await?;
    cluster.namespace("workloads").await?;
    cluster.apply(WORKLOAD).await?;
    let client = cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "workloads");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "workloads");
    until("three ready pods", SOON, async || {
        let pods = pods.list(&ListParams::default().labels("app=web")).await?;
        let ready = pods.iter().filter_map(|pod| pod.status.as_ref()).filter(|status| {
            status.pod_ip.is_some()
                && status
                    .conditions
                    .iter()
                    .flatten()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        });
        let count = ready.count();
        ensure!(count == 3, "{count} are ready");
        Ok(())
    })
    .await?;
    until("three ready endpoints", SOON, async || {
        let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await?;
        let slice = slices.items.first().context("no slice")?;
        let ready = slice.endpoints.iter();
        let ready = ready.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count();
        ensure!(ready == 3, "{ready} are ready");
        Ok(())
    })
    .await
}
