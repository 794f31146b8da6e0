//! What is wrong with a document, where, and how bad it is.

use serde::Serialize;

use crate::codes::Code;
use crate::path::Path;

/// How bad an [`Issue`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// Admitted, but probably not what was meant.
    Warning,
    /// Admission rejects the document.
    Error,
}

impl Severity {
    /// The word used in diagnostics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding about one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The stable code; [`Code::explanation`] says what it means.
    pub code: Code,
    /// How bad it is. Fixed by the code.
    pub severity: Severity,
    /// The field concerned; [`crate::Document::line`] turns it into a line.
    pub path: Path,
    /// One line for a person, lower case, without the path.
    pub message: String,
}

impl Issue {
    /// A finding with the severity that belongs to its code.
    #[must_use]
    pub fn new(code: Code, path: Path, message: impl Into<String>) -> Self {
        Self { code, severity: code.severity(), path, message: one_line(message.into()) }
    }

    /// Whether admission rejects the document because of this.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// A message as one line: line breaks and other control characters, which come from what users wrote, are shown as escapes.
#[must_use]
pub fn one_line(message: String) -> String {
    if !message.contains(char::is_control) {
        return message;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    message.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_wrote_breaks_no_line() {
        let issue = Issue::new(Code::InvalidText, Path::root(), "no version `v1\n2`");
        assert_eq!(issue.message, r"no version `v1\n2`");
        assert_eq!(one_line("\u{e4}\u{85}".to_owned()), "\u{e4}\\u{85}");
    }
}
