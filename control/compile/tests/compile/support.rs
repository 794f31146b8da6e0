//! What the tests of this crate share: documents in, snapshots out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_compile::{
    Compiled, Inputs, ProxyRef, SourceDocument, SourceOptions, compile, scope,
    status::{self, Acked, Acks, Concern, StatusOptions},
};
use palisade_model::{
    origin::Origin,
    resource::{Resource, ResourceKind},
    route::RouteRule,
    service::Query,
    snapshot::Snapshot,
};

/// Every object's status where each concerns two proxies, both of which do what it says.
pub(crate) fn statuses(compiled: &Compiled) -> String {
    struct Both;
    impl Acks for Both {
        fn enforced(&self, _: &Origin, _: &Concern) -> Acked {
            Acked { by: 2, of: 2, ..Acked::default() }
        }

        fn programmed(&self, object: &Origin, concern: &Concern) -> Acked {
            self.enforced(object, concern)
        }
    }
    let options = StatusOptions { gateway_api_version: Some("v1.6.0".to_owned()), ..StatusOptions::default() };
    let all = status::statuses(&compiled.mesh, &compiled.reports, &options);
    let rendered: BTreeMap<String, serde_json::Value> =
        all.objects.values().map(|status| (status.origin.to_string(), status.render(&Both))).collect();
    serde_json::to_string_pretty(&rendered).unwrap() + "\n"
}

/// Documents of a text, in the order of the text.
pub(crate) fn documents(file: &str, text: &str) -> Vec<SourceDocument> {
    let read = palisade_crds::document::read(file, text.as_bytes());
    assert!(read.unreadable.is_empty(), "{:?}", read.unreadable);
    read.documents.into_iter().map(|document| SourceDocument::parse(document, "default")).collect()
}

/// Compiles documents as files.
pub(crate) fn compile_all(documents: Vec<SourceDocument>) -> Compiled {
    let options = SourceOptions { is_files: true, ..SourceOptions::default() };
    compile(&Arc::new(Inputs::new(documents, &options)))
}

/// Compiles a text as a file.
pub(crate) fn compile_text(text: &str) -> Compiled {
    compile_all(documents("in.yaml", text))
}

/// A proxy's snapshot with subscriptions to these hosts.
pub(crate) fn snapshot(compiled: &Compiled, proxy: &ProxyRef, hosts: &[&str]) -> Snapshot {
    let queries: BTreeSet<Query> = hosts.iter().map(|host| Query::Host((*host).into())).collect();
    scope(&compiled.mesh, proxy, &queries).unwrap()
}

/// One resource of a snapshot.
pub(crate) fn resource<'a>(snapshot: &'a Snapshot, kind: ResourceKind, name: &str) -> Option<&'a Resource> {
    snapshot.get(kind, name).map(|entry| entry.resource())
}

/// Names of all resources of a kind.
pub(crate) fn names(snapshot: &Snapshot, kind: ResourceKind) -> Vec<String> {
    snapshot.of_kind(kind).map(|entry| entry.key().name.to_string()).collect()
}

/// A Service with these ports.
pub(crate) fn service(name: &str, namespace: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{ports}]}}\n---\n"
    )
}

/// A Pod labelled by its name.
pub(crate) fn pod(name: &str, namespace: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}{extra}}}\n\
         spec: {{containers: [{{name: c, image: i}}]}}\n---\n"
    )
}

/// An Istio document.
pub(crate) fn istio(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    let group = match kind {
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => "security",
        _ => "networking",
    };
    format!(
        "apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

/// The snapshot of a proxy for documents.
pub(crate) fn of(text: &str, proxy: &ProxyRef, hosts: &[&str]) -> Snapshot {
    snapshot(&compile_text(text), proxy, hosts)
}

/// A cluster by name.
pub(crate) fn cluster<'a>(snapshot: &'a Snapshot, name: &str) -> &'a palisade_model::cluster::Cluster {
    match resource(snapshot, ResourceKind::Cluster, name) {
        Some(Resource::Cluster(cluster)) => cluster,
        _ => panic!("no cluster {name}; there are {:?}", names(snapshot, ResourceKind::Cluster)),
    }
}

/// All route rules.
pub(crate) fn routes(snapshot: &Snapshot) -> Vec<&RouteRule> {
    snapshot
        .of_kind(ResourceKind::Route)
        .filter_map(|entry| match entry.resource() {
            Resource::Route(rule) => Some(rule),
            _ => None,
        })
        .collect()
}

/// Keys of the rules that a virtual host tries, in order.
pub(crate) fn rules_at(snapshot: &Snapshot, table: &str, name: &str) -> Vec<String> {
    match resource(snapshot, ResourceKind::VirtualHost, &format!("{table} {name}")) {
        Some(Resource::VirtualHost(host)) => host.entries.iter().map(|entry| entry.rule.to_string()).collect(),
        _ => panic!("no virtual host; there are {:?}", names(snapshot, ResourceKind::VirtualHost)),
    }
}

/// A client in namespace `a`.
pub(crate) fn client() -> ProxyRef {
    ProxyRef::sidecar("a", "client")
}

/// The usual port.
pub(crate) const HTTP: &str = "{name: http, port: 80}";
