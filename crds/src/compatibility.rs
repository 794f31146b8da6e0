//! What is done with each field of each kind: one table, from which `palisade analyze` warns and the reference page is written.
//!
//! Which fields there are is known from the kinds' declarations; the table says of each record's fields what is done with
//! them. A field without a row, and a row without a field, fail a test.

mod gateway_api;
mod istio;
mod page;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

pub use page::page;

use crate::codes::Code;
use crate::issue::Issue;
use crate::object::{KNOWN_KINDS, KnownKind, Support};
use crate::path::Path;
use crate::schema::Shape;

/// What is done with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// It does what its API says.
    Served,
    /// It does, but for what the text says.
    Partly(&'static str),
    /// It has no effect, and that is right: the text says why.
    Ignored(&'static str),
    /// It has no effect; the text says what happens instead. A warning names it.
    Unsupported(&'static str),
    /// Ignoring it could weaken security: the traffic concerned is refused, as the text says. A warning names it.
    Refused(&'static str),
    /// As [`Handling::Refused`] where it has this value (with `*` at its end: begins with it), served otherwise.
    RefusedValue(&'static str, &'static str),
    /// As [`Handling::Unsupported`] where it has this value, served otherwise.
    UnsupportedValue(&'static str, &'static str),
}

/// Fields of one record: those that are served, and the others.
pub(crate) struct Record {
    /// The record's name in this crate.
    pub(crate) name: &'static str,
    /// Keys of fields that are served.
    pub(crate) served: &'static [&'static str],
    /// The others.
    pub(crate) others: &'static [(&'static str, Handling)],
}

/// A record of which every field is served.
const fn all(name: &'static str, served: &'static [&'static str]) -> Record {
    Record { name, served, others: &[] }
}

/// A record of which not every field is served.
const fn some(
    name: &'static str,
    served: &'static [&'static str],
    others: &'static [(&'static str, Handling)],
) -> Record {
    Record { name, served, others }
}

/// A field in one place where it is handled otherwise than elsewhere: kind, path from `spec`, handling.
pub(crate) type Exception = (&'static str, &'static str, Handling);

/// A field of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Path from `spec`, with `[]` for items and `{}` for the keys of maps.
    pub path: String,
    /// What is done with it.
    pub handling: Handling,
}

/// No kind nests deeper.
const MAX_DEPTH: usize = 24;

/// The fields of a kind that is served, in the order of its declaration; those below a field that is not served are left out.
///
/// # Errors
/// Names the fields that have no row.
pub fn fields(kind: &KnownKind) -> Result<Vec<Field>, Vec<String>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    if let Some((api, shape)) = shape_of(kind).filter(|_| kind.support == Support::Served) {
        let mut walk = Walk { api, kind: kind.kind, found: &mut found, missing: &mut missing };
        walk.go(shape, "spec", 0);
    }
    if missing.is_empty() { Ok(found) } else { Err(missing) }
}

struct Walk<'a> {
    api: Api,
    kind: &'static str,
    found: &'a mut Vec<Field>,
    missing: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn go(&mut self, shape: Shape, path: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match shape {
            Shape::Leaf(_) => {}
            Shape::List(item) => self.go(item(), &format!("{path}[]"), depth + 1),
            Shape::Map(value) => self.go(value(), &format!("{path}{{}}"), depth + 1),
            Shape::Record(record) => {
                for field in record.fields {
                    let path = format!("{path}.{}", field.key);
                    let Some(handling) = self.api.handling(self.kind, &path, record.name, field.key) else {
                        self.missing.push(format!("{} ({}.{})", path, record.name, field.key));
                        continue;
                    };
                    self.found.push(Field { path: path.clone(), handling });
                    if !matches!(handling, Handling::Unsupported(_) | Handling::Refused(_) | Handling::Ignored(_)) {
                        self.go((field.shape)(), &path, depth + 1);
                    }
                }
            }
        }
    }
}

/// The two APIs, each with a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Istio,
    Gateway,
}

impl Api {
    pub(crate) fn records(self) -> &'static [Record] {
        match self {
            Self::Istio => istio::RECORDS,
            Self::Gateway => gateway_api::RECORDS,
        }
    }

    pub(crate) fn exceptions(self) -> &'static [Exception] {
        match self {
            Self::Istio => istio::EXCEPTIONS,
            Self::Gateway => gateway_api::EXCEPTIONS,
        }
    }

    fn handling(self, kind: &str, path: &str, record: &str, key: &str) -> Option<Handling> {
        if let Some((_, _, handling)) = self.exceptions().iter().find(|(of, at, _)| *of == kind && *at == path) {
            return Some(*handling);
        }
        let record = self.records().iter().find(|row| row.name == record)?;
        if record.served.contains(&key) {
            return Some(Handling::Served);
        }
        record.others.iter().find(|(other, _)| *other == key).map(|(_, handling)| *handling)
    }
}

/// The declaration of a kind's `spec`, if it is one of Istio's or the Gateway API's that is typed.
fn shape_of(kind: &KnownKind) -> Option<(Api, Shape)> {
    use crate::schema::Decode;
    use crate::{gateway_api as g, istio as i};
    if kind.group == g::GROUP {
        let shape = match kind.kind {
            "GatewayClass" => g::GatewayClass::shape(),
            "Gateway" => g::Gateway::shape(),
            "HTTPRoute" => g::HttpRoute::shape(),
            "GRPCRoute" => g::GrpcRoute::shape(),
            "TLSRoute" => g::TlsRoute::shape(),
            "TCPRoute" => g::TcpRoute::shape(),
            "UDPRoute" => g::UdpRoute::shape(),
            "ListenerSet" => g::ListenerSet::shape(),
            "BackendTLSPolicy" => g::BackendTlsPolicy::shape(),
            "ReferenceGrant" => g::ReferenceGrant::shape(),
            _ => return None,
        };
        return Some((Api::Gateway, shape));
    }
    if !kind.is_istio() {
        return None;
    }
    let shape = match kind.kind {
        "Gateway" => i::Gateway::shape(),
        "VirtualService" => i::VirtualService::shape(),
        "DestinationRule" => i::DestinationRule::shape(),
        "ServiceEntry" => i::ServiceEntry::shape(),
        "WorkloadEntry" => i::WorkloadEntry::shape(),
        "Sidecar" => i::Sidecar::shape(),
        "AuthorizationPolicy" => i::AuthorizationPolicy::shape(),
        "PeerAuthentication" => i::PeerAuthentication::shape(),
        "RequestAuthentication" => i::RequestAuthentication::shape(),
        "Telemetry" => i::Telemetry::shape(),
        _ => return None,
    };
    Some((Api::Istio, shape))
}

/// What is warned about, by group and kind.
static WARNINGS: LazyLock<BTreeMap<(&str, &str), Vec<Field>>> = LazyLock::new(|| {
    let is_warned = |field: &Field| {
        matches!(
            field.handling,
            Handling::Unsupported(_)
                | Handling::UnsupportedValue(_, _)
                | Handling::Refused(_)
                | Handling::RefusedValue(_, _)
        )
    };
    let of_kind = |kind: &'static KnownKind| {
        // A field without a row is caught by a test.
        let fields = fields(kind).unwrap_or_default();
        ((kind.group, kind.kind), fields.into_iter().filter(is_warned).collect())
    };
    KNOWN_KINDS.iter().map(of_kind).collect()
});

/// Adds a finding for every field of a document that is written and not served.
pub(crate) fn warn(kind: &KnownKind, spec: &Value, issues: &mut Vec<Issue>) {
    for field in WARNINGS.get(&(kind.group, kind.kind)).map(Vec::as_slice).unwrap_or_default() {
        let steps: Vec<&str> = field.path.split('.').skip(1).collect();
        visit(spec, &steps, &Path::root().join("spec"), &mut |path, value| {
            let name = field.path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]").trim_end_matches("{}");
            let (code, text) = match field.handling {
                Handling::Unsupported(text) => (Code::FieldNotServed, text),
                Handling::Refused(text) => (Code::FieldRefused, text),
                Handling::RefusedValue(refused, text) if has_value(value, refused) => (Code::FieldRefused, text),
                Handling::UnsupportedValue(value_of, text) if value.as_str() == Some(value_of) => {
                    (Code::FieldNotServed, text)
                }
                _ => return,
            };
            issues.push(Issue::new(code, path.clone(), format!("`{name}` is not served: {text}")));
        });
    }
}

/// Whether a text is `wanted`, or begins with it where it ends with `*`.
fn has_value(value: &Value, wanted: &str) -> bool {
    value.as_str().is_some_and(|text| match wanted.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning),
        None => text == wanted,
    })
}

/// Calls `found` for every place of a document that the steps lead to and that says something.
fn visit(value: &Value, steps: &[&str], path: &Path, found: &mut dyn FnMut(&Path, &Value)) {
    let Some((step, rest)) = steps.split_first() else {
        if is_written(value) {
            found(path, value);
        }
        return;
    };
    let key = step.trim_end_matches(['[', ']', '{', '}']);
    let Some(value) = value.get(key) else { return };
    let path = path.join(key);
    match (step.ends_with("[]"), step.ends_with("{}"), value) {
        (true, _, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                visit(item, rest, &path.join(index), found);
            }
        }
        (_, true, Value::Object(entries)) => {
            for (name, entry) in entries {
                visit(entry, rest, &path.join(name.as_str()), found);
            }
        }
        (false, false, value) => visit(value, rest, &path, found),
        _ => {}
    }
}

/// Whether a value says more than its absence would.
fn is_written(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}
