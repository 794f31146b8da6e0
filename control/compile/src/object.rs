//! What every object has: identity, age, provenance, and where its text stands.

use std::{cmp::Ordering, collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use palisade_model::origin::Origin;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Object name.
    pub name: Arc<str>,
}

/// Where a document's text stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Location {
    /// File as the caller named it; empty when the object did not come from a file.
    pub file: Arc<str>,
    /// Line of the document, counted from 1; 0 = unknown.
    pub line: u32,
}

/// Metadata of an object, as far as compiling reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// API group; empty for the core group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`; empty where documents come from files.
    pub uid: Arc<str>,
    /// `metadata.generation`; 0 where documents come from files.
    pub generation: i64,
    /// `metadata.creationTimestamp` in Unix seconds; `i64::MIN` where none is written: all of those are equally old, and older
    /// than any dated object.
    pub created: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Addresses that hosts of a ServiceEntry have been given (`status.addresses`); `None` for all other objects.
    pub allocated: Option<Arc<[(String, IpAddr)]>>,
}

/// An object of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object<T> {
    /// Metadata.
    pub head: Head,
    /// What the kind says.
    pub spec: T,
}

/// Age order: creation time, then name, then namespace; oldest first (`pilot/pkg/model/config.go`, istio-semantics 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age<'a> {
    created: i64,
    name: &'a str,
    namespace: &'a str,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl Head {
    /// The object's place in age order.
    pub fn age(&self) -> Age<'_> {
        Age { created: self.created, name: &self.key.name, namespace: &self.key.namespace }
    }

    /// The object as provenance.
    pub fn origin(&self) -> Origin {
        Origin {
            group: Arc::clone(&self.group),
            kind: Arc::clone(&self.kind),
            namespace: Arc::clone(&self.key.namespace),
            name: Arc::clone(&self.key.name),
            uid: Arc::clone(&self.uid),
            generation: self.generation,
        }
    }

    /// `KIND NS/NAME`, as routes and logs name the object.
    pub fn source(&self) -> Arc<str> {
        format!("{} {}", self.kind, self.key).into()
    }
}

/// Objects in age order, oldest first.
pub(crate) fn by_age<'a, T>(objects: impl IntoIterator<Item = &'a Object<T>>) -> Vec<&'a Object<T>> {
    let mut sorted: Vec<&Object<T>> = objects.into_iter().collect();
    sorted.sort_by(|a, b| cmp_age(&a.head, &b.head));
    sorted
}

pub(crate) fn cmp_age(a: &Head, b: &Head) -> Ordering {
    a.age().cmp(&b.age())
}

/// Whether every label of `selector` is one of `labels`. An empty selector takes everything.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_of_age_go_by_name_then_namespace() {
        let head = |created, namespace: &str, name: &str| Head {
            group: "".into(),
            kind: "Service".into(),
            key: ObjectKey::new(namespace, name),
            uid: "".into(),
            generation: 0,
            created,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            allocated: None,
        };
        let mut heads =
            [head(2, "a", "a"), head(1, "a", "b"), head(1, "b", "a"), head(i64::MIN, "z", "z"), head(1, "a", "a")];
        heads.sort_by(cmp_age);
        assert_eq!(heads.map(|h| h.key.to_string()), ["z/z", "a/a", "b/a", "a/b", "a/a"]);
    }
}
