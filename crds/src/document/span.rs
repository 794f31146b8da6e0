//! The lines that the fields of a document stand on.

use std::collections::BTreeMap;

use crate::path::{Path, Segment};

/// Where a value and all values inside it were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanTree {
    /// Counted from 1; 0 is unknown.
    line: u32,
    children: Children,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Children {
    #[default]
    None,
    Fields(BTreeMap<String, SpanTree>),
    Items(Vec<SpanTree>),
}

impl SpanTree {
    pub(super) fn scalar(line: u32) -> Self {
        Self { line, children: Children::None }
    }

    pub(super) fn fields(line: u32, fields: BTreeMap<String, Self>) -> Self {
        Self { line, children: Children::Fields(fields) }
    }

    pub(super) fn items(line: u32, items: Vec<Self>) -> Self {
        Self { line, children: Children::Items(items) }
    }

    /// A field is found by its key, so the key's line is what a reader looks for.
    pub(super) fn at(mut self, line: u32) -> Self {
        self.line = line;
        self
    }

    pub(super) fn child(&self, segment: &Segment) -> Option<&Self> {
        match (&self.children, segment) {
            (Children::Fields(fields), Segment::Key(key)) => fields.get(key),
            (Children::Fields(fields), Segment::Index(index)) => fields.get(&index.to_string()),
            (Children::Items(items), Segment::Index(index)) => items.get(*index),
            (Children::Items(_), Segment::Key(_)) | (Children::None, _) => None,
        }
    }

    pub(super) fn field_spans(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.children {
            Children::Fields(fields) => Some(fields),
            Children::None | Children::Items(_) => None,
        }
    }

    /// The spans of the items of one field, in order.
    pub(super) fn into_items(self, field: &str) -> std::vec::IntoIter<Self> {
        let Children::Fields(mut fields) = self.children else { return Vec::new().into_iter() };
        match fields.remove(field).map(|list| list.children) {
            Some(Children::Items(items)) => items.into_iter(),
            _ => Vec::new().into_iter(),
        }
    }

    /// The line of the deepest written field on the way to `path`.
    pub(super) fn line(&self, path: &Path) -> Option<u32> {
        let mut node = self;
        for segment in path.segments() {
            match node.child(segment) {
                Some(child) => node = child,
                None => break,
            }
        }
        (node.line > 0).then_some(node.line)
    }
}

/// A line number counted from 1, from one counted from 0.
pub(super) fn line_number(lines_before: usize) -> u32 {
    u32::try_from(lines_before).unwrap_or(u32::MAX - 1).saturating_add(1)
}
