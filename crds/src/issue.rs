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
        Self { code, severity: code.severity(), path, message: message.into() }
    }

    /// Whether admission rejects the document because of this.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}
