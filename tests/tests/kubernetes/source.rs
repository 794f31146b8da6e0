//! The cluster as a source of documents: what is read, what is followed, and what goes wrong meanwhile.

mod access;
mod command;
mod cut;
mod edits;
mod faults;
mod memory;
mod process;
mod same;

use std::{collections::BTreeSet, fmt::Write, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use palisade_compile::{ControlSettings, SourceOptions};
use palisade_control::{
    slices::{MeshWatch, Slices},
    source::cluster_mesh,
};
use palisade_model::{
    endpoint::{Address, EndpointHealth},
    resource::{Resource, ResourceKind},
    settings::WorkloadRef,
    snapshot::Snapshot,
};
use palisade_tests::kubernetes::Cluster;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long the first compile, or a change, may take.
const SOON: Duration = Duration::from_secs(30);

/// Istio's and our kinds, as far as these tests write them: group, kind, plural, versions.
const KINDS: [(&str, &str, &str, &[&str]); 7] = [
    ("networking.istio.io", "VirtualService", "virtualservices", &["v1", "v1beta1"]),
    ("networking.istio.io", "DestinationRule", "destinationrules", &["v1beta1", "v1"]),
    ("networking.istio.io", "ServiceEntry", "serviceentries", &["v1"]),
    ("networking.istio.io", "Gateway", "gateways", &["v1", "v1alpha3"]),
    ("security.istio.io", "AuthorizationPolicy", "authorizationpolicies", &["v1", "v1beta1"]),
    ("security.istio.io", "PeerAuthentication", "peerauthentications", &["v1"]),
    ("palisade.dev", "CedarPolicy", "cedarpolicies", &["v1alpha1"]),
];

/// A control plane's view of a cluster.
struct Followed {
    mesh: MeshWatch,
    _stop: DropGuard,
}

impl Followed {
    async fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        Ok(Self { mesh: cluster_mesh(cluster.client().await?, options(), stop.clone()), _stop: stop.drop_guard() })
    }

    /// Waits until the mesh is as it should be.
    async fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&dyn Slices) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut last = anyhow::anyhow!("nothing was compiled");
        let limit = tokio::time::Instant::now() + SOON;
        loop {
            if let Some(mesh) = self.mesh.borrow_and_update().clone() {
                match look(&*mesh) {
                    Ok(value) => return Ok(value),
                    Err(error) => last = error,
                }
            }
            match tokio::time::timeout_at(limit, self.mesh.changed()).await {
                Ok(changed) => changed.context("the source ended")?,
                Err(_) => return Err(last.context(format!("{what}: not within {SOON:?}"))),
            }
        }
    }
}

/// As a control plane in a cluster reads documents.
fn options() -> SourceOptions {
    SourceOptions { control: ControlSettings { istio_classes: false, ..Default::default() }, is_files: false }
}

/// What a pod's proxy is told.
fn slice(mesh: &dyn Slices, namespace: &str, name: &str) -> anyhow::Result<Snapshot> {
    let pod = WorkloadRef { namespace: namespace.into(), name: name.into() };
    mesh.slice(&pod, &BTreeSet::new()).map_err(anyhow::Error::msg)
}

/// What a pod's proxy is told, as text that names can be looked for in.
fn text(mesh: &dyn Slices, namespace: &str, name: &str) -> anyhow::Result<String> {
    Ok(format!("{:?}", slice(mesh, namespace, name)?.entries()))
}

/// Installs the kinds that are needed, with no more of a schema than an API server asks for.
async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.install_gateway_api("standard").await?;
    let mut crds = String::new();
    for (group, kind, plural, versions) in KINDS {
        writeln!(crds, "---\n{}", crd(group, kind, plural, versions))?;
    }
    cluster.apply(&crds).await?;
    let names = KINDS.map(|(group, _, plural, _)| format!("crd/{plural}.{group}"));
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=30s"];
    wait.extend(names.iter().map(String::as_str));
    cluster.kubectl(&wait).await.map(drop)
}

fn crd(group: &str, kind: &str, plural: &str, versions: &[&str]) -> String {
    let versions: Vec<String> = versions
        .iter()
        .enumerate()
        .map(|(index, version)| {
            format!(
                "{{name: {version}, served: true, storage: {}, schema: {{openAPIV3Schema: {{type: object, \
                 x-kubernetes-preserve-unknown-fields: true}}}}, subresources: {{status: {{}}}}}}",
                index == 0
            )
        })
        .collect();
    let singular = kind.to_lowercase();
    format!(
        "{{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: {plural}.{group}}}, \
         spec: {{group: {group}, names: {{kind: {kind}, plural: {plural}, singular: {singular}}}, scope: Namespaced, \
         versions: [{}]}}}}",
        versions.join(", ")
    )
}

/// A pod on a simulated node, once it is ready; its address.
async fn pod(cluster: &Cluster, namespace: &str, name: &str, labels: &str) -> anyhow::Result<IpAddr> {
    cluster
        .apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}, spec: \
             {{nodeName: fake-0, containers: [{{name: app, image: 'app:1', ports: [{{containerPort: 8080}}]}}]}}}}"
        ))
        .await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "-n", namespace, "pod", name]).await?;
    let address = ["get", "pod", name, "-n", namespace, "-o", "jsonpath={.status.podIP}"];
    Ok(cluster.kubectl(&address).await?.trim().parse()?)
}

/// Addresses behind a host, as a pod's proxy is told, that are healthy.
fn healthy(mesh: &dyn Slices, pod: (&str, &str), host: &str) -> anyhow::Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for entry in slice(mesh, pod.0, pod.1)?.of_kind(ResourceKind::Endpoints) {
        let Resource::Endpoints(endpoints) = entry.resource() else { continue };
        if !endpoints.key.starts_with(host) {
            continue;
        }
        let healthy = endpoints.endpoints.iter().filter(|endpoint| endpoint.health == EndpointHealth::Healthy);
        for endpoint in healthy {
            let Address::Socket(address) = endpoint.address else { anyhow::bail!("{:?}", endpoint.address) };
            found.insert(address.ip());
        }
    }
    Ok(found)
}

/// Whether the mesh knows a pod by this UID.
fn has_pod(mesh: &dyn Slices, namespace: &str, name: &str) -> anyhow::Result<Arc<str>> {
    let pod = WorkloadRef { namespace: namespace.into(), name: name.into() };
    let workload = mesh.workload(&pod).context("no such pod")?;
    ensure!(!workload.uid.is_empty(), "it has no UID");
    Ok(workload.uid)
}
