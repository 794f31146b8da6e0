//! Which of several control planes this is, and what is its own.

use std::{collections::BTreeSet, sync::Arc};

/// Label of objects, namespaces and pods that says which control plane they are for.
const LABEL: &str = "istio.io/rev";

/// The revision of what carries no label.
const DEFAULT: &str = "default";

/// A revision with its tags: other names that it answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    name: Arc<str>,
    names: BTreeSet<Arc<str>>,
}

impl Revisions {
    /// Label of objects, namespaces and pods that says which control plane they are for.
    pub const LABEL: &str = LABEL;

    /// A revision that answers to these tags, too.
    pub fn new<T: AsRef<str>>(name: &str, tags: &[T]) -> Self {
        let name: Arc<str> = name.into();
        let names = tags.iter().map(|tag| tag.as_ref().into()).chain([Arc::clone(&name)]).collect();
        Self { name, names }
    }

    /// Its own name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its own name and its tags, in order.
    pub fn names(&self) -> Vec<&str> {
        self.names.iter().map(|name| &**name).collect()
    }

    /// Whether what carries no label is its own.
    pub fn is_default(&self) -> bool {
        self.names.contains(DEFAULT)
    }

    /// Whether what carries this label is its own: it injects it, checks it, and writes its status. Without a label it is the
    /// default revision's.
    pub fn owns(&self, label: Option<&str>) -> bool {
        self.names.contains(label.unwrap_or(DEFAULT))
    }

    /// Whether it reads what carries this label. What carries none is for all.
    pub fn reads(&self, label: Option<&str>) -> bool {
        label.is_none() || self.owns(label)
    }
}

impl Default for Revisions {
    fn default() -> Self {
        Self::from(DEFAULT)
    }
}

impl From<&str> for Revisions {
    fn from(name: &str) -> Self {
        Self::new::<&str>(name, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_no_label_is_read_by_all_and_owned_by_one() {
        let (default, canary) = (Revisions::default(), Revisions::new("canary", &["next"]));
        for (label, by_default, by_canary) in [
            (None, (true, true), (false, true)),
            (Some("default"), (true, true), (false, false)),
            (Some("canary"), (false, false), (true, true)),
            (Some("next"), (false, false), (true, true)),
            (Some("other"), (false, false), (false, false)),
            (Some(""), (false, false), (false, false)),
        ] {
            assert_eq!((default.owns(label), default.reads(label)), by_default, "{label:?}");
            assert_eq!((canary.owns(label), canary.reads(label)), by_canary, "{label:?}");
        }
        assert!(Revisions::new("canary", &["default"]).owns(None), "the tag `default` makes it the default");
    }
}
