//! Policies of one principal group, looked up by what they need of a request: its path, or a header, claim or host that tells them apart better.

use std::{collections::HashMap, hash::Hash, ops::ControlFlow};

use super::{Field, FieldKey, Needs, PathKey};
use crate::eval::{RequestState, RequestView, View};

type Lists = HashMap<Box<[u8]>, Vec<u32>, ahash::RandomState>;

/// Fields that one index looks at. Each costs a look-up per request.
const MAX_FIELDS: usize = 4;

/// Different lengths of prefixes of one field. Each costs a look-up per value.
const MAX_LENGTHS: usize = 8;

/// Positions are places in the group's members, ascending in each list.
#[derive(Debug, Default)]
pub(crate) struct RequestIndex {
    always: Vec<u32>,
    exact: Lists,
    /// By number of segments, from 0 for one: a request is asked for those lengths alone that policies have.
    prefixes: Vec<(usize, Lists)>,
    fields: Vec<FieldIndex>,
}

/// Policies by the values of one field.
#[derive(Debug)]
struct FieldIndex {
    field: Field,
    exact: Lists,
    /// By length.
    prefixes: Vec<(usize, Lists)>,
}

impl RequestIndex {
    /// An index of members with what each needs; positions must come in ascending order. Each member stands where the fewest others stand: a
    /// thousand policies under one path that differ by a header are found by the header.
    pub(crate) fn build(members: Vec<(u32, Needs)>) -> Self {
        let fields = Fields::of(&members);
        let paths = load(members.iter().flat_map(|(_, needs)| needs.paths.iter().flatten()));
        let values = load(members.iter().flat_map(|(_, needs)| needs.fields.iter().flatten()));
        let mut index = Self::default();
        for (position, Needs { paths: by_path, fields: by_field }) in &members {
            let by_field = by_field.as_ref().filter(|keys| keys.iter().all(|key| fields.has(key)));
            let crowd = |keys: &[PathKey]| keys.iter().filter_map(|key| paths.get(key)).max().copied().unwrap_or(0);
            let at_field =
                |keys: &[FieldKey]| keys.iter().filter_map(|key| values.get(key)).max().copied().unwrap_or(0);
            match (by_path, by_field) {
                (None, None) => index.always.push(*position),
                (Some(by_path), Some(by_field)) if at_field(by_field) >= crowd(by_path) => {
                    index.add_paths(*position, by_path);
                }
                (_, Some(by_field)) => by_field.iter().for_each(|key| index.add_field(*position, key)),
                (Some(by_path), None) => index.add_paths(*position, by_path),
            }
        }
        index
    }

    /// Whether nobody stands anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.always.is_empty() && self.exact.is_empty() && self.prefixes.is_empty() && self.fields.is_empty()
    }

    fn add_paths(&mut self, position: u32, keys: &[PathKey]) {
        for key in keys {
            match key {
                PathKey::Exact(path) => self.exact.entry(path.clone()).or_default().push(position),
                PathKey::Prefix(path) => {
                    let slashes = path.iter().skip(1).filter(|byte| **byte == b'/').count();
                    let lists = lists_of(&mut self.prefixes, slashes.saturating_sub(1));
                    lists.entry(path.clone()).or_default().push(position);
                }
            }
        }
    }

    fn add_field(&mut self, position: u32, key: &FieldKey) {
        let FieldKey { field, value, is_prefix } = key;
        let at = self.fields.iter().position(|index| index.field == *field).unwrap_or(self.fields.len());
        if at == self.fields.len() {
            self.fields.push(FieldIndex { field: field.clone(), exact: Lists::default(), prefixes: Vec::new() });
        }
        let Some(index) = self.fields.get_mut(at) else { return };
        let lists = if *is_prefix { lists_of(&mut index.prefixes, value.len()) } else { &mut index.exact };
        lists.entry(value.clone()).or_default().push(position);
    }

    /// Calls `visit` with each list of members that may match a request. One member may stand in several of them.
    #[inline]
    pub(crate) fn for_each_list(&self, view: &View<'_>, request: &RequestView<'_>, mut visit: impl FnMut(&[u32])) {
        if !self.always.is_empty() {
            visit(&self.always);
        }
        if !self.exact.is_empty()
            && let Some(list) = self.exact.get(request.path)
        {
            visit(list);
        }
        for (segments, lists) in &self.prefixes {
            let prefix = request.leading.get(*segments).copied().flatten();
            if let Some(list) = prefix.and_then(|prefix| lists.get(prefix)) {
                visit(list);
            }
        }
        for index in &self.fields {
            index.for_each_list(view, &mut visit);
        }
    }
}

/// The lists of one length.
fn lists_of(lists: &mut Vec<(usize, Lists)>, length: usize) -> &mut Lists {
    let at = lists.partition_point(|(known, _)| *known < length);
    if lists.get(at).is_none_or(|(known, _)| *known != length) {
        lists.insert(at, (length, Lists::default()));
    }
    #[expect(clippy::indexing_slicing, reason = "it was there, or was put there")]
    &mut lists[at].1
}

impl FieldIndex {
    fn for_each_list(&self, view: &View<'_>, visit: &mut impl FnMut(&[u32])) {
        let RequestState::Known(request) = view.request else {
            // Without a request nothing is ruled out.
            let prefixes = self.prefixes.iter().flat_map(|(_, lists)| lists.values());
            self.exact.values().chain(prefixes).for_each(|list| visit(list));
            return;
        };
        match &self.field {
            Field::Header(name) => request.visit_lines(name, &mut |line| {
                self.with_value(line, visit);
                ControlFlow::Continue(())
            }),
            Field::Claim(key) => {
                let texts = request.facts.jwt.and_then(|jwt| jwt.claims.at(key));
                texts.into_iter().flatten().for_each(|text| self.with_value(text.as_bytes(), visit));
            }
            // What is absent has no value that could be needed.
            Field::Text(text) => {
                if let Ok(value) = view.text(*text) {
                    self.with_value(value, visit);
                }
            }
        }
    }

    fn with_value(&self, value: &[u8], visit: &mut impl FnMut(&[u32])) {
        if !self.exact.is_empty()
            && let Some(list) = self.exact.get(value)
        {
            visit(list);
        }
        for (length, lists) in &self.prefixes {
            if let Some(list) = value.get(..*length).and_then(|prefix| lists.get(prefix)) {
                visit(list);
            }
        }
    }
}

/// The fields that most members need, each with the lengths of prefixes that are looked up.
struct Fields<'a>(Vec<(&'a Field, Vec<usize>)>);

impl<'a> Fields<'a> {
    fn of(members: &'a [(u32, Needs)]) -> Self {
        let keys = || members.iter().flat_map(|(_, needs)| needs.fields.iter().flatten());
        let mut counts: Vec<(usize, &Field)> =
            load(keys().map(|key| &key.field)).into_iter().map(|(field, count)| (count, field)).collect();
        counts.sort_by(|(count, field), (other, other_field)| other.cmp(count).then_with(|| field.cmp(other_field)));
        counts.truncate(MAX_FIELDS);
        let lengths = |field: &Field| {
            let mut lengths: Vec<usize> =
                keys().filter(|key| key.is_prefix && key.field == *field).map(|key| key.value.len()).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths.truncate(MAX_LENGTHS);
            lengths
        };
        Self(counts.into_iter().map(|(_, field)| (field, lengths(field))).collect())
    }

    fn has(&self, key: &FieldKey) -> bool {
        let known = self.0.iter().find(|(field, _)| **field == key.field);
        known.is_some_and(|(_, lengths)| !key.is_prefix || lengths.contains(&key.value.len()))
    }
}

/// How many members stand at each key.
fn load<'a, K: Eq + Hash + 'a>(keys: impl Iterator<Item = &'a K>) -> HashMap<&'a K, usize, ahash::RandomState> {
    let mut load = HashMap::default();
    for key in keys {
        *load.entry(key).or_default() += 1;
    }
    load
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<Vec<PathKey>> {
        Some(vec![PathKey::Prefix(text.as_bytes().into())])
    }

    fn header(name: &str, value: &str) -> Option<Vec<FieldKey>> {
        Some(vec![FieldKey::new(Field::Header(name.into()), value, false)])
    }

    fn shape(members: Vec<Needs>) -> (usize, usize, usize) {
        let index = RequestIndex::build((0..).zip(members).collect());
        let longest = index.fields.iter().flat_map(|index| index.exact.values()).map(Vec::len).max();
        (
            index.always.len(),
            index.prefixes.iter().flat_map(|(_, lists)| lists.values()).map(Vec::len).sum(),
            longest.unwrap_or_default(),
        )
    }

    #[test]
    fn members_stand_where_the_fewest_others_stand() {
        let tenants = (0..50).map(|number| Needs { paths: path("/api/"), fields: header("x", &number.to_string()) });
        assert_eq!(shape(tenants.collect()), (0, 0, 1), "by header");
        let paths = (0..50).map(|number| Needs { paths: path(&format!("/{number}/")), fields: header("x", "a") });
        assert_eq!(shape(paths.collect()), (0, 50, 0), "by path");
        let names = (0..10).map(|number| Needs { paths: None, fields: header(&format!("x-{number}"), "a") });
        assert_eq!(shape(names.collect()), (10 - MAX_FIELDS, 0, 1), "of too many fields some are looked at");
        let lengths = (1..20).map(|length| {
            let value = vec![b'a'; length].into();
            Needs {
                paths: None,
                fields: Some(vec![FieldKey { field: Field::Claim("c".into()), value, is_prefix: true }]),
            }
        });
        assert_eq!(shape(lengths.collect()), (19 - MAX_LENGTHS, 0, 0), "of too many lengths too");
        assert_eq!(
            shape(vec![Needs { paths: Some(Vec::new()), fields: None }]),
            (0, 0, 0),
            "what never holds is nowhere"
        );
    }
}
