//! The compiled mesh as serving sees it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use palisade_compile::{
    Compiled, Mesh, Object, ObjectKey, ProxyRef, Reports, Slice, SourceDocument,
    inputs::core,
    scope_after,
    status::{self, Holding, StatusOptions, Statuses},
};
use palisade_model::{
    identity::TrustDomain, origin::Origin, service::Query, settings::WorkloadRef, snapshot::Snapshot,
};
use parking_lot::Mutex;

use crate::slices::{Slices, Workload};

/// A mesh with its reports.
#[derive(Debug)]
pub struct CompiledMesh {
    mesh: Mesh,
    reports: Reports,
    epoch: u64,
    /// What statuses should say, once somebody has asked.
    statuses: Mutex<Option<(StatusOptions, Arc<Statuses>)>>,
}

impl CompiledMesh {
    /// The result of compiling.
    pub fn new(compiled: Compiled) -> Self {
        let Compiled { mesh, reports } = compiled;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let epoch = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { mesh, reports, epoch, statuses: Mutex::default() }
    }

    /// The proxy of a pod.
    fn proxy(&self, pod: &WorkloadRef) -> Option<ProxyRef> {
        let (namespace, name) = (Arc::clone(&pod.namespace), Arc::clone(&pod.name));
        let found = self.mesh.inputs().pods.get(&ObjectKey::new(Arc::clone(&namespace), Arc::clone(&name)))?;
        Some(match self.mesh.is_gateway(found) {
            true => ProxyRef::gateway(namespace, name),
            false => ProxyRef::sidecar(namespace, name),
        })
    }
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
            is_gateway: self.mesh.is_gateway(pod),
        })
    }

    fn proxied(&self) -> Vec<WorkloadRef> {
        let inputs = self.mesh.inputs();
        let runs = |pod: &Object<core::Pod>| {
            // One without a uid is made up for a Gateway that nobody runs.
            !pod.spec.is_gone
                && !pod.head.uid.is_empty()
                && (pod.spec.is_injected || pod.spec.accepts_mesh_tls || self.mesh.is_gateway(pod))
        };
        let pods = inputs.pods.iter().filter(|(_, pod)| runs(pod));
        pods.map(|(key, _)| WorkloadRef { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) })
            .collect()
    }

    fn is_declared(&self, namespace: &str, service_account: &str) -> bool {
        let mut entries = self.mesh.inputs().workload_entries.values();
        // Empty: the entry names none.
        !service_account.is_empty()
            && entries
                .any(|entry| &*entry.head.key.namespace == namespace && entry.spec.service_account == service_account)
    }

    fn slice(&self, pod: &WorkloadRef, queries: &BTreeSet<Query>) -> Result<Snapshot, String> {
        self.slice_after(None, pod, queries).map(|slice| (**slice.snapshot()).clone())
    }

    fn slice_after(
        &self,
        previous: Option<&Arc<Slice>>,
        pod: &WorkloadRef,
        queries: &BTreeSet<Query>,
    ) -> Result<Arc<Slice>, String> {
        let WorkloadRef { namespace, name } = pod;
        let proxy = self.proxy(pod).ok_or_else(|| format!("pod {namespace}/{name} is not in the mesh"))?;
        scope_after(previous, &self.mesh, &proxy, queries).map_err(|error| error.to_string())
    }

    fn is_slice(&self, previous: &Slice, pod: &WorkloadRef, queries: &BTreeSet<Query>) -> bool {
        self.proxy(pod).is_some_and(|proxy| previous.is_of(&self.mesh, &proxy, queries))
    }

    fn mesh(&self) -> Option<&Mesh> {
        Some(&self.mesh)
    }

    fn reports(&self) -> serde_json::Value {
        let diagnostics: Vec<serde_json::Value> =
            self.reports.diagnostics().iter().map(|diagnostic| serde_json::json!(diagnostic)).collect();
        let conditions: Vec<serde_json::Value> = self
            .reports
            .conditions()
            .into_iter()
            .map(|(object, conditions)| serde_json::json!({"object": object, "conditions": conditions}))
            .collect();
        serde_json::json!({"diagnostics": diagnostics, "conditions": conditions})
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn statuses(&self, options: &StatusOptions) -> Arc<Statuses> {
        let mut held = self.statuses.lock();
        match &*held {
            Some((known, statuses)) if known == options => Arc::clone(statuses),
            Some(_) | None => {
                let statuses = Arc::new(status::statuses(&self.mesh, &self.reports, options));
                *held = Some((options.clone(), Arc::clone(&statuses)));
                statuses
            }
        }
    }

    fn holding(&self, document: &SourceDocument) -> Holding {
        status::holding(self.mesh.inputs(), &self.reports, document)
    }

    fn find(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Origin> {
        status::find(self.mesh.inputs(), group, kind, namespace, name)
    }
}
