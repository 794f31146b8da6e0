//! The route index of one virtual host: finds the first matching entry without walking all of them.
//!
//! Entries are grouped by their path condition. A look-up collects the groups that the path can belong to (one exact
//! group, the chain of prefixes that are prefixes of one another, and everything that has no indexable path), each in
//! document order, and merges them, so that the first hit is the first match of the plain walk.

use std::sync::Arc;

use ahash::AHashMap;

use super::{
    matching::{CompiledPath, MatchFacts},
    rules::CompiledRule,
};

/// One entry of a virtual host: an alternative of a rule.
#[derive(Debug, Clone)]
pub struct IndexedEntry {
    /// The rule.
    pub rule: Arc<CompiledRule>,
    /// Index of the alternative in the rule.
    pub alternative: usize,
}

/// The entries of a virtual host with their index.
#[derive(Debug, Default)]
pub struct RouteIndex {
    entries: Box<[IndexedEntry]>,
    exact: AHashMap<Box<[u8]>, Vec<u32>>,
    exact_lower: AHashMap<Box<[u8]>, Vec<u32>>,
    prefixes: PrefixChains,
    prefixes_lower: PrefixChains,
    segments: PrefixChains,
    others: Vec<u32>,
}

/// Prefixes in byte order, each with its longest proper prefix among them.
#[derive(Debug, Default)]
struct PrefixChains {
    nodes: Vec<PrefixNode>,
}

#[derive(Debug)]
struct PrefixNode {
    prefix: Box<[u8]>,
    parent: Option<usize>,
    entries: Vec<u32>,
}

impl RouteIndex {
    /// Indexes entries in their order.
    pub fn build(entries: Vec<IndexedEntry>) -> Self {
        let mut index = Self::default();
        let mut prefixes: Vec<(Box<[u8]>, u32)> = Vec::new();
        let mut prefixes_lower = Vec::new();
        let mut segments = Vec::new();
        for (entry, position) in entries.iter().zip(0_u32..) {
            match entry.path() {
                Some(CompiledPath::Exact { value, ignore_case: false }) => {
                    index.exact.entry(value.as_bytes().into()).or_default().push(position);
                }
                Some(CompiledPath::Exact { value, ignore_case: true }) => {
                    index.exact_lower.entry(lower(value.as_bytes()).into()).or_default().push(position);
                }
                Some(CompiledPath::Prefix { value, ignore_case: false }) => {
                    prefixes.push((value.as_bytes().into(), position));
                }
                Some(CompiledPath::Prefix { value, ignore_case: true }) => {
                    prefixes_lower.push((lower(value.as_bytes()).into(), position));
                }
                Some(CompiledPath::SegmentPrefix(value)) => {
                    let bytes = value.as_bytes();
                    segments.push((bytes.strip_suffix(b"/").unwrap_or(bytes).into(), position));
                }
                Some(CompiledPath::Regex(_)) | None => index.others.push(position),
            }
        }
        index.prefixes = PrefixChains::build(prefixes);
        index.prefixes_lower = PrefixChains::build(prefixes_lower);
        index.segments = PrefixChains::build(segments);
        index.entries = entries.into();
        index
    }

    /// The entries in document order.
    pub fn entries(&self) -> &[IndexedEntry] {
        &self.entries
    }

    /// The first entry whose conditions all hold. Costs the entries that share the path's group, not all of them.
    pub fn find(&self, facts: &MatchFacts<'_>) -> Option<&IndexedEntry> {
        let mut groups: Vec<&[u32]> = Vec::with_capacity(8);
        groups.push(&self.others);
        groups.extend(self.exact.get(facts.path).map(Vec::as_slice));
        self.prefixes.collect(facts.path, &mut groups, |_| true);
        self.segments
            .collect(facts.path, &mut groups, |length| facts.path.get(length).is_none_or(|next| *next == b'/'));
        if !self.exact_lower.is_empty() || !self.prefixes_lower.nodes.is_empty() {
            let folded = lower(facts.path);
            groups.extend(self.exact_lower.get(folded.as_slice()).map(Vec::as_slice));
            self.prefixes_lower.collect(&folded, &mut groups, |_| true);
        }
        groups.retain(|group| !group.is_empty());
        loop {
            // The groups are few (the depth of the path): a scan for the smallest head beats a heap.
            let smallest = groups.iter_mut().min_by_key(|group| group.first().copied().unwrap_or(u32::MAX))?;
            let (position, rest) = smallest.split_first()?;
            *smallest = rest;
            let entry = self.entries.get(usize::try_from(*position).ok()?)?;
            if entry.matches(facts) {
                return Some(entry);
            }
            groups.retain(|group| !group.is_empty());
        }
    }

    /// What [`RouteIndex::find`] must equal: the plain walk.
    #[cfg(test)]
    pub(super) fn find_by_walking(&self, facts: &MatchFacts<'_>) -> Option<&IndexedEntry> {
        self.entries.iter().find(|entry| entry.matches(facts))
    }
}

impl IndexedEntry {
    fn path(&self) -> Option<&CompiledPath> {
        self.rule.alternative(self.alternative)?.path.as_ref()
    }

    /// Whether the alternative takes the request; a rule without alternatives takes every one.
    fn matches(&self, facts: &MatchFacts<'_>) -> bool {
        match self.rule.alternative(self.alternative) {
            Some(alternative) => alternative.matches(facts),
            None => self.rule.takes_everything(),
        }
    }
}

impl PrefixChains {
    fn build(mut prefixes: Vec<(Box<[u8]>, u32)>) -> Self {
        // Stable by position inside equal prefixes: positions were pushed in order.
        prefixes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut nodes: Vec<PrefixNode> = Vec::new();
        for (prefix, position) in prefixes {
            if let Some(last) = nodes.last_mut().filter(|last| last.prefix == prefix) {
                last.entries.push(position);
                continue;
            }
            let mut parent = nodes.len().checked_sub(1);
            while let Some(node) = parent.and_then(|at| nodes.get(at)) {
                if prefix.starts_with(&node.prefix) {
                    break;
                }
                parent = node.parent;
            }
            nodes.push(PrefixNode { prefix, parent, entries: vec![position] });
        }
        Self { nodes }
    }

    /// Adds the entries of every stored prefix of `path` whose length is accepted.
    ///
    /// The greatest stored prefix that sorts not after the path has every stored prefix of the path as itself or as an
    /// ancestor, so one binary search and one walk upwards find them all.
    fn collect<'a>(&'a self, path: &[u8], groups: &mut Vec<&'a [u32]>, is_accepted: impl Fn(usize) -> bool) {
        let mut at = self.nodes.partition_point(|node| *node.prefix <= *path).checked_sub(1);
        while let Some(node) = at.and_then(|at| self.nodes.get(at)) {
            if path.starts_with(&node.prefix) && is_accepted(node.prefix.len()) {
                groups.push(&node.entries);
            }
            at = node.parent;
        }
    }
}

fn lower(bytes: &[u8]) -> Vec<u8> {
    bytes.to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
