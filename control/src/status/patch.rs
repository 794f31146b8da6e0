//! One write: server-side apply of a status, of exactly the object that was looked at.

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use palisade_compile::ObjectName;
use serde_json::{Value, json};

use super::{FIELD_MANAGER, kinds::ServedKind, observed::Seen};

/// A write that is to be done.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) name: ObjectName,
    /// The object as it was looked at: anything that came between refuses the write.
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) status: Value,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Written; the object as it is now.
    Done(Box<Seen>),
    /// Somebody changed the object in between.
    Conflict,
    /// There is no such object, or its kind has no status.
    Gone,
    /// The API server is overloaded, or away.
    Busy(String),
    /// The API server will not have it.
    Refused(String),
}

/// Writes.
pub(super) async fn apply(client: Client, kind: ServedKind, write: &Write) -> Outcome {
    let Write { name, uid, version, status } = write;
    let api: Api<Seen> = if name.namespace.is_empty() {
        Api::all_with(client, &kind.resource)
    } else {
        Api::namespaced_with(client, &name.namespace, &kind.resource)
    };
    let mut metadata = serde_json::Map::new();
    metadata.insert("name".to_owned(), json!(name.name));
    if !name.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), json!(name.namespace));
    }
    metadata.insert("uid".to_owned(), json!(uid));
    metadata.insert("resourceVersion".to_owned(), json!(version));
    let body = json!({
        "apiVersion": kind.resource.api_version,
        "kind": kind.resource.kind,
        "metadata": metadata,
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name.name, &params, &Patch::Apply(&body)).await {
        Ok(seen) => Outcome::Done(Box::new(seen)),
        Err(kube::Error::Api(status)) => match status.code {
            409 => Outcome::Conflict,
            404 => Outcome::Gone,
            429 | 500..=599 => Outcome::Busy(status.message.clone()),
            _ => Outcome::Refused(format!("{} ({})", status.message, status.code)),
        },
        Err(error) => Outcome::Busy(error.to_string()),
    }
}
