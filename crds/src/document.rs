//! From text to documents: YAML as Kubernetes reads it, or JSON, each document with the lines its fields stand on.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

mod reader;
mod scalar;
mod span;
mod split;
#[cfg(test)]
mod tests;
mod write;

pub use span::SpanTree;
pub use write::to_yaml;

use crate::codes::Code;
use crate::issue::{Issue, Severity, one_line};
use crate::path::Path;

/// The largest text that is read, in bytes. A Kubernetes object is at most 1.5 MiB; a file may hold many.
pub const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;
/// The deepest nesting of one document, in levels.
pub const MAX_DEPTH: usize = 128;
/// The most nodes that one document may have, counted after aliases are expanded.
pub const MAX_NODES: usize = 1_000_000;

/// The most bytes that anchors and aliases of one document may copy.
pub const MAX_COPIED_BYTES: usize = 16 * 1024 * 1024;

/// One document of a file, or one object from an API server. Debug output names it but shows no content, which may be a Secret's.
#[derive(Clone, PartialEq)]
pub struct Document {
    /// The file as the caller named it; empty when the object did not come from a file.
    pub file: Arc<str>,
    /// The content. Keys keep their order.
    pub value: Value,
    spans: SpanTree,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, value, spans: _ } = self;
        let metadata = value.get("metadata");
        f.debug_struct("Document")
            .field("file", file)
            .field("kind", &value.get("kind"))
            .field("namespace", &metadata.and_then(|metadata| metadata.get("namespace")))
            .field("name", &metadata.and_then(|metadata| metadata.get("name")))
            .finish_non_exhaustive()
    }
}

/// A part of a text that is no document, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableText {
    /// The file as the caller named it.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: u32,
    /// Which kind of problem.
    pub code: Code,
    /// One line for a person.
    pub message: String,
}

impl UnreadableText {
    /// Always [`Severity::Error`]: there is no document.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }
}

/// All that one text held, in order.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// The readable documents; the items of a `List` stand for themselves.
    pub documents: Vec<Document>,
    /// What could not be read. One broken document does not spoil its neighbours.
    pub unreadable: Vec<UnreadableText>,
}

/// Reads all documents of a text: YAML documents separated by `---`, or JSON. Empty documents and comments are skipped, `kind: List` is unfolded.
///
/// Never fails and never panics: what cannot be read is in [`Documents::unreadable`].
#[must_use]
pub fn read(file: &str, text: &[u8]) -> Documents {
    let file: Arc<str> = Arc::from(file);
    let mut read = Documents::default();
    let refuse =
        |line, code, message| UnreadableText { file: Arc::clone(&file), line, code, message: one_line(message) };
    if text.len() > MAX_TEXT_BYTES {
        read.unreadable.push(refuse(
            1,
            Code::TooLarge,
            format!("the text has {} bytes; at most {MAX_TEXT_BYTES} are read", text.len()),
        ));
        return read;
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let line = text.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
            read.unreadable.push(refuse(
                span::line_number(line),
                Code::InvalidText,
                "the text is not UTF-8".to_owned(),
            ));
            return read;
        }
    };
    // What is missing at the end is missing on the last line, not on one that is not there.
    let last = span::line_number(text.lines().count().saturating_sub(1));
    for part in split::split(text) {
        match reader::read_part(&part) {
            Ok(nodes) => {
                for (value, spans) in nodes {
                    unfold(&file, value, spans, &mut read.documents);
                }
            }
            Err(problem) => read.unreadable.push(refuse(problem.line.min(last), problem.code, problem.message)),
        }
    }
    read
}

impl Document {
    /// A document that did not come from text, such as an object from an API server. It has no lines.
    #[must_use]
    pub fn from_value(value: Value) -> Self {
        Self { file: Arc::from(""), value, spans: SpanTree::default() }
    }

    /// The line of a field, counted from 1; of the nearest enclosing field that is written when this one is not. `None` without text.
    #[must_use]
    pub fn line(&self, path: &Path) -> Option<u32> {
        self.spans.line(path)
    }

    /// As [`Document::line`], for a path in its text form.
    #[must_use]
    pub fn line_of(&self, path: &str) -> Option<u32> {
        self.line(&Path::parse(path))
    }

    /// The text of a field, for a path in its text form made of keys alone.
    #[must_use]
    pub fn text_at(&self, path: &str) -> Option<&str> {
        path.split('.').try_fold(&self.value, |value, key| value.get(key))?.as_str()
    }

    /// The line of an issue about this document.
    #[must_use]
    pub fn line_of_issue(&self, issue: &Issue) -> Option<u32> {
        self.line(&issue.path)
    }
}

/// A piece of a text of several documents: from one `---` to the next.
#[derive(Clone, PartialEq)]
pub struct Piece<'a> {
    /// The piece as it stands, separator and comments included.
    pub text: &'a str,
    /// What it holds, lists not unfolded; or the line of the text and what is wrong there.
    pub values: Result<Vec<Value>, (u32, String)>,
}

/// The pieces of a text, which together are the text: for changing some of its documents and none of the others' bytes.
#[must_use]
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let read = |part: &split::Part<'_>| {
        if !part.has_content() {
            return Ok(Vec::new());
        }
        let nodes = reader::read_part(part).map_err(|problem| (problem.line, problem.message))?;
        Ok(nodes.into_iter().map(|(value, _)| value).collect())
    };
    split::cut(text).into_iter().map(|part| Piece { text: part.text, values: read(&part) }).collect()
}

/// Appends the document, or the items of it if it is a list of objects. `kubectl get -o yaml` writes such lists.
fn unfold(file: &Arc<str>, value: Value, spans: SpanTree, documents: &mut Vec<Document>) {
    let Value::Object(mut object) = value else {
        documents.push(Document { file: Arc::clone(file), value, spans });
        return;
    };
    let kind = object.get("kind").and_then(Value::as_str).map(str::to_owned);
    let item_kind = kind.as_deref().and_then(|kind| kind.strip_suffix("List"));
    let (Some(item_kind), Some(Value::Array(_))) = (item_kind, object.get("items")) else {
        documents.push(Document { file: Arc::clone(file), value: Value::Object(object), spans });
        return;
    };
    let api_version = object.get("apiVersion").cloned();
    let Some(Value::Array(items)) = object.remove("items") else { return };
    let mut item_spans = spans.into_items("items");
    for mut item in items {
        let spans = item_spans.next().unwrap_or_default();
        // The items of a typed list (ServiceList) carry neither kind nor version of their own.
        if let (false, Value::Object(item)) = (item_kind.is_empty(), &mut item) {
            item.entry("kind").or_insert_with(|| Value::String(item_kind.to_owned()));
            if let Some(version) = &api_version {
                item.entry("apiVersion").or_insert_with(|| version.clone());
            }
        }
        unfold(file, item, spans, documents);
    }
}
