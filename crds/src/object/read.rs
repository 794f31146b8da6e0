//! Reads a document into its typed object.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Broken, KnownKind, Meta, Object, Parsed, Support, known_kind, meta, unused};
use crate::codes::Code;
use crate::document::Document;
use crate::issue::Issue;
use crate::kubernetes::Defaults;
use crate::path::Path;
use crate::schema::{Cursor, Decode, nearest, present};
use crate::{compatibility, gateway_api, istio, kubernetes, palisade, validate};

/// Reads a document: types, schema and all that admission checks. An object without namespace belongs to `default_namespace`.
///
/// Never fails: what is wrong is in [`Parsed::issues`], and what is left of it in [`Parsed::object`].
#[must_use]
pub fn parse(document: &Document, default_namespace: &str) -> Parsed {
    let mut issues = Vec::new();
    let (meta, object) = read(&document.value, default_namespace, &mut issues);
    Parsed { meta, object, issues }
}

fn read(value: &Value, default_namespace: &str, issues: &mut Vec<Issue>) -> (Meta, Object) {
    let mut refuse = |message: &str| {
        issues.push(Issue::new(Code::NotAnObject, Path::root(), message));
        (Meta::default(), Object::Unknown { group: String::new(), kind: String::new() })
    };
    let Value::Object(fields) = value else {
        return refuse("a document must be a mapping with `apiVersion` and `kind`");
    };
    let (Some(api_version), Some(kind)) =
        (present(fields, "apiVersion").and_then(Value::as_str), present(fields, "kind").and_then(Value::as_str))
    else {
        return refuse("a document must have `apiVersion` and `kind`");
    };
    if kind.is_empty() {
        return refuse("`kind` must not be empty");
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let identity =
        Meta { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned(), ..Meta::default() };
    let known = known_kind(group, kind);
    let meta = meta::read(fields, identity, known, default_namespace, &mut Cursor::new(Path::root(), issues));
    let unknown = Object::Unknown { group: group.to_owned(), kind: kind.to_owned() };
    let Some(known) = known else {
        issues.push(Issue::new(
            Code::ForeignKind,
            Path::root().join("kind"),
            format!("documents of kind `{kind}` ({api_version}) are not used"),
        ));
        return (meta, unknown);
    };
    if !known.versions.contains(&version) {
        let message = format!("{kind} has no version `{version}`; served are {}", known.versions.join(", "));
        issues.push(Issue::new(Code::VersionNotServed, Path::root().join("apiVersion"), message));
        return (meta, Object::Broken(Box::new(Broken::new(known, fields.get("spec"), None, issues))));
    }
    if known.support != Support::Served {
        issues.push(Issue::new(Code::KindNotServed, Path::root().join("kind"), format!("{kind} is not enforced yet")));
    }
    if known.support == Support::Named || unused::check(known, &meta, fields, issues) {
        return (meta, unknown);
    }
    let object = typed(known, value, fields, issues);
    if let Some(spec) = present(fields, "spec") {
        compatibility::warn(known, spec, issues);
    }
    if let Some(object) = &object {
        validate::validate(&meta, object, issues);
    }
    let is_rejected = issues.iter().any(Issue::is_error);
    let object = match object {
        Some(Object::AuthorizationPolicy(policy)) if is_rejected => {
            authorization_policy(known, *policy, fields, issues)
        }
        Some(object) if !is_rejected => object,
        typed => Object::Broken(Box::new(Broken::new(known, present(fields, "spec"), typed, issues))),
    };
    (meta, object)
}

/// Rules of a policy stand for themselves: one bad rule must not open what the others close. Only what concerns the policy as a whole breaks it.
fn authorization_policy(
    known: &'static KnownKind,
    mut policy: istio::AuthorizationPolicy,
    fields: &Map<String, Value>,
    issues: &[Issue],
) -> Object {
    let spec = Path::root().join("spec");
    let breaks_target = |issue: &&Issue| {
        ["selector", "targetRef", "targetRefs", "action"].iter().any(|part| issue.path.is_within(&spec.join(*part)))
    };
    if issues
        .iter()
        .filter(|issue| issue.is_error())
        .any(|issue| breaks_target(&issue) && issue.code != Code::AuthorizationRule)
    {
        return Object::Broken(Box::new(Broken::new(known, present(fields, "spec"), Some(policy.into()), issues)));
    }
    let rules = spec.join("rules");
    for (index, entry) in policy.rules.iter_mut().flat_map(|rules| rules.0.iter_mut().enumerate()) {
        let place = rules.join(index);
        if let (istio::RuleEntry::Rule(_), Some(issue)) =
            (&*entry, issues.iter().find(|issue| issue.is_error() && issue.path.is_within(&place)))
        {
            *entry = istio::RuleEntry::Invalid(format!("{}: {}", issue.path, issue.message));
        }
    }
    policy.into()
}

/// Reads the part that is the kind's own.
fn typed(known: &KnownKind, value: &Value, fields: &Map<String, Value>, issues: &mut Vec<Issue>) -> Option<Object> {
    match (known.group, known.kind) {
        ("", "Namespace") => core::<kubernetes::Namespace>(value, issues),
        ("", "Node") => core::<kubernetes::Node>(value, issues),
        ("", "ServiceAccount") => core::<kubernetes::ServiceAccount>(value, issues),
        ("", "Service") => core::<kubernetes::Service>(value, issues),
        ("", "Pod") => core::<kubernetes::Pod>(value, issues),
        ("", "ConfigMap") => core::<kubernetes::ConfigMap>(value, issues),
        ("", "Secret") => kubernetes::Secret::decode(value, &mut Cursor::new(Path::root(), issues)).map(Object::from),
        ("apps", "Deployment") => core::<kubernetes::Deployment>(value, issues),
        ("apps", "StatefulSet") => core::<kubernetes::StatefulSet>(value, issues),
        ("discovery.k8s.io", "EndpointSlice") => core::<kubernetes::EndpointSlice>(value, issues),
        (gateway_api::GROUP, "GatewayClass") => required_spec::<gateway_api::GatewayClass>(known, fields, issues),
        (gateway_api::GROUP, "Gateway") => required_spec::<gateway_api::Gateway>(known, fields, issues),
        (gateway_api::GROUP, "HTTPRoute") => required_spec::<gateway_api::HttpRoute>(known, fields, issues),
        (gateway_api::GROUP, "GRPCRoute") => required_spec::<gateway_api::GrpcRoute>(known, fields, issues),
        (gateway_api::GROUP, "TLSRoute") => required_spec::<gateway_api::TlsRoute>(known, fields, issues),
        (gateway_api::GROUP, "TCPRoute") => required_spec::<gateway_api::TcpRoute>(known, fields, issues),
        (gateway_api::GROUP, "ListenerSet") => required_spec::<gateway_api::ListenerSet>(known, fields, issues),
        (gateway_api::GROUP, "UDPRoute") => required_spec::<gateway_api::UdpRoute>(known, fields, issues),
        (gateway_api::GROUP, "BackendTLSPolicy") => {
            required_spec::<gateway_api::BackendTlsPolicy>(known, fields, issues)
        }
        (gateway_api::GROUP, "ReferenceGrant") => required_spec::<gateway_api::ReferenceGrant>(known, fields, issues),
        (_, "Gateway") => spec::<istio::Gateway>(known, fields, issues),
        (_, "VirtualService") => spec::<istio::VirtualService>(known, fields, issues),
        (_, "DestinationRule") => spec::<istio::DestinationRule>(known, fields, issues),
        (_, "ServiceEntry") => required_spec::<istio::ServiceEntry>(known, fields, issues),
        (_, "WorkloadEntry") => required_spec::<istio::WorkloadEntry>(known, fields, issues),
        (_, "Sidecar") => spec::<istio::Sidecar>(known, fields, issues),
        (_, "AuthorizationPolicy") => spec::<istio::AuthorizationPolicy>(known, fields, issues),
        (_, "PeerAuthentication") => spec::<istio::PeerAuthentication>(known, fields, issues),
        (_, "RequestAuthentication") => spec::<istio::RequestAuthentication>(known, fields, issues),
        (_, "Telemetry") => spec::<istio::Telemetry>(known, fields, issues),
        (palisade::GROUP, "CedarPolicy") => required_spec::<palisade::CedarPolicy>(known, fields, issues),
        (palisade::GROUP, "PolicyTest") => required_spec::<palisade::PolicyTest>(known, fields, issues),
        _ => None,
    }
}

fn core<T: DeserializeOwned + Defaults + Into<Object>>(value: &Value, issues: &mut Vec<Issue>) -> Option<Object> {
    let mut object: T = kubernetes::read(value, issues)?;
    object.fill_in(issues);
    Some(object.into())
}

fn required_spec<T: Decode + Into<Object>>(
    known: &KnownKind,
    fields: &Map<String, Value>,
    issues: &mut Vec<Issue>,
) -> Option<Object> {
    spec_of::<T>(known, fields, true, issues).map(Into::into)
}

fn spec<T: Decode + Into<Object>>(
    known: &KnownKind,
    fields: &Map<String, Value>,
    issues: &mut Vec<Issue>,
) -> Option<Object> {
    spec_of::<T>(known, fields, false, issues).map(Into::into)
}

/// Reads `spec`; an absent one is an empty one unless it is required.
pub(super) fn spec_of<T: Decode>(
    known: &KnownKind,
    fields: &Map<String, Value>,
    is_required: bool,
    issues: &mut Vec<Issue>,
) -> Option<T> {
    check_top_level(known, fields, issues);
    let spec = Path::root().join("spec");
    let empty = Value::Object(Map::new());
    let value = match present(fields, "spec") {
        None if is_required => {
            issues.push(Issue::new(Code::MissingField, spec, "`spec` is required"));
            return None;
        }
        value => value.unwrap_or(&empty),
    };
    T::decode(value, &mut Cursor::new(spec, issues))
}

/// Istio's webhook refuses what stands beside `spec`; other kinds lose it.
fn check_top_level(known: &KnownKind, fields: &Map<String, Value>, issues: &mut Vec<Issue>) {
    const KEYS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        let code = if known.is_istio() { Code::UnknownTopLevelField } else { Code::UnknownField };
        let hint = nearest(key, KEYS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        issues.push(Issue::new(
            code,
            Path::root().join(key.as_str()),
            format!("unknown field `{key}` beside `spec`{hint}"),
        ));
    }
}
