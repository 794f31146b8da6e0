//! What is left of a document that admission rejects.

use serde_json::{Map, Value};

use super::{KnownKind, Object};
use crate::issue::Issue;
use crate::istio::{Action, PolicyTargetReference, WorkloadSelector};
use crate::path::Path;
use crate::schema::{Cursor, Decode, present};

/// A rejected document. Traffic kinds count as absent; security kinds fail closed on what [`Broken::target`] names.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// The kind.
    pub kind: &'static KnownKind,
    /// The first error, with its path.
    pub message: String,
    /// What a policy selects. For other kinds always unreadable.
    pub target: BrokenTarget,
    /// The action of an AuthorizationPolicy, if it is a known one.
    pub action: Option<Action>,
    /// The object as far as its types are right: what was rejected is a rule between fields, or the metadata.
    pub typed: Option<Object>,
}

/// What a rejected policy selects.
#[derive(Clone, Debug, PartialEq)]
pub enum BrokenTarget {
    /// Cannot be known: the whole namespace, in the root namespace the mesh.
    Unreadable,
    /// Can be read; both absent is the whole namespace, in the root namespace the mesh. Both present: everything that either names.
    Readable {
        /// Workloads by label.
        selector: Option<WorkloadSelector>,
        /// Objects by name.
        target_refs: Vec<PolicyTargetReference>,
    },
}

impl Broken {
    pub(super) fn new(kind: &'static KnownKind, spec: Option<&Value>, typed: Option<Object>, issues: &[Issue]) -> Self {
        let message = issues
            .iter()
            .find(|issue| issue.is_error())
            .map_or_else(|| "rejected".to_owned(), |issue| format!("{}: {}", issue.path, issue.message));
        let fields = match spec {
            None => Some(Map::new()),
            Some(Value::Object(fields)) => Some(fields.clone()),
            Some(_) => None,
        };
        let (target, action) = match fields {
            Some(fields) if kind.is_policy() => (target(&fields), action(&fields)),
            _ => (BrokenTarget::Unreadable, None),
        };
        Self { kind, message, target, action, typed }
    }
}

/// A part is readable only if nothing is wrong with it: a selector with a mistake could select less than was meant.
fn readable<T: Decode>(fields: &Map<String, Value>, key: &str) -> Result<Option<T>, ()> {
    let Some(value) = present(fields, key) else { return Ok(None) };
    let mut issues = Vec::new();
    let mut cursor = Cursor::new(Path::root(), &mut issues);
    // The record's own checks run on its fields, so a selector is checked while it is read.
    let part = T::decode(value, &mut cursor);
    if issues.is_empty() { part.map(Some).ok_or(()) } else { Err(()) }
}

fn target(fields: &Map<String, Value>) -> BrokenTarget {
    let parts = (
        readable::<WorkloadSelector>(fields, "selector"),
        readable::<PolicyTargetReference>(fields, "targetRef"),
        readable::<Vec<PolicyTargetReference>>(fields, "targetRefs"),
    );
    match parts {
        (Ok(selector), Ok(one), Ok(several)) => BrokenTarget::Readable {
            selector,
            target_refs: one.into_iter().chain(several.into_iter().flatten()).collect(),
        },
        _ => BrokenTarget::Unreadable,
    }
}

fn action(fields: &Map<String, Value>) -> Option<Action> {
    match present(fields, "action") {
        None => Some(Action::Allow),
        Some(_) => readable::<Action>(fields, "action").ok().flatten(),
    }
}
