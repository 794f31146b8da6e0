//! Header lines as tokens, policies and routes see them: what was received, after what this hop strips and asserts.

use std::ops::ControlFlow;

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_policy::HeaderLines;

use super::changes::HeaderChange;

/// Header lines with changes that nobody has applied to them yet.
#[derive(Debug, Clone, Copy)]
pub struct HeaderView<'a> {
    base: &'a HeaderMap,
    changes: &'a [HeaderChange],
}

impl<'a> HeaderView<'a> {
    /// The lines of `base` as `changes` leave them.
    pub fn new(base: &'a HeaderMap, changes: &'a [HeaderChange]) -> Self {
        Self { base, changes }
    }

    /// The lines of one name.
    pub fn lines(self, name: &HeaderName) -> impl Iterator<Item = &'a HeaderValue> {
        self.lines_where(move |changed| changed == name, self.base.get_all(name))
    }

    fn lines_where(
        self,
        is_named: impl Fn(&HeaderName) -> bool,
        base: http::header::GetAll<'a, HeaderValue>,
    ) -> impl Iterator<Item = &'a HeaderValue> {
        // Nothing before the last change that takes all lines away is left.
        let replaced = self.changes.iter().rposition(|change| match change {
            HeaderChange::Remove(changed) | HeaderChange::Set(changed, _) => is_named(changed),
            HeaderChange::Append(_, _) => false,
        });
        let received = replaced.is_none().then(|| base.into_iter()).into_iter().flatten();
        let later = self.changes.get(replaced.unwrap_or(0)..).unwrap_or_default();
        let written = later.iter().filter_map(move |change| match change {
            HeaderChange::Set(changed, value) | HeaderChange::Append(changed, value) if is_named(changed) => {
                Some(value)
            }
            HeaderChange::Set(_, _) | HeaderChange::Append(_, _) | HeaderChange::Remove(_) => None,
        });
        received.chain(written)
    }
}

impl<'a> From<&'a HeaderMap> for HeaderView<'a> {
    fn from(base: &'a HeaderMap) -> Self {
        Self::new(base, &[])
    }
}

/// Each line on its own (CVE-2026-31838).
impl HeaderLines for HeaderView<'_> {
    fn visit_lines(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) {
        for line in self.lines_where(|changed| changed.as_str() == name, self.base.get_all(name)) {
            if visit(line.as_bytes()).is_break() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::changes::apply;

    #[test]
    fn a_view_shows_what_the_changes_would_leave() {
        let (a, b) = (HeaderName::from_static("x-a"), HeaderName::from_static("x-b"));
        let value = HeaderValue::from_static;
        let mut base = HeaderMap::new();
        base.append(&a, value("1"));
        base.append(&a, value("2"));
        let remove = || HeaderChange::Remove(a.clone());
        let set = |text| HeaderChange::Set(a.clone(), value(text));
        let append = |text| HeaderChange::Append(a.clone(), value(text));
        for changes in [
            vec![],
            vec![remove()],
            vec![append("3")],
            vec![append("3"), set("4"), append("5")],
            vec![set("3"), remove()],
            vec![remove(), append("3"), append("4")],
            vec![HeaderChange::Set(b.clone(), value("other")), HeaderChange::Remove(b.clone())],
        ] {
            let view = HeaderView::new(&base, &changes);
            let mut applied = base.clone();
            apply(&mut applied, &changes);
            let wanted: Vec<_> = applied.get_all(&a).iter().collect();
            assert_eq!(view.lines(&a).collect::<Vec<_>>(), wanted, "{changes:?}");
            let mut visited = Vec::new();
            view.visit_lines("x-a", &mut |line| {
                visited.push(line.to_vec());
                ControlFlow::Continue(())
            });
            assert_eq!(visited, wanted.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
            assert_eq!(view.lines(&b).count(), 0);
        }
    }
}
