//! The same documents from files and from the cluster give the same snapshot for every proxy.
#![expect(clippy::indexing_slicing, reason = "tests: JSON that is otherwise fails them")]

use std::{collections::BTreeMap, fs, sync::Arc};

use anyhow::{Context, ensure};
use palisade_compile::{Inputs, compile};
use palisade_control::{mesh::CompiledMesh, slices::Slices, source::files};
use palisade_tests::{checkout, kubernetes::Cluster, wait::until};
use serde_json::Value;

use super::{Followed, SOON, has_pod, install, options, slice};

/// Everything that is exported: what kubectl calls it.
const EXPORTED: [&str; 12] = [
    "namespaces",
    "nodes",
    "pods",
    "services",
    "endpointslices",
    "configmaps",
    "secrets",
    "gateways.gateway.networking.k8s.io",
    "httproutes",
    "virtualservices,destinationrules,serviceentries,gateways.networking.istio.io",
    "authorizationpolicies,peerauthentications",
    "cedarpolicies",
];

const CERTIFICATE: &str = "
apiVersion: v1
kind: Secret
metadata: {name: edge, namespace: bookinfo}
type: Opaque
stringData: {tls.crt: 'a certificate', tls.key: 'a key'}
---
apiVersion: v1
kind: Secret
metadata: {name: nobody-names-it, namespace: bookinfo}
type: Opaque
stringData: {tls.crt: 'another certificate', tls.key: 'another key'}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secure, namespace: bookinfo}
spec:
  gatewayClassName: palisade
  listeners:
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: edge}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: secure-0, namespace: bookinfo, labels: {gateway.networking.k8s.io/gateway-name: secure}}
spec: {containers: [{name: gateway, image: 'gateway:1'}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'trustDomain: td.example'}
";

/// The documents of the demo, and Istio's Bookinfo samples in a namespace of their own where they are on this machine.
async fn apply_documents(cluster: &Cluster) -> anyhow::Result<Vec<&'static str>> {
    let demo = checkout::root().join("deploy/demo/documents");
    let mut texts = Vec::new();
    for entry in fs::read_dir(demo)? {
        texts.push(fs::read_to_string(entry?.path())?);
    }
    texts.push(CERTIFICATE.to_owned());
    // Namespaces first, as kubectl does not sort.
    let documents = texts.iter().flat_map(|text| text.split("\n---\n"));
    let (namespaces, others): (Vec<&str>, Vec<&str>) =
        documents.partition(|document| document.contains("kind: Namespace\n"));
    for documents in [namespaces, others] {
        cluster.apply(&documents.join("\n---\n")).await?;
    }
    let Some(samples) = std::env::var_os("ISTIO_SAMPLES") else { return Ok(vec!["bookinfo"]) };
    cluster.namespace("samples").await?;
    let bookinfo = std::path::Path::new(&samples).join("bookinfo");
    for file in [
        "platform/kube/bookinfo.yaml",
        "networking/destination-rule-all.yaml",
        "networking/virtual-service-all-v1.yaml",
    ] {
        let file = bookinfo.join(file).display().to_string();
        cluster.kubectl(&["apply", "--server-side", "-n", "samples", "-f", &file]).await?;
    }
    Ok(vec!["bookinfo", "samples"])
}

/// Objects as an export writes them.
async fn export(cluster: &Cluster, file: &std::path::Path) -> anyhow::Result<()> {
    let mut items: Vec<Value> = Vec::new();
    for kinds in EXPORTED {
        let text = cluster.kubectl(&["get", kinds, "-A", "-o", "json"]).await?;
        let Value::Object(mut list) = serde_json::from_str(&text)? else { anyhow::bail!("{kinds}: no list") };
        let Some(Value::Array(found)) = list.remove("items") else { anyhow::bail!("{kinds}: no items") };
        items.extend(found);
    }
    fs::write(file, serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    Ok(())
}

/// Names of all pods, with how many are ready.
async fn pods(cluster: &Cluster, namespaces: &[&str]) -> anyhow::Result<Vec<(String, String)>> {
    let mut names = Vec::new();
    for namespace in namespaces {
        let text = cluster.kubectl(&["get", "pods", "-n", namespace, "-o", "json"]).await?;
        let list: Value = serde_json::from_str(&text)?;
        for pod in list["items"].as_array().context("no pods")? {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            ensure!(pod["status"]["podIP"].is_string(), "{name} has no address");
            let conditions = pod["status"]["conditions"].as_array().context("no conditions")?;
            ensure!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{name} is not ready");
            names.push(((*namespace).to_owned(), name.to_owned()));
        }
    }
    ensure!(names.len() >= 6 * namespaces.len(), "{} pods", names.len());
    Ok(names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_cluster_tell_every_proxy_the_same() -> anyhow::Result<()> {
    // Nobody else changes anything meanwhile.
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(2).await?;
    cluster
        .kubectl(&["label", "node", "fake-0", "topology.kubernetes.io/region=r", "topology.kubernetes.io/zone=z"])
        .await?;
    let namespaces = apply_documents(&cluster).await?;
    for namespace in &namespaces {
        let all = ["wait", "--for=condition=Available", "--timeout=60s", "deployment", "--all", "-n", namespace];
        cluster.kubectl(&all).await?;
    }
    let names = until("pods", SOON, async || pods(&cluster, &namespaces).await).await?;
    // Some are in the mesh, one is in Istio's, others in none.
    for label in ["palisade.dev/proxy=sidecar", "security.istio.io/tlsMode=istio"] {
        cluster.kubectl(&["label", "pods", "--all", "-n", "bookinfo", label]).await?;
    }
    // The gateway's pod is no sidecar's.
    let gateway = "palisade.dev/proxy=gateway";
    cluster.kubectl(&["label", "pod", "secure-0", "-n", "bookinfo", "--overwrite", gateway]).await?;
    let mut followed = Followed::new(&cluster).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("cluster.json");
    let compared = until("the same from both", SOON, async || {
        export(&cluster, &file).await?;
        let inputs = Inputs::from_texts(files::read(std::slice::from_ref(&file))?, "default", &options());
        let from_files = CompiledMesh::new(compile(&Arc::new(inputs)));
        let from_cluster = followed.mesh.borrow_and_update().clone().context("nothing is compiled")?;
        compare(&from_files, &*from_cluster, &names)
    })
    .await?;
    eprintln!("{} proxies are told the same: {compared:?}", names.len());
    let gateway = followed.until("the certificate", |mesh| super::text(mesh, "bookinfo", "secure-0")).await?;
    ensure!(gateway.contains("secret/bookinfo/edge") && !gateway.contains("nobody-names-it"));
    let domain = followed.until("the mesh", |mesh| Ok(mesh.trust_domain().to_string())).await?;
    ensure!(domain == "td.example", "{domain}");
    Ok(())
}

/// Compares what every pod's proxy is told; the number of resources by proxy.
fn compare(
    from_files: &dyn Slices,
    from_cluster: &dyn Slices,
    pods: &[(String, String)],
) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut compared = BTreeMap::new();
    for (namespace, name) in pods {
        has_pod(from_cluster, namespace, name)?;
        let (expected, told) = (slice(from_files, namespace, name)?, slice(from_cluster, namespace, name)?);
        let both = expected.entries().iter().zip(told.entries());
        if let Some((a, b)) = both.into_iter().find(|(a, b)| a != b) {
            anyhow::bail!("{namespace}/{name}: files {a:?}\ncluster {b:?}");
        }
        ensure!(expected.version() == told.version(), "{namespace}/{name}: other resources");
        compared.insert(format!("{namespace}/{name}"), told.entries().len());
    }
    // What stands in files has a place, so findings differ; conditions do not.
    let (a, b) = (from_files.reports()["conditions"].to_string(), from_cluster.reports()["conditions"].to_string());
    ensure!(a == b, "conditions: files {a}\ncluster {b}");
    Ok(compared)
}
