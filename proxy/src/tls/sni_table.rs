//! Choosing by server name: exact before wildcard, longer wildcard before shorter, then the default.

use std::collections::BTreeMap;

/// Values by host pattern: `a.example.com`, `*.example.com` (any number of labels, never `example.com`), `*` (every
/// name, and connections that send none).
#[derive(Debug, Clone)]
pub struct SniTable<T> {
    exact: BTreeMap<Box<str>, T>,
    /// Keyed by what follows the `*.`.
    wildcard: BTreeMap<Box<str>, T>,
    fallback: Option<T>,
}

impl<T> SniTable<T> {
    /// A table that knows no name.
    pub fn new() -> Self {
        Self { exact: BTreeMap::new(), wildcard: BTreeMap::new(), fallback: None }
    }

    /// Adds a value for a pattern, compared without regard to case. The first value for a pattern stays: `false` and
    /// no change when there is one (Istio: a later server for the same name on the same bind is ignored).
    pub fn insert(&mut self, pattern: &str, value: T) -> bool {
        use std::collections::btree_map::Entry;
        let pattern = pattern.to_ascii_lowercase();
        if pattern == "*" {
            let is_new = self.fallback.is_none();
            self.fallback.get_or_insert(value);
            return is_new;
        }
        let entry = match pattern.strip_prefix("*.") {
            Some(suffix) => self.wildcard.entry(suffix.into()),
            None => self.exact.entry(pattern.into()),
        };
        match entry {
            Entry::Vacant(vacant) => {
                vacant.insert(value);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// The value for a name that was sent, in any case. O(labels).
    pub fn get(&self, server_name: Option<&str>) -> Option<&T> {
        let Some(name) = server_name else {
            return self.fallback.as_ref();
        };
        let name = name.to_ascii_lowercase();
        if let Some(value) = self.exact.get(name.as_str()) {
            return Some(value);
        }
        let mut rest = name.as_str();
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(value) = self.wildcard.get(suffix) {
                return Some(value);
            }
            rest = suffix;
        }
        self.fallback.as_ref()
    }

    /// Whether there is nothing to choose.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.fallback.is_none()
    }

    /// All values: exact names first, then wildcards, then the default, each in name order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values()).chain(&self.fallback)
    }
}

impl<T> Default for SniTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_beats_longer_wildcard_beats_shorter_beats_default() {
        let mut table = SniTable::new();
        for pattern in ["*.example.com", "*.b.example.com", "a.b.example.com", "*"] {
            assert!(table.insert(pattern, pattern), "{pattern}");
        }
        for (name, expected) in [
            (Some("a.b.example.com"), "a.b.example.com"),
            (Some("A.B.Example.COM"), "a.b.example.com"),
            (Some("x.b.example.com"), "*.b.example.com"),
            (Some("x.y.b.example.com"), "*.b.example.com"),
            (Some("b.example.com"), "*.example.com"),
            (Some("example.com"), "*"),
            (Some("other.org"), "*"),
            (None, "*"),
        ] {
            assert_eq!(table.get(name), Some(&expected), "{name:?}");
        }
    }

    #[test]
    fn without_a_default_an_unknown_name_finds_nothing_and_the_first_value_of_a_pattern_stays() {
        let mut table = SniTable::new();
        assert!(table.insert("a.example.com", 1));
        assert!(!table.insert("A.example.com", 2));
        assert_eq!(table.get(Some("a.example.com")), Some(&1));
        assert_eq!(table.get(Some("b.example.com")), None);
        assert_eq!(table.get(None), None);
        assert!(!table.is_empty());
        assert_eq!(table.values().count(), 1);
    }
}
