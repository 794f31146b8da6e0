//! Cedar's `like` patterns over bytes.

use serde::{Deserialize, Serialize};

/// The literal pieces between a pattern's wildcards. One piece: the exact text.
///
/// Cedar matches Unicode scalar values, this matches bytes: the same for valid UTF-8. A text that is not UTF-8 is matched byte by byte, so
/// stray bytes do not hide a prefix from a forbid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Glob {
    first: Box<str>,
    rest: Box<[Box<str>]>,
}

impl Glob {
    /// A pattern from its literal pieces.
    pub(crate) fn new(first: String, rest: Vec<String>) -> Self {
        Self { first: first.into(), rest: rest.into_iter().map(Into::into).collect() }
    }

    /// The text that every match starts with, and whether it is the whole pattern.
    pub(crate) fn literal_prefix(&self) -> (&str, bool) {
        (&self.first, self.rest.is_empty())
    }

    /// Whether a text matches.
    pub(crate) fn is_match(&self, text: &[u8]) -> bool {
        let Some((last, middle)) = self.rest.split_last() else { return text == self.first.as_bytes() };
        let Some(mut rest) = text.strip_prefix(self.first.as_bytes()).and_then(|t| t.strip_suffix(last.as_bytes()))
        else {
            return false;
        };
        for piece in middle {
            let Some(at) = find(rest, piece.as_bytes()) else { return false };
            rest = rest.get(at + piece.len()..).unwrap_or_default();
        }
        true
    }

    /// The pattern as text, wildcards as `*`.
    pub(crate) fn show(&self) -> String {
        self.rest.iter().fold(self.first.to_string(), |text, piece| text + "*" + piece)
    }
}

fn find(text: &[u8], piece: &[u8]) -> Option<usize> {
    if piece.is_empty() { Some(0) } else { text.windows(piece.len()).position(|window| window == piece) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_overlap() {
        let glob =
            |parts: &[&str]| Glob::new(parts[0].to_owned(), parts[1..].iter().map(|p| (*p).to_owned()).collect());
        assert!(glob(&["a", "a"]).is_match(b"aa"));
        assert!(!glob(&["a", "a"]).is_match(b"a"));
        assert!(glob(&["", "b", ""]).is_match(b"abc"));
        assert!(glob(&["a", "b", "c"]).is_match(b"a-b-c"));
        assert!(!glob(&["a", "bb", "b"]).is_match(b"abb"));
        assert!(glob(&["a"]).is_match(b"a") && !glob(&["a"]).is_match(b"ab"));
        assert!(glob(&["/admin", ""]).is_match(b"/admin\xff"));
    }
}
