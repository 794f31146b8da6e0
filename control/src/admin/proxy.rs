//! `/proxies/NAMESPACE/NAME`: one proxy with everything that it should hold.

use axum::http::StatusCode;
use palisade_model::{resource::Entry, settings::WorkloadRef};
use serde_json::{Map, Value, json};

use super::{Answer, describe};
use crate::{fleet::ProxyRecord, serve::Shared};

pub(super) fn page(shared: &Shared, pod: &WorkloadRef) -> Answer {
    // Of several streams the newest comes last.
    let Some(record) = shared.fleet().proxies().into_iter().rfind(|record| record.pod == *pod) else {
        let error = format!("no proxy of pod {}/{} is connected", pod.namespace, pod.name);
        return Answer::json(StatusCode::NOT_FOUND, &json!({"error": error}));
    };
    Answer::json(StatusCode::OK, &json!({"proxy": describe(&record), "content": content(&record)}))
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
