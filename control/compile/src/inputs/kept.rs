//! Inputs that are kept current, one object at a time: what [`Inputs::new`] makes of all documents, at the cost of those that
//! changed. For documents that are named by an API server: one per object, and without text.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::{Broken, Document, Object as Kind, Parsed};

use crate::{
    inputs::{
        Inputs, SourceDocument, SourceOptions,
        discovery::Visible,
        sources::{head, mesh_settings, place},
    },
    object::{Head, ObjectKey},
    reports::{Diagnostic, ObjectName, Reports},
    settings::MeshSettings,
};

/// Name of the ConfigMap with the settings of the mesh.
const MESH_CONFIG: &str = "istio";

/// Inputs without what all documents together decide.
#[derive(Debug, Clone)]
pub struct KeptInputs {
    options: SourceOptions,
    /// Settings and reports in it are empty.
    kept: Inputs,
    /// What is wrong with objects.
    found: BTreeMap<ObjectName, Vec<Diagnostic>>,
    /// Objects that are rejected, with UID and generation.
    rejected: BTreeMap<ObjectName, (Arc<str>, i64)>,
    /// Security documents that were rejected.
    broken: BTreeMap<ObjectName, (Head, Broken)>,
    /// ConfigMaps that may hold the settings of the mesh.
    settings: BTreeMap<ObjectKey, Arc<Parsed>>,
    /// Labels of a namespace or node are others: pods have to be looked at again.
    is_place_new: bool,
}

/// Does something with the objects of every kind.
macro_rules! each_kind {
    ($inputs:ident, $objects:ident => $do:expr) => {{
        each_kind!(@ $inputs, $objects => $do, services endpoint_slices pods secrets config_maps gateway_classes api_gateways
            http_routes grpc_routes tls_routes tcp_routes udp_routes listener_sets backend_tls_policies reference_grants gateways
            virtual_services destination_rules service_entries workload_entries sidecars authorization_policies peer_authentications
            request_authentications cedar_policies)
    }};
    (@ $inputs:ident, $objects:ident => $do:expr, $($field:ident)*) => {{
        $({ let $objects = &mut $inputs.$field; $do; })*
    }};
}

impl KeptInputs {
    /// None yet.
    pub fn new(options: SourceOptions) -> Self {
        let settings = MeshSettings::new(&Default::default(), &options.control).0;
        Self {
            options,
            kept: Inputs::empty(settings, Reports::default()),
            found: BTreeMap::new(),
            rejected: BTreeMap::new(),
            broken: BTreeMap::new(),
            settings: BTreeMap::new(),
            is_place_new: false,
        }
    }

    /// An object that is new, or another one than before.
    pub fn put(&mut self, parsed: &Arc<Parsed>) {
        let head = head(&parsed.meta);
        let object = ObjectName::of(&head);
        let key = head.key;
        // What was a policy may be a broken one now.
        self.take_out(&object, &key, !matches!(parsed.object, Kind::Broken(_) | Kind::Unknown { .. }));
        let issues = parsed.issues.iter().map(|issue| Diagnostic {
            code: issue.code.id(),
            severity: issue.severity,
            object: object.clone(),
            path: issue.path.to_string(),
            message: issue.message.clone(),
            file: "".into(),
            line: 0,
        });
        let issues: Vec<Diagnostic> = issues.collect();
        if !issues.is_empty() {
            self.found.insert(object.clone(), issues);
        }
        if parsed.is_rejected() {
            self.rejected.insert(object.clone(), (head.uid, head.generation));
        }
        // Pods of a cluster are there: none are made from workloads.
        self.kept.add(parsed, &mut Vec::new());
        self.broken.extend(self.kept.broken_policies.pop().map(|broken| (object, broken)));
        match &parsed.object {
            Kind::Namespace(_) | Kind::Node(_) => self.is_place_new = true,
            Kind::ConfigMap(_) if *key.name == *MESH_CONFIG => drop(self.settings.insert(key, Arc::clone(parsed))),
            Kind::Pod(_) => {
                let Inputs { pods, namespaces, nodes, .. } = &mut self.kept;
                pods.change(&key, |pod| place(pod, namespaces, nodes, false));
            }
            _ => {}
        }
    }

    /// An object that is gone.
    pub fn remove(&mut self, object: &ObjectName) {
        let key = ObjectKey::new(Arc::clone(&object.namespace), Arc::clone(&object.name));
        self.take_out(object, &key, false);
    }

    /// Takes an object out; `is_replaced` = one of the same kind comes in its place at once.
    fn take_out(&mut self, object: &ObjectName, key: &ObjectKey, is_replaced: bool) {
        self.found.remove(object);
        self.rejected.remove(object);
        self.broken.remove(object);
        if is_replaced {
            return;
        }
        let Inputs { namespaces, nodes, .. } = &mut self.kept;
        match (&*object.group, &*object.kind) {
            ("", "Namespace") => self.is_place_new |= namespaces.remove(&key.name).is_some(),
            ("", "Node") => self.is_place_new |= nodes.remove(&key.name).is_some(),
            _ => {
                if object.group.is_empty() && &*object.kind == "ConfigMap" {
                    self.settings.remove(key);
                }
                let kept = &mut self.kept;
                each_kind!(kept, objects => objects.remove(object, key));
            }
        }
    }

    /// The inputs, equal to those of [`Inputs::new`] with all objects that were put and not removed.
    pub fn inputs(&mut self) -> Inputs {
        if std::mem::take(&mut self.is_place_new) {
            let Inputs { pods, namespaces, nodes, .. } = &mut self.kept;
            pods.change_all(|pod| place(pod, namespaces, nodes, false));
        }
        let mut reports = Reports::default();
        let textless = Arc::new(Document::from_value(serde_json::Value::Null));
        let document =
            |parsed: &Arc<Parsed>| SourceDocument { document: Arc::clone(&textless), parsed: Arc::clone(parsed) };
        let documents: Vec<SourceDocument> = self.settings.values().map(document).collect();
        let settings = mesh_settings(&documents, &self.options, &mut reports);
        let labels = self.kept.namespaces.iter().map(|(name, namespace)| (&**name, &namespace.labels));
        let visible = Visible::new(&settings, labels);
        let broken_policies = self.broken.values().cloned().collect();
        let mut inputs = Inputs { settings, broken_policies, ..self.kept.clone() };
        if let Some(visible) = &visible {
            each_kind!(inputs, objects => objects.retain(|key| visible.has(&key.namespace)));
            inputs.broken_policies.retain(|(head, _)| visible.has(&head.key.namespace));
        }
        let found = self.found.iter();
        let found = found.filter(|(object, _)| visible.as_ref().is_none_or(|visible| visible.has(&object.namespace)));
        found.flat_map(|(_, issues)| issues).for_each(|issue| reports.push(issue.clone()));
        for (object, (uid, generation)) in &self.rejected {
            if visible.as_ref().is_none_or(|visible| visible.has(&object.namespace)) {
                reports.reject(object.clone(), uid, *generation);
            }
        }
        inputs.reports = reports;
        inputs
    }
}

#[cfg(test)]
mod tests;
