//! Field paths inside a document, written as Kubernetes writes them: `spec.rules[0].from`.

use std::fmt;

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// A field of an object, or a key of a map.
    Key(String),
    /// An element of a list, counted from 0.
    Index(usize),
}

impl From<&str> for Segment {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Segment {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Where a field is in its document. The empty path is the document itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Segment>);

impl Path {
    /// The document itself.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads the text form, as [`fmt::Display`] writes it. Never fails: what stands between dots and brackets is taken as it is.
    /// A number in brackets is an index; [`crate::Document::line_of`] also finds a map key of that name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut segments = Vec::new();
        let mut key = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '.' => take_key(&mut key, &mut segments),
                '[' => {
                    take_key(&mut key, &mut segments);
                    let inner: String = chars.by_ref().take_while(|c| *c != ']').collect();
                    segments.push(inner.parse().map_or(Segment::Key(inner), Segment::Index));
                }
                c => key.push(c),
            }
        }
        take_key(&mut key, &mut segments);
        Self(segments)
    }

    /// The path one step further down.
    #[must_use]
    pub fn join(&self, segment: impl Into<Segment>) -> Self {
        let mut path = self.clone();
        path.push(segment);
        path
    }

    /// Goes one step down.
    pub fn push(&mut self, segment: impl Into<Segment>) {
        self.0.push(segment.into());
    }

    /// Goes one step up; at the root nothing changes.
    pub fn pop(&mut self) {
        self.0.pop();
    }

    /// The steps from the root.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Whether `self` is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.0.starts_with(&ancestor.0)
    }
}

fn take_key(key: &mut String, segments: &mut Vec<Segment>) {
    if !key.is_empty() {
        segments.push(Segment::Key(std::mem::take(key)));
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if is_field_name(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    f.write_str(key)?;
                }
                Segment::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

fn is_field_name(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_read_back() {
        for text in [
            "",
            "spec",
            "spec.rules[0].from[12].source",
            "metadata.labels[app.kubernetes.io/name]",
            "spec.portLevelMtls[8080].mode",
        ] {
            assert_eq!(Path::parse(text).to_string(), text);
        }
    }

    #[test]
    fn below_means_whole_segments() {
        let rule = Path::parse("spec.rules[1]");
        assert!(Path::parse("spec.rules[1].from").is_within(&rule));
        assert!(!Path::parse("spec.rules[10].from").is_within(&rule));
    }
}
