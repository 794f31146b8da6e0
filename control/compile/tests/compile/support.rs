//! What the tests of this crate share: documents in, snapshots out.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{Compiled, Inputs, ProxyRef, SourceDocument, SourceOptions, compile, scope};
use palisade_model::{
    resource::{Resource, ResourceKind},
    service::Query,
    snapshot::Snapshot,
};

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
