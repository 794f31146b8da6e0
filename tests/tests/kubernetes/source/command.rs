//! `palisade` without `-f` reads the cluster.

use anyhow::ensure;
use palisade_tests::{checkout, kubernetes::Cluster};
use serde_json::Value;

use super::{install, pod};

const DOCUMENTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: command}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: lost, namespace: command}
spec: {hosts: [web], http: [{route: [{destination: {host: nowhere}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: command}
spec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn analyze_and_eval_read_the_cluster() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace("command").await?;
    cluster.apply(DOCUMENTS).await?;
    let ip = pod(&cluster, "command", "web-1", "app: web, palisade.dev/proxy: sidecar").await?;
    let palisade = checkout::binary("palisade")?;

    let analyze = cluster.command(&palisade).args(["analyze", "-o", "jsonl"]).output().await?;
    let (said, failed) = (String::from_utf8(analyze.stdout)?, String::from_utf8(analyze.stderr)?);
    ensure!(analyze.status.success(), "{said}{failed}");
    let found: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let lost =
        found.iter().find(|diagnostic| diagnostic["code"] == "PLS0202" && diagnostic["object"]["name"] == "lost");
    ensure!(lost.is_some_and(|lost| lost["file"] == ""), "{said}");

    let folder = tempfile::tempdir()?;
    let cases = folder.path().join("cases.jsonl");
    let case = |method: &str| {
        serde_json::json!({
            "id": method, "proxy": {"kind": "sidecar", "namespace": "command", "name": "web-1"},
            "destination": {"ip": ip, "port": 8080}, "http": {"method": method, "authority": "web", "path": "/"},
        })
    };
    std::fs::write(&cases, format!("{}\n{}\n", case("GET"), case("POST")))?;
    let kubeconfig = cluster.kubeconfig();
    let eval = cluster
        .command(&palisade)
        .env_remove("KUBECONFIG")
        .args(["eval", "-o", "jsonl", "--cases"])
        .arg(&cases)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .output()
        .await?;
    let (said, failed) = (String::from_utf8(eval.stdout)?, String::from_utf8(eval.stderr)?);
    let answers: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(answers.len() == 2, "{said}{failed}");
    ensure!(answers[0]["outcome"] == "forward" && answers[1]["reason"] == "authz-denied", "{said}");

    let nowhere = cluster.command(&palisade).args(["analyze", "--context", "nowhere"]).output().await?;
    ensure!(nowhere.status.code() == Some(2), "{:?}", nowhere.status);
    ensure!(String::from_utf8(nowhere.stderr)?.contains("nowhere"));
    Ok(())
}
