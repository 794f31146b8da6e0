//! The compiled mesh as serving sees it.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{Compiled, Mesh, Object, ObjectKey, ProxyRef, Reports, inputs::core, scope};
use palisade_model::{identity::TrustDomain, service::Query, settings::WorkloadRef, snapshot::Snapshot};

use crate::slices::{Slices, Workload};

/// Label of pods that serve a Gateway API Gateway.
const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// A mesh with its reports.
#[derive(Debug, Clone)]
pub struct CompiledMesh {
    mesh: Mesh,
    reports: Reports,
}

impl CompiledMesh {
    /// The result of compiling.
    pub fn new(compiled: Compiled) -> Self {
        let Compiled { mesh, reports } = compiled;
        Self { mesh, reports }
    }
}

/// Whether a pod is a gateway.
fn is_gateway(pod: &Object<core::Pod>) -> bool {
    pod.spec.gateway.is_some() || pod.head.labels.contains_key(GATEWAY_NAME_LABEL)
}

impl Slices for CompiledMesh {
    fn trust_domain(&self) -> &TrustDomain {
        &self.mesh.inputs().settings.trust_domain
    }

    fn workload(&self, pod: &WorkloadRef) -> Option<Workload> {
        let WorkloadRef { namespace, name } = pod;
        let pod = self.mesh.inputs().pods.get(&ObjectKey::new(Arc::clone(namespace), Arc::clone(name)))?;
        Some(Workload {
            uid: Arc::clone(&pod.head.uid),
            service_account: pod.spec.service_account.as_str().into(),
            is_gateway: is_gateway(pod),
        })
    }

    fn is_declared(&self, namespace: &str, service_account: &str) -> bool {
        let mut entries = self.mesh.inputs().workload_entries.values();
        // Empty: the entry names none.
        !service_account.is_empty()
            && entries
                .any(|entry| &*entry.head.key.namespace == namespace && entry.spec.service_account == service_account)
    }

    fn slice(&self, pod: &WorkloadRef, queries: &BTreeSet<Query>) -> Result<Snapshot, String> {
        let WorkloadRef { namespace, name } = pod;
        let found = self
            .mesh
            .inputs()
            .pods
            .get(&ObjectKey::new(Arc::clone(namespace), Arc::clone(name)))
            .ok_or_else(|| format!("pod {namespace}/{name} is not in the mesh"))?;
        let proxy = if is_gateway(found) {
            ProxyRef::gateway(Arc::clone(namespace), Arc::clone(name))
        } else {
            ProxyRef::sidecar(Arc::clone(namespace), Arc::clone(name))
        };
        scope(&self.mesh, &proxy, queries).map_err(|error| error.to_string())
    }

    fn mesh(&self) -> Option<&Mesh> {
        Some(&self.mesh)
    }

    fn reports(&self) -> serde_json::Value {
        let diagnostics: Vec<serde_json::Value> =
            self.reports.diagnostics().iter().map(|diagnostic| serde_json::json!(diagnostic)).collect();
        let conditions: Vec<serde_json::Value> = self
            .reports
            .conditions
            .iter()
            .map(|(object, conditions)| serde_json::json!({"object": object, "conditions": conditions}))
            .collect();
        serde_json::json!({"diagnostics": diagnostics, "conditions": conditions})
    }
}
