//! Pods, Services, names, commands and addresses for LoadBalancers.

use anyhow::ensure;
use palisade_tests::{kubernetes::OUTSIDE, wait::until};

use crate::support::{SOON, node};

const DOCUMENTS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: pods}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: echo
          image: localhost/bookinfo:1
          args: [echo, --port=8080]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          securityContext: {runAsNonRoot: true, runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: pods}
spec: {type: LoadBalancer, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: pods}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
    # A native sidecar: it starts before the application and keeps running.
    - {name: beside, image: 'localhost/bookinfo:1', args: [echo, --port=9000], restartPolicy: Always,
       startupProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}}
  containers:
    - {name: app, image: 'localhost/bookinfo:1', args: [client]}
---
# A host outside the cluster.
apiVersion: v1
kind: Pod
metadata: {name: outside, namespace: pods}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - {name: outside, image: 'localhost/bookinfo:1', args: [echo, --address=198.51.100.1, --port=8080]}
";

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_and_find_each_other() -> anyhow::Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    node.namespace("pods").await?;
    node.apply(DOCUMENTS).await?;
    node.kubectl(&["rollout", "status", "-n", "pods", "deployment/echo", "--timeout=60s"]).await?;
    node.kubectl(&["wait", "-n", "pods", "pod/caller", "pod/outside", "--for=condition=Ready", "--timeout=60s"])
        .await?;

    let read = async |path: &str| node.kubectl(&["get", "service/echo", "-n", "pods", "-o", path]).await;
    let cluster_ip = read("jsonpath={.spec.clusterIP}").await?;
    let balancer = until("an address of the pool", SOON, async || {
        let address = read("jsonpath={.status.loadBalancer.ingress[0].ip}").await?;
        ensure!(address.starts_with("203.0.113."), "`{address}`");
        Ok(address)
    })
    .await?;
    let pod = node
        .kubectl(&["get", "pods", "-n", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].status.podIP}"])
        .await?;
    let outside = OUTSIDE[0].0;
    for url in [
        format!("http://{pod}:8080/headers"),
        format!("http://{cluster_ip}/headers"),
        "http://echo/headers".to_owned(),
        "http://echo.pods.svc.cluster.local/headers".to_owned(),
        format!("http://{balancer}/headers"),
        format!("http://{outside}:8080/headers"),
    ] {
        until(&url, SOON, async || {
            let answer = node.call("pods", "caller", &[&url]).await?;
            ensure!(answer["status"] == 200, "{answer}");
            Ok(())
        })
        .await?;
    }
    // From outside the cluster, by its LoadBalancer.
    let stream = node.connector().connect(format!("{balancer}:80").parse()?).await?;
    ensure!(stream.peer_addr()?.ip().to_string() == balancer);

    // What is not there is answered at once.
    for host in ["nobody.outside.example", "no-such.pods.svc.cluster.local"] {
        let answer = node.call("pods", "caller", &[&format!("http://{host}/")]).await?;
        ensure!(answer["status"].is_null(), "{host}: {answer}");
    }
    node.kubectl(&["delete", "namespace", "pods", "--timeout=60s"]).await?;
    Ok(())
}
