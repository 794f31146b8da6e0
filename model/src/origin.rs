//! Where a resource comes from: the user's object.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A user's object, as provenance: who is to be told about it, and at which generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// API group; empty for the core group.
    pub group: Arc<str>,
    /// Kind, for example `VirtualService`.
    pub kind: Arc<str>,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Object name.
    pub name: Arc<str>,
    /// `metadata.uid`; empty where documents come from files.
    pub uid: Arc<str>,
    /// `metadata.generation`; 0 where documents come from files.
    pub generation: i64,
}

impl fmt::Display for Origin {
    /// `KIND NAMESPACE/NAME`, as users say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}
