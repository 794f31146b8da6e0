//! ReferenceGrants: who may refer across namespaces.

use std::collections::BTreeSet;

use crate::inputs::Inputs;

/// Every permission that a ReferenceGrant gives, spelled out.
#[derive(Debug, Default)]
pub(crate) struct Grants(BTreeSet<Grant>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    from_group: String,
    from_kind: String,
    from_namespace: String,
    to_namespace: String,
    to_group: String,
    to_kind: String,
    /// `None` = every object of the kind.
    to_name: Option<String>,
}

/// The object that refers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Referrer<'a> {
    /// API group.
    pub(crate) group: &'a str,
    /// Kind.
    pub(crate) kind: &'a str,
    /// Namespace.
    pub(crate) namespace: &'a str,
}

impl Grants {
    /// Reads all grants.
    pub(crate) fn new(inputs: &Inputs) -> Self {
        let mut grants = BTreeSet::new();
        for document in inputs.reference_grants.values() {
            for from in &document.spec.from {
                for to in &document.spec.to {
                    grants.insert(Grant {
                        from_group: from.group.clone(),
                        from_kind: from.kind.clone(),
                        from_namespace: from.namespace.clone(),
                        to_namespace: document.head.key.namespace.to_string(),
                        to_group: to.group.clone(),
                        to_kind: to.kind.clone(),
                        to_name: to.name.clone(),
                    });
                }
            }
        }
        Self(grants)
    }

    /// Whether `from` may refer to an object. Inside one namespace always.
    pub(crate) fn permits(&self, from: Referrer<'_>, namespace: &str, group: &str, kind: &str, name: &str) -> bool {
        from.namespace == namespace
            || self.0.iter().any(|grant| {
                grant.from_group == from.group
                    && grant.from_kind == from.kind
                    && grant.from_namespace == from.namespace
                    && grant.to_namespace == namespace
                    && grant.to_group == group
                    && grant.to_kind == kind
                    && grant.to_name.as_deref().is_none_or(|granted| granted == name)
            })
    }
}
