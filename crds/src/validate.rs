//! What admission checks beyond the schema: Istio's validating webhook, kind by kind.
//!
//! Errors exactly where `pkg/config/validation` of Istio 1.32 rejects, warnings where it warns.

mod authorization_policy;
mod destination_rule;
mod extension;
mod gateway;
mod header;
mod host;
mod l4_route;
mod locality;
mod policy_target;
mod request_authentication;
mod service_entry;
mod sidecar;
mod telemetry;
#[cfg(test)]
mod tests;
mod unreachable;
mod virtual_service;

pub(crate) use extension::{envoy_filter, proxy_config, traffic_extension, wasm_plugin, workload_group};

use std::collections::BTreeMap;

use crate::codes::Code;
use crate::duration::Duration;
use crate::issue::Issue;
use crate::istio::Action;
use crate::object::{Meta, Object};
use crate::path::Path;
use crate::schema::Cursor;
use crate::schema::formats::{is_label_value, is_qualified_name};

/// Reports what the webhook rejects or warns about.
pub(crate) fn validate(meta: &Meta, object: &Object, issues: &mut Vec<Issue>) {
    let mut root = Cursor::new(Path::root(), issues);
    if meta.group.ends_with(".istio.io") {
        annotations(meta, Some(object), &mut root);
    }
    root.within("spec", |cursor| match object {
        Object::VirtualService(spec) => virtual_service::check(meta, spec, cursor),
        Object::DestinationRule(spec) => destination_rule::check(meta, spec, cursor),
        Object::IstioGateway(spec) => gateway::check(meta, spec, cursor),
        Object::AuthorizationPolicy(spec) => authorization_policy::check(spec, cursor),
        Object::PeerAuthentication(spec) => policy_target::selector(spec.selector.as_ref(), cursor),
        Object::RequestAuthentication(spec) => request_authentication::check(spec, cursor),
        Object::ServiceEntry(spec) => service_entry::check(meta, spec, cursor),
        Object::WorkloadEntry(spec) => service_entry::check_entry(spec, cursor),
        Object::Sidecar(spec) => sidecar::check(meta, spec, cursor),
        Object::Telemetry(spec) => telemetry::check(spec, cursor),
        Object::TlsRoute(spec) => l4_route::check_tls(meta, spec, cursor),
        Object::TcpRoute(spec) => l4_route::check_rules(meta, &spec.rules, cursor),
        Object::UdpRoute(spec) => l4_route::check_rules(meta, &spec.rules, cursor),
        Object::CedarPolicy(spec) => {
            policy_target::selector(spec.selector.as_ref(), cursor);
            policy_target::targets(None, &spec.target_refs, Code::InvalidCombination, cursor);
        }
        Object::Namespace(_)
        | Object::Node(_)
        | Object::ServiceAccount(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Deployment(_)
        | Object::StatefulSet(_)
        | Object::Pod(_)
        | Object::Secret(_)
        | Object::ConfigMap(_)
        | Object::GatewayClass(_)
        | Object::Gateway(_)
        | Object::HttpRoute(_)
        | Object::GrpcRoute(_)
        | Object::BackendTlsPolicy(_)
        | Object::ListenerSet(_)
        | Object::ReferenceGrant(_)
        | Object::PolicyTest(_)
        | Object::Broken(_)
        | Object::Unknown { .. } => {}
    });
}

/// The same for a kind that nothing uses.
pub(crate) fn unused<T>(meta: &Meta, spec: Option<&T>, check: fn(&T, &mut Cursor<'_>), issues: &mut Vec<Issue>) {
    let mut root = Cursor::new(Path::root(), issues);
    annotations(meta, None, &mut root);
    if let Some(spec) = spec {
        root.within("spec", |cursor| check(spec, cursor));
    }
}

/// Annotations that Istio's webhook looks at on every kind.
fn annotations(meta: &Meta, object: Option<&Object>, cursor: &mut Cursor<'_>) {
    const DRY_RUN: &str = "istio.io/dry-run";
    const FORBIDDEN: [&str; 3] =
        ["internal.istio.io/webhook-always-reject", "internal.istio.io/parents", "internal.istio.io/parent-namespace"];
    cursor.within("metadata", |cursor| {
        cursor.within("annotations", |cursor| {
            for key in FORBIDDEN.into_iter().filter(|key| meta.annotations.contains_key(*key)) {
                cursor.report_at(key, Code::InvalidMetadata, format!("annotation `{key}` may not be set by users"));
            }
            let Some(value) = meta.annotations.get(DRY_RUN) else { return };
            let message = match object {
                Some(Object::AuthorizationPolicy(policy)) if matches!(policy.action, Action::Allow | Action::Deny) => {
                    (!is_go_bool(value)).then(|| format!("`{value}` is not a boolean; the policy is enforced"))
                }
                Some(Object::AuthorizationPolicy(_)) => {
                    Some("a dry run is only supported for the actions ALLOW and DENY".to_owned())
                }
                _ => Some(format!("annotation `{DRY_RUN}` is only supported on an AuthorizationPolicy")),
            };
            if let Some(message) = message {
                cursor.report_at(DRY_RUN, Code::InvalidMetadata, message);
            }
        });
    });
}

/// What Go's `strconv.ParseBool` takes.
fn is_go_bool(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True" | "0" | "f" | "F" | "false" | "FALSE" | "False")
}

/// Istio counts durations in whole milliseconds, at least one.
fn duration(field: &str, duration: Option<Duration>, code: Code, cursor: &mut Cursor<'_>) {
    let Some(duration) = duration else { return };
    if duration < Duration::from_millis(1) {
        cursor.report_at(field, code, format!("`{duration}` is shorter than 1ms"));
    } else if duration.as_nanos() % 1_000_000 != 0 {
        cursor.report_at(field, code, format!("`{duration}` is not a whole number of milliseconds"));
    }
}

fn port(field: &str, number: u32, code: Code, cursor: &mut Cursor<'_>) {
    if !is_port(number) {
        cursor.report_at(field, code, format!("`{number}` is not a port between 1 and 65535"));
    }
}

fn is_port(number: u32) -> bool {
    (1..=65535).contains(&number)
}

fn percent(field: &str, value: i32, code: Code, cursor: &mut Cursor<'_>) {
    if !(0..=100).contains(&value) {
        cursor.report_at(field, code, format!("`{value}` is not between 0 and 100"));
    }
}

fn labels(field: &str, labels: &BTreeMap<String, String>, code: Code, cursor: &mut Cursor<'_>) {
    cursor.within(field, |cursor| {
        for (key, value) in labels {
            if !is_qualified_name(&key.to_ascii_lowercase()) {
                cursor.report_at(key.as_str(), code, format!("`{key}` is not a label key"));
            }
            // Istio does not limit the length of the value here.
            if !value.split_at_checked(63).map_or_else(|| is_label_value(value), |_| is_long_label_value(value)) {
                cursor.report_at(key.as_str(), code, format!("`{value}` is not a label value"));
            }
        }
    });
}

fn is_long_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Namespaces that see an object: `*`, `.`, names; `~` only where the kind has it.
fn export_to(namespace: &str, export_to: &[String], may_be_nobody: bool, code: Code, cursor: &mut Cursor<'_>) {
    cursor.within("exportTo", |cursor| {
        for (index, entry) in export_to.iter().enumerate() {
            let resolved = |entry: &str| if entry == "." { namespace.to_owned() } else { entry.to_owned() };
            if export_to.iter().take(index).any(|earlier| resolved(earlier) == resolved(entry)) {
                cursor.report_at(index, code, format!("`{entry}` is listed twice"));
            } else if entry == "~" && !may_be_nobody {
                cursor.report_at(index, code, "`~` is not allowed here");
            } else if !matches!(entry.as_str(), "*" | "." | "~") && !host::is_label(entry) {
                cursor.report_at(index, code, format!("`{entry}` is neither `*`, `.` nor a namespace name"));
            }
        }
        for lone in
            ["*", "~"].into_iter().filter(|lone| export_to.len() > 1 && export_to.iter().any(|entry| entry == lone))
        {
            cursor.report(code, format!("`{lone}` cannot be combined with other entries"));
        }
    });
}

/// The protocols that Istio knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Https,
    Tls,
    /// TCP and what is carried as such.
    Opaque,
    Udp,
}

impl Protocol {
    fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "http" | "http2" | "http_proxy" | "grpc" | "grpc-web" => Some(Self::Http),
            "https" => Some(Self::Https),
            "tls" => Some(Self::Tls),
            "tcp" | "mongo" | "redis" | "mysql" => Some(Self::Opaque),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }

    fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// In Istio's sense: a connection that is carried without being understood.
    fn is_tcp(self) -> bool {
        matches!(self, Self::Https | Self::Tls | Self::Opaque)
    }
}
