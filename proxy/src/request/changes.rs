//! Header changes as a flat list of operations, compiled once from documents and applied to whatever holds headers.

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_model::route::HeaderMutations;

/// One change to a request's or response's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderChange {
    /// Every line of that name goes.
    Remove(HeaderName),
    /// Every line of that name is replaced by this one.
    Set(HeaderName, HeaderValue),
    /// A line is added.
    Append(HeaderName, HeaderValue),
}

/// Changes of one rule or backend, compiled.
#[derive(Debug, Clone, Default)]
pub struct CompiledChanges {
    /// In order.
    pub changes: Vec<HeaderChange>,
    /// `host` in `set`: the authority that goes upstream.
    pub authority: Option<Box<str>>,
}

/// Anything with headers that changes can be applied to.
pub trait Headers {
    /// Removes every line.
    fn remove(&mut self, name: &HeaderName);
    /// Replaces every line.
    fn set(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Adds a line.
    fn append(&mut self, name: &HeaderName, value: &HeaderValue);
}

impl CompiledChanges {
    /// Compiles mutations: remove, then set, then add.
    ///
    /// # Errors
    /// Names the header that no message can carry.
    pub fn compile(mutations: &HeaderMutations) -> Result<Self, String> {
        let HeaderMutations { remove, set, add } = mutations;
        let mut compiled = Self::default();
        for name in remove.iter() {
            compiled.changes.push(HeaderChange::Remove(header_name(name)?));
        }
        for (name, value) in set.iter() {
            if matches!(&**name, "host" | ":authority") {
                compiled.authority = Some((**value).into());
            } else {
                compiled.changes.push(HeaderChange::Set(header_name(name)?, header_value(name, value)?));
            }
        }
        for (name, value) in add.iter() {
            compiled.changes.push(HeaderChange::Append(header_name(name)?, header_value(name, value)?));
        }
        Ok(compiled)
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(name).map_err(|_| format!("`{name}` is not a header name"))
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(value)
        .map_err(|_| format!("the value of header `{name}` holds characters that no header may"))
}

/// Applies changes in order.
pub fn apply(headers: &mut impl Headers, changes: &[HeaderChange]) {
    for change in changes {
        match change {
            HeaderChange::Remove(name) => headers.remove(name),
            HeaderChange::Set(name, value) => headers.set(name, value),
            HeaderChange::Append(name, value) => headers.append(name, value),
        }
    }
}

impl Headers for HeaderMap {
    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }

    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.insert(name.clone(), value.clone());
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        HeaderMap::append(self, name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_in_the_order_remove_set_add() {
        let pair = |n: &str, v: &str| (n.into(), v.into());
        let mutations = HeaderMutations {
            remove: [std::sync::Arc::from("x-a")].into(),
            set: [pair("x-a", "1"), pair("x-b", "2"), pair("host", "other")].into(),
            add: [pair("x-b", "3")].into(),
        };
        let compiled = CompiledChanges::compile(&mutations).unwrap();
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("old"));
        headers.append("x-b", HeaderValue::from_static("old"));
        apply(&mut headers, &compiled.changes);
        let mut lines: Vec<_> = headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        lines.sort();
        assert_eq!(lines, ["x-a=1", "x-b=2", "x-b=3"]);
        assert_eq!(compiled.authority.as_deref(), Some("other"));
    }

    #[test]
    fn impossible_headers_are_named() {
        let mutations = HeaderMutations { set: [("x y".into(), "1".into())].into(), ..HeaderMutations::default() };
        assert!(CompiledChanges::compile(&mutations).unwrap_err().contains("x y"));
    }
}
