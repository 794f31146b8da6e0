//! Host names as documents write them: short names, wildcards, and who may see them.

use std::{collections::BTreeSet, sync::Arc};

/// A host name of a document in full: a name without a dot belongs to the namespace of the document; everything else, a
/// wildcard and an IP literal included, is taken as it is (`ResolveShortnameToFQDN`, istio-semantics 0).
pub(crate) fn full_name(host: &str, namespace: &str, domain: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host.contains('*') || host.contains(':') || host.is_empty() {
        host
    } else {
        format!("{host}.{namespace}.svc.{domain}")
    }
}

/// A service's host name.
pub(crate) fn service_host(name: &str, namespace: &str, domain: &str) -> Arc<str> {
    format!("{name}.{namespace}.svc.{domain}").to_ascii_lowercase().into()
}

/// Who may see an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// Every namespace.
    Public,
    /// These namespaces; empty = nobody.
    Namespaces(BTreeSet<Arc<str>>),
}

impl Visibility {
    /// `exportTo` of an object in `namespace`; an empty list means the mesh's default. `*` shows to everyone; without it `~`
    /// hides from everyone.
    pub(crate) fn parse<S: AsRef<str>>(export_to: &[S], default: &[String], namespace: &str) -> Self {
        let mut namespaces = BTreeSet::new();
        let written: Vec<&str> = if export_to.is_empty() {
            default.iter().map(String::as_str).collect()
        } else {
            export_to.iter().map(AsRef::as_ref).collect()
        };
        if written.is_empty() {
            return Self::Public;
        }
        if written.contains(&"*") {
            return Self::Public;
        }
        if written.contains(&"~") {
            return Self::Namespaces(BTreeSet::new());
        }
        for item in written {
            match item.trim() {
                "." => {
                    namespaces.insert(Arc::from(namespace));
                }
                "" => {}
                other => {
                    namespaces.insert(Arc::from(other));
                }
            }
        }
        Self::Namespaces(namespaces)
    }

    /// Whether objects of `namespace` may see it.
    pub(crate) fn admits(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }

    /// Whether only `namespace` itself may see it.
    pub(crate) fn is_private_to(&self, namespace: &str) -> bool {
        match self {
            Self::Public => false,
            Self::Namespaces(namespaces) => namespaces.len() == 1 && namespaces.contains(namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_without_a_dot_are_completed() {
        let full = |host| full_name(host, "foo", "cluster.local");
        assert_eq!(full("Reviews"), "reviews.foo.svc.cluster.local");
        for kept in ["reviews.prod", "reviews.prod.svc", "*", "*.com", "10.0.0.1", "::1"] {
            assert_eq!(full(kept), kept);
        }
    }

    #[test]
    fn export_to_means_namespaces() {
        let parse = |list: &[&str], default: &[&str]| {
            Visibility::parse(list, &default.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), "own")
        };
        assert!(parse(&[], &[]).admits("x"));
        assert!(!parse(&[], &["."]).admits("x"));
        assert!(parse(&["."], &["*"]).admits("own"));
        assert!(parse(&["."], &[]).is_private_to("own"));
        assert!(!parse(&["~"], &["*"]).admits("own"));
        assert!(parse(&["x", "y"], &["*"]).admits("y"));
        assert!(!parse(&["x", "y"], &["*"]).admits("own"));
    }
}
