//! From parsed documents to inputs: one object per name, file defaults, addresses, settings.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::{
    Broken, Document, Documents, Meta, Object as Kind, Parsed, document::UnreadableText, istio::MeshConfig,
};

use crate::{
    inputs::{
        Inputs, Objects,
        addresses::{Addresses, Range},
        core, discovery, gateway_pods, kubernetes,
    },
    object::{Head, Location, Object, ObjectKey},
    reports::{Code, Diagnostic, ObjectName, Report, Reports},
    settings::{self, ControlSettings, MeshSettings},
};

/// A document with where it stands.
#[derive(Debug, Clone)]
pub struct SourceDocument {
    /// The text, for lines.
    pub document: Arc<Document>,
    /// What it says.
    pub parsed: Arc<Parsed>,
}

/// How documents are read.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Settings that are not in documents.
    pub control: ControlSettings,
    /// The source stands in for an API server: addresses are assigned, Pods made from Deployments, every Pod counts as injected,
    /// gateways get a pod.
    pub is_files: bool,
}

impl SourceDocument {
    /// Parses a document. Objects without namespace belong to `default_namespace`.
    pub fn parse(document: Document, default_namespace: &str) -> Self {
        let parsed = palisade_crds::parse(&document, default_namespace);
        Self { document: Arc::new(document), parsed: Arc::new(parsed) }
    }

    fn location(&self) -> Location {
        Location {
            file: Arc::clone(&self.document.file),
            line: self.document.line(&palisade_crds::Path::root()).unwrap_or(0),
        }
    }
}

impl Inputs {
    /// Inputs from all that some texts held; what could not be read is among the reports. Objects without namespace belong
    /// to `default_namespace`.
    pub fn from_texts(texts: Documents, default_namespace: &str, options: &SourceOptions) -> Self {
        let Documents { documents, unreadable } = texts;
        let documents = documents.into_iter().map(|document| SourceDocument::parse(document, default_namespace));
        Self::from_sources(documents, unreadable, options)
    }

    /// Inputs from documents that are parsed already, and from texts that could not be read, which are among the reports.
    pub fn from_sources(
        documents: impl IntoIterator<Item = SourceDocument>,
        unreadable: impl IntoIterator<Item = UnreadableText>,
        options: &SourceOptions,
    ) -> Self {
        let mut inputs = Self::new(documents, options);
        for text in unreadable {
            inputs.reports.push(Diagnostic {
                code: text.code.id(),
                severity: text.severity(),
                object: ObjectName::default(),
                path: String::new(),
                message: text.message,
                file: text.file,
                line: text.line,
            });
        }
        inputs
    }

    /// Inputs from documents in any order. Of several documents for one object the last in order of file and line counts.
    pub fn new(documents: impl IntoIterator<Item = SourceDocument>, options: &SourceOptions) -> Self {
        let mut reports = Reports::default();
        let mut documents = unique(documents, &mut reports);
        let settings = mesh_settings(&documents, options, &mut reports);
        discovery::retain(&mut documents, &settings);
        let mut inputs = Self::empty(settings, reports);
        let mut templates = Vec::new();
        for source in &documents {
            inputs.report_issues(source);
            inputs.add(&source.parsed, &mut templates);
        }
        if options.is_files {
            inputs.add_pods_of(templates);
            inputs.assign_addresses();
        }
        inputs.place_pods(options.is_files);
        inputs
    }

    /// Nothing but settings.
    pub(super) fn empty(settings: MeshSettings, reports: Reports) -> Self {
        Self {
            settings,
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            services: Objects::new(),
            endpoint_slices: Objects::new(),
            pods: Objects::new(),
            secrets: Objects::new(),
            config_maps: Objects::new(),
            gateway_classes: Objects::new(),
            api_gateways: Objects::new(),
            http_routes: Objects::new(),
            grpc_routes: Objects::new(),
            tls_routes: Objects::new(),
            tcp_routes: Objects::new(),
            udp_routes: Objects::new(),
            listener_sets: Objects::new(),
            backend_tls_policies: Objects::new(),
            reference_grants: Objects::new(),
            gateways: Objects::new(),
            virtual_services: Objects::new(),
            destination_rules: Objects::new(),
            service_entries: Objects::new(),
            workload_entries: Objects::new(),
            sidecars: Objects::new(),
            authorization_policies: Objects::new(),
            peer_authentications: Objects::new(),
            request_authentications: Objects::new(),
            keys: BTreeMap::new(),
            cedar_policies: Objects::new(),
            broken_policies: Vec::new(),
            reports,
        }
    }

    /// What pods have of the namespaces and nodes that they are in.
    pub(super) fn place_pods(&mut self, is_files: bool) {
        let Self { pods, namespaces, nodes, .. } = self;
        for pod in pods.values_mut() {
            place(pod, namespaces, nodes, is_files);
        }
    }

    fn report_issues(&mut self, source: &SourceDocument) {
        let meta = &source.parsed.meta;
        let object = ObjectName {
            group: meta.group.as_str().into(),
            kind: meta.kind.as_str().into(),
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
        };
        self.reports.locate(object.clone(), Arc::clone(&source.document));
        if source.parsed.is_rejected() {
            self.reports.reject(object.clone(), meta.uid.as_deref().unwrap_or_default(), meta.generation);
        }
        for issue in &source.parsed.issues {
            self.reports.push(Diagnostic {
                code: issue.code.id(),
                severity: issue.severity,
                object: object.clone(),
                path: issue.path.to_string(),
                message: issue.message.clone(),
                file: Arc::clone(&source.document.file),
                line: source.document.line_of_issue(issue).unwrap_or(0),
            });
        }
    }

    /// Adds an object to those of its kind.
    pub(super) fn add(&mut self, parsed: &Parsed, templates: &mut Vec<kubernetes::Template>) {
        let head = head(&parsed.meta);
        let key = head.key.clone();
        match &parsed.object {
            Kind::Namespace(_) => {
                let Head { labels, annotations, .. } = head;
                self.namespaces.insert(key.name, core::Namespace { labels, annotations });
            }
            Kind::Node(_) => {
                self.nodes.insert(key.name, head.labels);
            }
            Kind::Service(service) => insert(&mut self.services, head, kubernetes::service(service)),
            Kind::EndpointSlice(slice) => {
                let service = head.labels.get("kubernetes.io/service-name").cloned().unwrap_or_default();
                insert(&mut self.endpoint_slices, head, kubernetes::slice(slice, service));
            }
            Kind::Pod(pod) => insert(&mut self.pods, head, kubernetes::pod(pod)),
            Kind::Deployment(deployment) => templates.extend(kubernetes::deployment(head, deployment)),
            Kind::StatefulSet(set) => templates.extend(kubernetes::stateful_set(head, set)),
            Kind::Secret(secret) => {
                let entries = secret.data.iter().map(|(k, v)| (k.clone(), Arc::from(v.as_slice()))).collect();
                insert(&mut self.secrets, head, core::KeyedBytes { entries });
            }
            Kind::ConfigMap(map) => insert(&mut self.config_maps, head, kubernetes::config_map(map)),
            Kind::GatewayClass(class) => insert(&mut self.gateway_classes, head, (**class).clone()),
            Kind::Gateway(gateway) => insert(&mut self.api_gateways, head, (**gateway).clone()),
            Kind::HttpRoute(route) => insert(&mut self.http_routes, head, (**route).clone()),
            Kind::GrpcRoute(route) => insert(&mut self.grpc_routes, head, (**route).clone()),
            Kind::TlsRoute(route) => insert(&mut self.tls_routes, head, (**route).clone()),
            Kind::TcpRoute(route) => insert(&mut self.tcp_routes, head, (**route).clone()),
            Kind::ListenerSet(set) => insert(&mut self.listener_sets, head, (**set).clone()),
            Kind::UdpRoute(route) => insert(&mut self.udp_routes, head, (**route).clone()),
            Kind::BackendTlsPolicy(policy) => insert(&mut self.backend_tls_policies, head, (**policy).clone()),
            Kind::ReferenceGrant(grant) => insert(&mut self.reference_grants, head, (**grant).clone()),
            Kind::IstioGateway(gateway) => insert(&mut self.gateways, head, (**gateway).clone()),
            Kind::VirtualService(service) => insert(&mut self.virtual_services, head, (**service).clone()),
            Kind::DestinationRule(rule) => insert(&mut self.destination_rules, head, (**rule).clone()),
            Kind::ServiceEntry(entry) => insert(&mut self.service_entries, head, (**entry).clone()),
            Kind::WorkloadEntry(entry) => insert(&mut self.workload_entries, head, (**entry).clone()),
            Kind::Sidecar(sidecar) => insert(&mut self.sidecars, head, (**sidecar).clone()),
            Kind::AuthorizationPolicy(policy) => insert(&mut self.authorization_policies, head, (**policy).clone()),
            Kind::PeerAuthentication(policy) => insert(&mut self.peer_authentications, head, (**policy).clone()),
            Kind::RequestAuthentication(policy) => insert(&mut self.request_authentications, head, (**policy).clone()),
            Kind::CedarPolicy(policy) => insert(&mut self.cedar_policies, head, (**policy).clone()),
            Kind::Broken(broken) => self.add_broken(head, broken),
            // Checked and reported where they were read; nothing is compiled from them.
            Kind::ServiceAccount(_)
            | Kind::Telemetry(_)
            | Kind::PolicyTest(_)
            | Kind::Unknown { group: _, kind: _ } => {}
        }
    }

    /// A rejected document counts as absent, unless it is there to protect something.
    fn add_broken(&mut self, head: Head, broken: &Broken) {
        if broken.kind.is_policy() {
            self.broken_policies.push((head, broken.clone()));
        }
    }

    /// Pods of Deployments and StatefulSets that have none, and of gateways that nothing runs.
    fn add_pods_of(&mut self, templates: Vec<kubernetes::Template>) {
        // Only pods that are written count: one workload's made pods are none of another's.
        let missing: Vec<kubernetes::Template> = templates
            .into_iter()
            .filter(|template| !self.pods_in(&template.head.key.namespace).any(|pod| template.owns(&pod.head.labels)))
            .collect();
        for pod in missing.iter().flat_map(kubernetes::Template::pods) {
            if !self.pods.contains_key(&pod.head.key) {
                self.pods.insert(pod.head.key.clone(), pod);
            }
        }
        for service in gateway_pods::missing_services(self) {
            self.services.insert(service.head.key.clone(), service);
        }
        for pod in gateway_pods::missing(self) {
            if !self.pods.contains_key(&pod.head.key) {
                self.pods.insert(pod.head.key.clone(), pod);
            }
        }
    }

    fn assign_addresses(&mut self) {
        let mut addresses = Addresses::default();
        let slices = self.endpoint_slices.values().flat_map(|slice| &slice.spec.endpoints);
        let written = self
            .pods
            .values()
            .flat_map(|pod| &pod.spec.ips)
            .chain(self.services.values().flat_map(|service| &service.spec.addresses))
            .chain(slices.flat_map(|endpoint| &endpoint.addresses));
        for address in written {
            addresses.reserve(*address);
        }
        for (key, pod) in self.pods.iter_mut() {
            if pod.spec.ips.is_empty() {
                pod.spec.ips.extend(addresses.assign(Range::Pods, key));
            }
        }
        for (key, service) in self.services.iter_mut() {
            let needs_one = !service.spec.is_headless && service.spec.external_name.is_none();
            if needs_one && service.spec.addresses.is_empty() {
                for family in &service.spec.families {
                    let range = match family {
                        core::Family::V4 => Range::Services,
                        core::Family::V6 => Range::Services6,
                    };
                    service.spec.addresses.extend(addresses.assign(range, key));
                }
            }
        }
    }
}

/// What a pod has of its namespace and node.
pub(super) fn place(
    pod: &mut Object<core::Pod>,
    namespaces: &BTreeMap<Arc<str>, core::Namespace>,
    nodes: &BTreeMap<Arc<str>, BTreeMap<String, String>>,
    is_files: bool,
) {
    let namespace = namespaces.get(&pod.head.key.namespace).cloned().unwrap_or_default();
    pod.spec.locality = kubernetes::locality(pod, nodes);
    kubernetes::decide_injection(pod, &namespace, is_files);
}

fn insert<T>(objects: &mut Objects<T>, head: Head, spec: T) {
    objects.insert(head.key.clone(), Object { head, spec });
}

pub(super) fn head(meta: &Meta) -> Head {
    Head {
        group: meta.group.as_str().into(),
        kind: meta.kind.as_str().into(),
        key: ObjectKey::new(meta.namespace.as_str(), meta.name.as_str()),
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        generation: meta.generation,
        created: meta.creation_timestamp.map_or(i64::MIN, |time| time.as_second()),
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        allocated: (!meta.allocated.is_empty()).then(|| meta.allocated.as_slice().into()),
    }
}

/// One document per object: the last in order of file and line, as `kubectl apply` leaves it.
fn unique(documents: impl IntoIterator<Item = SourceDocument>, reports: &mut Reports) -> Vec<SourceDocument> {
    let mut sorted: Vec<(Location, SourceDocument)> =
        documents.into_iter().map(|source| (source.location(), source)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut by_object: BTreeMap<(String, String, String, String), SourceDocument> = BTreeMap::new();
    let mut nameless = Vec::new();
    for (location, source) in sorted {
        let meta = &source.parsed.meta;
        if meta.name.is_empty() {
            nameless.push(source);
            continue;
        }
        let key = (meta.group.clone(), meta.kind.clone(), meta.namespace.clone(), meta.name.clone());
        let line = location.line;
        if let Some(earlier) = by_object.insert(key, source.clone()) {
            let head = head(&earlier.parsed.meta);
            let message = format!("replaced by a later document for the same object, {}:{line}", location.file);
            let report = Report::warning(&head, Code::DuplicateObject, "metadata.name", &message);
            reports.push(report.at(earlier.document.file.clone(), earlier.location().line));
        }
    }
    by_object.into_values().chain(nameless).collect()
}

/// The mesh configuration from the ConfigMap `istio`, from the root namespace given, else from the control plane's.
pub(super) fn mesh_settings(
    documents: &[SourceDocument],
    options: &SourceOptions,
    reports: &mut Reports,
) -> MeshSettings {
    let namespace = options.control.root_namespace.as_ref().unwrap_or(&options.control.control_namespace);
    let in_namespace = |namespace: &str| {
        documents.iter().find_map(|source| match &source.parsed.object {
            Kind::ConfigMap(map) if source.parsed.meta.name == "istio" && source.parsed.meta.namespace == namespace => {
                Some((source, map.data.as_ref()?.get("mesh")?))
            }
            _ => None,
        })
    };
    let Some((source, text)) = in_namespace(namespace).or_else(|| in_namespace("istio-system")) else {
        return MeshSettings::new(&MeshConfig::default(), &options.control).0;
    };
    let (mesh, issues) = MeshConfig::parse(text);
    let head = head(&source.parsed.meta);
    for issue in issues {
        reports.push(Diagnostic {
            code: issue.code.id(),
            severity: issue.severity,
            object: ObjectName::of(&head),
            path: issue.path.to_string(),
            message: issue.message.clone(),
            file: Arc::clone(&source.document.file),
            line: source.document.line_of_issue(&issue).unwrap_or(0),
        });
    }
    // Never the defaults: they are wider than what the text, readable, might have said.
    let mesh = mesh.unwrap_or_else(MeshConfig::strict);
    for field in settings::not_served(&mesh) {
        let message = format!("mesh setting `{field}` is not served yet and has no effect");
        let report = Report::warning(&head, Code::NotServed, &format!("data.mesh.{field}"), &message);
        reports.push(report.at(Arc::clone(&source.document.file), source.location().line));
    }
    for (setting, name) in settings::not_spoken(&mesh) {
        let message = format!("`{name}` is not spoken: handshakes do without it");
        let report = Report::warning(&head, Code::NotServed, &format!("data.mesh.{setting}"), &message);
        reports.push(report.at(Arc::clone(&source.document.file), source.location().line));
    }
    let (settings, malformed) = MeshSettings::new(&mesh, &options.control);
    for value in malformed {
        let message = format!("`{value}` is not a trust domain");
        let report = Report::warning(&head, Code::MeshSetting, "data.mesh.trustDomain", &message);
        reports.push(report.at(Arc::clone(&source.document.file), source.location().line));
    }
    settings
}
