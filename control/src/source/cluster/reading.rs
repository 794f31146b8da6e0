//! A cluster's documents, read once: for those who ask and go.

use std::collections::BTreeSet;

use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
};
use palisade_compile::{Inputs, Reference, ReferenceKind, SourceDocument, SourceOptions, references};
use palisade_crds::{Document, Documents};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    discovery,
    kinds::{Kind, Reading},
    mesh_config, trim,
};

/// Objects per page of a list.
const PAGE: u32 = 500;

/// Why a cluster's documents cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadClusterError {
    /// What the API serves.
    #[error("the Kubernetes API does not say what it serves: {0}")]
    Discovery(#[source] Box<kube::Error>),
    /// Objects of a kind.
    #[error("{kind} cannot be listed: {source}")]
    List {
        /// The kind.
        kind: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// One object that documents refer to.
    #[error("{kind} {namespace}/{name} cannot be read: {source}")]
    Get {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// Reads every document of a cluster that compiling reads, once.
///
/// # Errors
/// When a kind that is served cannot be read. A Secret or ConfigMap that is not there is left out.
pub async fn read_cluster(client: &Client, options: &SourceOptions) -> Result<Documents, ReadClusterError> {
    let kinds: BTreeSet<Kind> = Kind::of_crds().collect();
    let served =
        discovery::served(client, kinds).await.map_err(|error| ReadClusterError::Discovery(Box::new(error)))?;
    let mut values = Vec::new();
    for (kind, version) in Kind::built_in().map(|kind| (kind, "v1")).chain(served) {
        let resource = kind.resource(version);
        let failed = |error| ReadClusterError::List { kind: kind.kind, source: Box::new(error) };
        list(client, kind, &resource, &mut values).await.map_err(failed)?;
    }
    let mut documents: Vec<Document> = values.into_iter().map(Document::from_value).collect();
    let sources = documents.iter().cloned().map(|document| SourceDocument::parse(document, "default"));
    let mut wanted = mesh_config(options);
    wanted.extend(references(&Inputs::new(sources, options)));
    for reference in wanted {
        documents.extend(referenced(client, &reference).await?.map(Document::from_value));
    }
    Ok(Documents { documents, unreadable: Vec::new() })
}

async fn list(client: &Client, kind: Kind, resource: &ApiResource, values: &mut Vec<Value>) -> kube::Result<()> {
    match kind.reading() {
        Reading::Metadata => {
            let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), resource);
            pages(&api, kind, |object| values.push(trim::metadata(resource, object))).await
        }
        Reading::Pods => pages(&Api::all(client.clone()), kind, |pod| values.push(trim::pod(resource, pod))).await,
        Reading::Whole => {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
            pages(&api, kind, |object| values.push(trim::whole(kind, resource, object))).await
        }
    }
}

async fn pages<K>(api: &Api<K>, kind: Kind, mut take: impl FnMut(K)) -> kube::Result<()>
where
    K: Resource + ResourceExt + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut parameters = ListParams::default().limit(PAGE);
    parameters.field_selector = kind.fields().map(str::to_owned);
    loop {
        let page = api.list(&parameters).await?;
        page.items.into_iter().for_each(&mut take);
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => parameters.continue_token = Some(next),
            None => return Ok(()),
        }
    }
}

async fn referenced(client: &Client, reference: &Reference) -> Result<Option<Value>, ReadClusterError> {
    let kind = match reference.kind {
        ReferenceKind::Secret => "Secret",
        ReferenceKind::ConfigMap => "ConfigMap",
    };
    let resource = Kind { group: "", kind }.resource("v1");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &reference.namespace, &resource);
    let found = api.get_opt(&reference.name).await.map_err(|error| ReadClusterError::Get {
        kind,
        namespace: reference.namespace.to_string(),
        name: reference.name.to_string(),
        source: Box::new(error),
    })?;
    Ok(found.map(|object| trim::whole(Kind { group: "", kind }, &resource, object)))
}
