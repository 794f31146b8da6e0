//! Whether a document that somebody applied is what is compiled.

use palisade_model::origin::Origin;
use serde_json::Value;

use super::origin_of;
use crate::{
    inputs::SourceDocument,
    reports::{ObjectName, Reports},
};

/// What is compiled of a document that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// There is no such object.
    Missing,
    /// The object says something else.
    Differs(Origin),
    /// The object says just that.
    Held(Origin),
}

impl Reports {
    /// What is compiled of a document. Kinds of the Gateway API, of Istio and our own are compared by what they say, whatever was
    /// filled in; of other kinds that an API server completes it counts that they are there.
    pub fn holding(&self, wanted: &SourceDocument) -> Holding {
        let meta = &wanted.parsed.meta;
        let name = ObjectName {
            group: meta.group.as_str().into(),
            kind: meta.kind.as_str().into(),
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
        };
        let Some(held) = self.document(&name) else { return Holding::Missing };
        let origin = origin_of(&name, held);
        let is_ours = is_compared(&meta.group);
        let is_same = if held.value == wanted.document.value {
            true
        } else if is_ours {
            let parsed = palisade_crds::parse(held, &meta.namespace);
            parsed.object == wanted.parsed.object
                && contains(&held.value, &wanted.document.value, "/metadata/labels")
                && contains(&held.value, &wanted.document.value, "/metadata/annotations")
        } else {
            // What came from a file is there as it was written.
            held.file.is_empty()
        };
        if is_same { Holding::Held(origin) } else { Holding::Differs(origin) }
    }

    /// The object of a name at its compiled generation; an empty group stands for any.
    pub fn find(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Origin> {
        let is_meant = |own: &ObjectName| {
            own.kind.eq_ignore_ascii_case(kind)
                && *own.namespace == *namespace
                && *own.name == *name
                && (group.is_empty() || *own.group == *group)
        };
        self.documents().find(|(own, _)| is_meant(own)).map(|(own, document)| origin_of(own, document))
    }
}

/// Groups whose objects are compared by what they say.
fn is_compared(group: &str) -> bool {
    group.ends_with(".istio.io") || group == palisade_crds::gateway_api::GROUP || group == palisade_crds::palisade::GROUP
}

/// Whether everything that `wanted` has under a pointer is in `held` as well.
fn contains(held: &Value, wanted: &Value, pointer: &str) -> bool {
    let Some(wanted) = wanted.pointer(pointer).and_then(Value::as_object) else { return true };
    let held = held.pointer(pointer).and_then(Value::as_object);
    wanted.iter().all(|(key, value)| held.and_then(|held| held.get(key)) == Some(value))
}
