//! `/proxies/NAMESPACE/NAME`: one proxy with everything that it should hold.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use palisade_model::resource::Entry;
use serde_json::{Map, Value, json};

use super::describe;
use crate::{fleet::ProxyRecord, serve::Shared};

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let is_meant = |record: &ProxyRecord| *record.pod.namespace == *namespace && *record.pod.name == *name;
    // Of several streams the newest comes last.
    let Some(record) = shared.fleet().proxies().into_iter().rfind(is_meant) else {
        let error = format!("no proxy of pod {namespace}/{name} is connected");
        return (StatusCode::NOT_FOUND, Json(json!({"error": error}))).into_response();
    };
    Json(json!({"proxy": describe(&record), "content": content(&record)})).into_response()
}

/// Resources by kind: what each was made from, and whether the proxy has it.
fn content(record: &ProxyRecord) -> Map<String, Value> {
    let mut kinds: Map<String, Value> = Map::new();
    let entries = record.target.iter().flat_map(|target| target.entries().values());
    for entry in entries {
        let of_kind = kinds.entry(entry.key().kind.as_str()).or_insert_with(|| Vec::<Value>::new().into());
        if let Some(list) = of_kind.as_array_mut() {
            list.push(json!({
                "name": entry.key().name,
                "hash": entry.hash().to_string(),
                "state": state(record, entry),
                "origins": entry.meta().origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
                // Private keys are left out of every form that people read.
                "resource": serde_json::to_value(entry.resource()).unwrap_or_default(),
            }));
        }
    }
    kinds
}

fn state(record: &ProxyRecord, entry: &Entry) -> &'static str {
    let held = record.acked.as_ref().and_then(|(offer, _)| offer.snapshot().entries().get(entry.key()));
    if held.is_some_and(|held| held.hash() == entry.hash()) {
        "acked"
    } else if record.withheld.iter().any(|item| item.key == *entry.key()) {
        "withheld"
    } else {
        "pending"
    }
}
