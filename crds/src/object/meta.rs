//! Who an object is: the part of `metadata` that matters here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::KnownKind;
use crate::codes::Code;
use crate::schema::formats::{is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name};
use crate::schema::{Cursor, Decode, present, shorten};

/// Who an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// API group; empty is the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    /// Empty only if the document has none, which is an error.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Absent in files as a rule: all such objects are equally old.
    pub creation_timestamp: Option<Timestamp>,
    /// Set by an API server.
    pub uid: Option<String>,
    /// Set by an API server; 0 if absent.
    pub generation: i64,
    /// Addresses that a controller has given to hosts: `status.addresses` of a ServiceEntry. What is none is left out: it is no
    /// part of what a user writes.
    pub allocated: Vec<(String, IpAddr)>,
}

/// Reads `metadata`. What cannot be read is reported and left out.
pub(super) fn read(
    fields: &Map<String, Value>,
    identity: Meta,
    known: Option<&KnownKind>,
    default_namespace: &str,
    cursor: &mut Cursor<'_>,
) -> Meta {
    let mut meta = identity;
    let is_namespaced = known.is_none_or(|known| known.is_namespaced);
    let empty = Map::new();
    let metadata = match present(fields, "metadata") {
        Some(Value::Object(metadata)) => metadata,
        Some(other) => {
            cursor.within("metadata", |cursor| cursor.wrong_type("an object", other));
            &empty
        }
        None => &empty,
    };
    cursor.within("metadata", |cursor| {
        meta.name = text(metadata, "name", cursor).unwrap_or_default();
        let namespace = text(metadata, "namespace", cursor).filter(|namespace| !namespace.is_empty());
        if is_namespaced {
            meta.namespace = namespace.unwrap_or_else(|| default_namespace.to_owned());
        }
        meta.labels = texts(metadata, "labels", cursor);
        meta.annotations = texts(metadata, "annotations", cursor);
        meta.uid = text(metadata, "uid", cursor);
        meta.generation = present(metadata, "generation").and_then(Value::as_i64).unwrap_or(0);
        meta.creation_timestamp = text(metadata, "creationTimestamp", cursor).and_then(|text| {
            let timestamp = text.parse().ok();
            if timestamp.is_none() {
                cursor.report_at(
                    "creationTimestamp",
                    Code::InvalidMetadata,
                    format!("`{}` is not a time such as `2026-01-31T12:00:00Z`", shorten(&text)),
                );
            }
            timestamp
        });
        if known.is_some() {
            check(&meta, cursor);
            unused_fields(metadata, cursor);
        }
    });
    if meta.kind == "ServiceEntry" {
        meta.allocated = allocated(fields);
    }
    meta
}

fn allocated(fields: &Map<String, Value>) -> Vec<(String, IpAddr)> {
    let list = present(fields, "status").and_then(|status| status.get("addresses")).and_then(Value::as_array);
    let entry = |entry: &Value| {
        let text = |key| entry.get(key).and_then(Value::as_str);
        Some((text("host")?.to_ascii_lowercase(), text("value")?.parse().ok()?))
    };
    list.into_iter().flatten().filter_map(entry).collect()
}

fn text(metadata: &Map<String, Value>, key: &str, cursor: &mut Cursor<'_>) -> Option<String> {
    present(metadata, key).and_then(|value| cursor.within(key, |cursor| String::decode(value, cursor)))
}

fn texts(metadata: &Map<String, Value>, key: &str, cursor: &mut Cursor<'_>) -> BTreeMap<String, String> {
    let read: Option<BTreeMap<String, String>> = present(metadata, key)
        .map_or(Some(BTreeMap::new()), |value| cursor.within(key, |cursor| Decode::decode(value, cursor)));
    // An unreadable map was reported, so the whole document is a rejected one.
    read.unwrap_or_default()
}

/// Types of the fields that nothing here reads: with a wrong one the object cannot be decoded.
fn unused_fields(metadata: &Map<String, Value>, cursor: &mut Cursor<'_>) {
    for key in ["generateName", "resourceVersion", "selfLink"] {
        text(metadata, key, cursor);
    }
    for key in ["generation", "deletionGracePeriodSeconds"] {
        if let Some(value) = present(metadata, key) {
            cursor.within(key, |cursor| i64::decode(value, cursor));
        }
    }
    for (key, is_of_texts) in [("finalizers", true), ("ownerReferences", false), ("managedFields", false)] {
        let Some(value) = present(metadata, key) else { continue };
        cursor.within(key, |cursor| match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate().filter(|(_, item)| !item.is_null()) {
                    cursor.within(index, |cursor| match (is_of_texts, item) {
                        (true, Value::String(_)) | (false, Value::Object(_)) => {}
                        (true, _) => cursor.wrong_type("a text", item),
                        (false, _) => cursor.wrong_type("an object", item),
                    });
                }
            }
            other => cursor.wrong_type("a list", other),
        });
    }
    if let Some(time) = text(metadata, "deletionTimestamp", cursor)
        && time.parse::<Timestamp>().is_err()
    {
        let message = format!("`{}` is not a time such as `2026-01-31T12:00:00Z`", shorten(&time));
        cursor.report_at("deletionTimestamp", Code::InvalidMetadata, message);
    }
}

/// What the Kubernetes API asks of every object.
fn check(meta: &Meta, cursor: &mut Cursor<'_>) {
    if meta.name.is_empty() {
        cursor.report_at("name", Code::InvalidMetadata, "`name` is required");
    } else {
        let is_valid = match meta.kind.as_str() {
            "Service" if meta.group.is_empty() => {
                is_dns_label(&meta.name) && !meta.name.starts_with(|c: char| c.is_ascii_digit())
            }
            "Namespace" if meta.group.is_empty() => is_dns_label(&meta.name),
            _ => meta.name.len() <= 253 && is_dns_subdomain(&meta.name),
        };
        if !is_valid {
            cursor.report_at("name", Code::InvalidMetadata, format!("`{}` is not a valid name", shorten(&meta.name)));
        }
    }
    if !meta.namespace.is_empty() && !is_dns_label(&meta.namespace) {
        cursor.report_at(
            "namespace",
            Code::InvalidMetadata,
            format!("`{}` is not a valid namespace name", shorten(&meta.namespace)),
        );
    }
    cursor.within("labels", |cursor| {
        for (key, value) in &meta.labels {
            if !is_qualified_name(key) {
                cursor.report_at(
                    key.as_str(),
                    Code::InvalidMetadata,
                    format!("`{}` is not a valid label key", shorten(key)),
                );
            }
            if !is_label_value(value) {
                cursor.report_at(
                    key.as_str(),
                    Code::InvalidMetadata,
                    format!("`{}` is not a valid label value", shorten(value)),
                );
            }
        }
    });
    cursor.within("annotations", |cursor| {
        for key in meta.annotations.keys().filter(|key| !is_qualified_name(&key.to_lowercase())) {
            cursor.report_at(
                key.as_str(),
                Code::InvalidMetadata,
                format!("`{}` is not a valid annotation key", shorten(key)),
            );
        }
    });
}
