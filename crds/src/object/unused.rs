//! Kinds that are checked as admission would, and then dropped: nothing uses them.

use serde_json::{Map, Value};

use super::read::spec_of;
use super::{KnownKind, Meta};
use crate::issue::Issue;
use crate::schema::Decode;
use crate::{istio, validate};

/// Checks a document of such a kind; `false` for every other kind.
pub(super) fn check(known: &KnownKind, meta: &Meta, fields: &Map<String, Value>, issues: &mut Vec<Issue>) -> bool {
    match (known.group, known.kind) {
        (_, "WorkloadGroup") => {
            let group = required::<istio::WorkloadGroup>(known, fields, issues);
            validate::unused(meta, group.as_ref(), validate::workload_group, issues);
        }
        (_, "WasmPlugin") => {
            let plugin = required::<istio::WasmPlugin>(known, fields, issues);
            validate::unused(meta, plugin.as_ref(), validate::wasm_plugin, issues);
        }
        (_, "TrafficExtension") => {
            let extension = required::<istio::TrafficExtension>(known, fields, issues);
            validate::unused(meta, extension.as_ref(), validate::traffic_extension, issues);
        }
        (_, "EnvoyFilter") => {
            let filter = spec_of::<istio::EnvoyFilter>(known, fields, false, issues);
            validate::unused(meta, filter.as_ref(), validate::envoy_filter, issues);
        }
        (_, "ProxyConfig") => {
            let config = spec_of::<istio::WorkloadProxyConfig>(known, fields, false, issues);
            validate::unused(meta, config.as_ref(), validate::proxy_config, issues);
        }
        _ => return false,
    }
    true
}

fn required<T: Decode>(known: &KnownKind, fields: &Map<String, Value>, issues: &mut Vec<Issue>) -> Option<T> {
    spec_of::<T>(known, fields, true, issues)
}
