//! Kinds beyond the API server's own.

use anyhow::ensure;
use palisade_tests::kubernetes::Cluster;

const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.test.palisade.dev}
spec:
  group: test.palisade.dev
  scope: Namespaced
  names: {kind: Lamp, plural: lamps, singular: lamp}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, properties: {watts: {type: integer, maximum: 100}}}
";

fn lamp(name: &str, watts: u32) -> String {
    format!(
        "{{apiVersion: test.palisade.dev/v1, kind: Lamp, metadata: {{name: {name}, namespace: default}}, \
         spec: {{watts: {watts}}}}}"
    )
}

#[tokio::test]
async fn objects_of_a_new_kind_are_checked_and_kept() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.apply(CRD).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/lamps.test.palisade.dev", "--timeout=30s"]).await?;
    cluster.apply(&lamp("good", 40)).await?;
    let watts = cluster.kubectl(&["get", "lamp", "good", "-o", "jsonpath={.spec.watts}"]).await?;
    ensure!(watts == "40", "{watts}");
    let refused = cluster.apply(&lamp("bad", 400)).await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("spec.watts")), "400 watts were taken");
    Ok(())
}

#[tokio::test]
async fn gateway_api_is_served() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.install_gateway_api("standard").await?;
    let gateway = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge, namespace: default}, \
                   spec: {gatewayClassName: palisade, listeners: [{name: http, port: 80, protocol: HTTP}]}}";
    cluster.apply(gateway).await?;
    let version = "jsonpath={.metadata.annotations.gateway\\.networking\\.k8s\\.io/bundle-version}";
    let version = cluster.kubectl(&["get", "crd", "gateways.gateway.networking.k8s.io", "-o", version]).await?;
    ensure!(version.starts_with("v1.6."), "{version}");
    Ok(())
}
