//! The place in a document that is being read, and what was found so far.

use serde_json::{Map, Value};

use super::{Absent, Check, Decode};
use crate::codes::Code;
use crate::issue::Issue;
use crate::path::{Path, Segment};

/// Where reading is, and the issues found.
pub(crate) struct Cursor<'a> {
    path: Path,
    issues: &'a mut Vec<Issue>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(path: Path, issues: &'a mut Vec<Issue>) -> Self {
        Self { path, issues }
    }

    /// Reads one step further down.
    pub(crate) fn within<R>(&mut self, segment: impl Into<Segment>, read: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(segment);
        let result = read(self);
        self.path.pop();
        result
    }

    /// Records a finding about the current place.
    pub(crate) fn report(&mut self, code: Code, message: impl Into<String>) {
        self.issues.push(Issue::new(code, self.path.clone(), message));
    }

    /// Records a finding about a field of the current place.
    pub(crate) fn report_at(&mut self, field: impl Into<Segment>, code: Code, message: impl Into<String>) {
        self.issues.push(Issue::new(code, self.path.join(field), message));
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn first_error_within(&self, place: &Path) -> Option<&Issue> {
        self.issues.iter().find(|issue| issue.is_error() && issue.path.is_within(place))
    }

    pub(crate) fn wrong_type(&mut self, expected: &str, value: &Value) {
        self.report(Code::WrongType, format!("expected {expected}, found {}", describe(value)));
    }

    pub(crate) fn unknown_value(&mut self, text: &str, known: &[&str]) {
        let hint = nearest(text, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        self.report(Code::UnknownValue, format!("`{}` is none of {}{hint}", shorten(text), known.join(", ")));
    }

    /// The value as an object whose keys are all known. Unknown keys are reported and thereby removed.
    pub(crate) fn object<'v>(&mut self, value: &'v Value, known: &[&str]) -> Option<&'v Map<String, Value>> {
        let Value::Object(fields) = value else {
            self.wrong_type("an object", value);
            return None;
        };
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = nearest(key, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            self.report_at(key.as_str(), Code::UnknownField, format!("unknown field `{key}` is ignored{hint}"));
        }
        Some(fields)
    }

    /// Reads a field. Null counts as absent, as in the Kubernetes API. `None` if the field is required but absent, or unreadable.
    pub(crate) fn field<T: Decode>(
        &mut self,
        fields: &Map<String, Value>,
        key: &'static str,
        checks: &[Check],
        absent: Absent<T>,
    ) -> Option<T> {
        match present(fields, key) {
            Some(value) => self.within(key, |cursor| {
                let decoded = T::decode(value, cursor);
                if decoded.is_some() {
                    for check in checks {
                        check.run(value, cursor);
                    }
                }
                decoded
            }),
            None => {
                let value = match absent {
                    Absent::OfType => T::absent(),
                    Absent::Default(value) => Some(value),
                    Absent::Refused => None,
                };
                if value.is_none() {
                    self.report_at(key, Code::MissingField, format!("`{key}` is required"));
                }
                value
            }
        }
    }

    /// Reports when more than one of the alternatives is written.
    pub(crate) fn at_most_one(&mut self, fields: &Map<String, Value>, alternatives: &[&str]) {
        let written: Vec<&str> = alternatives.iter().copied().filter(|key| present(fields, key).is_some()).collect();
        if let [first, second, ..] = written.as_slice() {
            self.report_at(*second, Code::ConflictingFields, format!("`{second}` and `{first}` exclude each other"));
        }
    }
}

/// A field that is written and not null.
pub(crate) fn present<'v>(fields: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    fields.get(key).filter(|value| !value.is_null())
}

pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean `{value}`"),
        Value::Number(value) => format!("the number `{value}`"),
        Value::String(value) => format!("the text `{}`", shorten(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Text for a message: documents may hold megabytes.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The known word nearest to a misspelt one, if any is near.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let limit = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.chars().zip(row.iter().skip(1)) {
            let cost = (diagonal + usize::from(from != to)).min(left + 1).min(above + 1);
            diagonal = *above;
            left = cost;
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
