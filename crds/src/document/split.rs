//! Cuts a text into parts at `---` lines, so that a broken document ends where the next one begins.

/// A part of a text: at most one `---`, at its first line.
pub(super) struct Part<'a> {
    pub(super) text: &'a str,
    /// Lines of the file before this part.
    pub(super) lines_before: usize,
}

/// The parts that hold anything but comments, directives and blank lines.
pub(super) fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = cut(text);
    parts.retain(Part::has_content);
    parts
}

/// All parts; together they are the text.
pub(super) fn cut(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        // A line that begins with `---` ends the document before it in every context, inside quotes and block scalars too (YAML 1.2, 9.1.2).
        if is_marker(line) && offset > start {
            push(text, start, offset, start_line, &mut parts);
            (start, start_line) = (offset, line_number);
        }
        offset += line.len();
    }
    push(text, start, text.len(), start_line, &mut parts);
    parts
}

fn push<'a>(text: &'a str, start: usize, end: usize, lines_before: usize, parts: &mut Vec<Part<'a>>) {
    if let Some(text) = text.get(start..end).filter(|part| !part.is_empty()) {
        parts.push(Part { text, lines_before });
    }
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

impl Part<'_> {
    /// Whether it holds anything but comments, directives and blank lines.
    pub(super) fn has_content(&self) -> bool {
        self.text.lines().any(has_content)
    }
}

fn has_content(line: &str) -> bool {
    let line = if is_marker(line) { line.trim_start_matches('-') } else { line };
    let content = line.trim();
    !(content.is_empty() || content.starts_with('#') || line.starts_with('%') || content == "...")
}
