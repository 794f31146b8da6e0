//! Kinds that change the proxy itself: WasmPlugin, TrafficExtension, EnvoyFilter, ProxyConfig; and WorkloadGroup.

use serde_json::Value;

use super::{labels, policy_target};
use crate::codes::Code;
use crate::istio::{
    ApplyTo, ConfigMatch, ConfigPatch, EnvoyFilter, FilterMatch, PatchContext, PatchOperation, ReadinessProbe,
    TrafficExtension, WasmPlugin, WorkloadGroup, WorkloadProxyConfig,
};
use crate::schema::Cursor;

const CODE: Code = Code::ExtensionRule;

pub(crate) fn wasm_plugin(plugin: &WasmPlugin, cursor: &mut Cursor<'_>) {
    policy_target::selector(plugin.selector.as_ref(), cursor);
    policy_target::targets(plugin.target_ref.as_ref(), &plugin.target_refs, CODE, cursor);
}

pub(crate) fn traffic_extension(extension: &TrafficExtension, cursor: &mut Cursor<'_>) {
    policy_target::selector(extension.selector.as_ref(), cursor);
    policy_target::targets(None, &extension.target_refs, CODE, cursor);
}

pub(crate) fn proxy_config(config: &WorkloadProxyConfig, cursor: &mut Cursor<'_>) {
    policy_target::selector(config.selector.as_ref(), cursor);
}

pub(crate) fn workload_group(group: &WorkloadGroup, cursor: &mut Cursor<'_>) {
    if let Some(metadata) = &group.metadata {
        cursor.within("metadata", |cursor| labels("labels", &metadata.labels, CODE, cursor));
    }
    let Some(ReadinessProbe { http_get: None, tcp_socket: None, exec, .. }) = &group.probe else { return };
    match exec {
        Some(exec) if exec.command.is_empty() => cursor.within("probe", |cursor| {
            cursor.within("exec", |cursor| cursor.report_at("command", CODE, "a command is required"));
        }),
        Some(_) => {}
        None => cursor.report_at("probe", CODE, "one of `httpGet`, `tcpSocket` and `exec` must be set"),
    }
}

pub(crate) fn envoy_filter(filter: &EnvoyFilter, cursor: &mut Cursor<'_>) {
    if filter.workload_selector.as_ref().is_some_and(|selector| selector.labels.is_empty()) {
        let message = "a selector without labels selects every workload of the namespace";
        cursor.report_at("workloadSelector", Code::PolicyAttachment, message);
    }
    cursor.within("configPatches", |cursor| {
        for (index, patch) in filter.config_patches.iter().enumerate() {
            cursor.within(index, |cursor| config_patch(patch, cursor));
        }
    });
}

fn config_patch(change: &ConfigPatch, cursor: &mut Cursor<'_>) {
    let ConfigPatch { apply_to, r#match: matched, patch } = change;
    if matched.as_ref().is_some_and(|matched| matched.context == Some(PatchContext::Waypoint)) {
        return;
    }
    if *apply_to == ApplyTo::Invalid {
        return cursor.report_at("applyTo", CODE, "`applyTo` is required");
    }
    let Some(patch) = patch else { return cursor.report_at("patch", CODE, "`patch` is required") };
    if patch.operation == PatchOperation::Invalid {
        return cursor.within("patch", |cursor| cursor.report_at("operation", CODE, "`operation` is required"));
    }
    if patch.operation != PatchOperation::Remove && patch.value.is_none() {
        let message = "`value` is required unless the operation is REMOVE";
        return cursor.within("patch", |cursor| cursor.report_at("value", CODE, message));
    }
    if patch.value.as_ref().is_some_and(|value| value.iter().any(|(key, value)| names_old_type(key, value))) {
        let message = "`@type` names a type of Envoy's API v2, which is gone";
        cursor.within("patch", |cursor| cursor.report_at("value", CODE, message));
    }
    if let Some(matched) = matched {
        cursor.within("match", |cursor| config_match(*apply_to, matched, cursor));
    }
}

/// Whether a value or anything inside it is of a type of the API v2. Documents are not nested without bounds.
fn names_old_type(key: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => key == "@type" && text.contains(".v2."),
        Value::Array(items) => items.iter().any(|item| names_old_type("", item)),
        Value::Object(fields) => fields.iter().any(|(key, value)| names_old_type(key, value)),
        _ => false,
    }
}

fn config_match(apply_to: ApplyTo, matched: &ConfigMatch, cursor: &mut Cursor<'_>) {
    const LONGEST: usize = 1024;
    let ConfigMatch { context: _, proxy, listener, route_configuration, cluster, waypoint: _ } = matched;
    if let Some(proxy) = proxy
        && proxy.proxy_version.len() <= LONGEST
        && let Err(error) = crate::re2::translate(&proxy.proxy_version)
    {
        return cursor.within("proxy", |cursor| cursor.report_at("proxyVersion", CODE, error.to_string()));
    }
    let (fits, wanted) = match apply_to {
        ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter => {
            (route_configuration.is_none() && cluster.is_none(), "listener")
        }
        ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
            (listener.is_none() && cluster.is_none(), "routeConfiguration")
        }
        ApplyTo::Cluster => (listener.is_none() && route_configuration.is_none(), "cluster"),
        ApplyTo::Invalid | ApplyTo::ExtensionConfig | ApplyTo::Bootstrap | ApplyTo::ListenerFilter => return,
    };
    if !fits {
        return cursor.report(CODE, format!("`applyTo: {}` is matched by `{wanted}` alone", apply_to.as_str()));
    }
    let filter = listener.as_ref().and_then(|listener| listener.filter_chain.as_ref()?.filter.as_ref());
    if let Some(filter) = filter.filter(|_| wanted == "listener")
        && let Err(message) = filter_match(apply_to, filter)
    {
        cursor.within("listener", |cursor| {
            cursor.within("filterChain", |cursor| cursor.report_at("filter", CODE, message));
        });
    }
}

fn filter_match(apply_to: ApplyTo, filter: &FilterMatch) -> Result<(), &'static str> {
    const HTTP_CONNECTION_MANAGER: [&str; 2] =
        ["envoy.filters.network.http_connection_manager", "envoy.http_connection_manager"];
    if filter.name.is_empty() {
        return Err("a filter is matched by its name");
    }
    let Some(inner) = &filter.sub_filter else { return Ok(()) };
    if apply_to != ApplyTo::HttpFilter {
        return Err("`subFilter` goes with `applyTo: HTTP_FILTER` alone");
    }
    if !HTTP_CONNECTION_MANAGER.contains(&filter.name.as_str()) {
        return Err("`subFilter` goes with the HTTP connection manager alone");
    }
    if inner.name.is_empty() { Err("a filter is matched by its name") } else { Ok(()) }
}
