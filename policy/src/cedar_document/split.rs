//! The statements of a Cedar text, told apart before any is parsed, so that a broken one spoils no other.

use crate::{check::Finding, ir::Actions};

/// One policy or template with the comments before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    /// The text up to and with its `;`.
    pub text: &'a str,
    /// Where it starts in the document, in bytes.
    start: usize,
    /// It ends with a `;` outside of texts and comments.
    pub is_closed: bool,
    /// It has a template slot.
    pub is_template: bool,
    /// The word `forbid` stands somewhere in it, so that, broken, it may be one.
    pub may_forbid: bool,
}

/// Splits a text at each `;` that stands in no text literal and no comment. What follows the last one and is not blank is one more.
pub(super) fn split(text: &str) -> Vec<Statement<'_>> {
    let mut statements = Vec::new();
    let (mut start, mut has_code, mut is_template) = (0, false, false);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                has_code = true;
                while let Some((_, c)) = chars.next() {
                    match c {
                        '\\' => {
                            chars.next();
                        }
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                for (_, c) in chars.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
            }
            ';' => {
                let end = at + 1;
                statements.extend(Statement::of(text, start, end, true, is_template));
                (start, has_code, is_template) = (end, false, false);
            }
            '?' => (has_code, is_template) = (true, true),
            c => has_code |= !c.is_whitespace(),
        }
    }
    if has_code {
        statements.extend(Statement::of(text, start, text.len(), false, is_template));
    }
    statements
}

impl<'a> Statement<'a> {
    fn of(text: &'a str, start: usize, end: usize, is_closed: bool, is_template: bool) -> Option<Self> {
        let text = text.get(start..end)?;
        // Blank lines in front count as the document's, so that positions point at the policy.
        let trimmed = text.trim_start();
        let start = start + (text.len() - trimmed.len());
        let code = || trimmed.lines().filter(|line| !line.trim_start().starts_with("//"));
        let may_forbid = code().any(|line| line.contains("forbid")) || !code().any(|line| line.contains("permit"));
        Some(Self { text: trimmed, start, is_closed, is_template, may_forbid })
    }

    /// A finding about the statement as one about the document.
    pub(super) fn place(&self, document: &str, finding: Finding) -> Finding {
        let Finding { line, column, message } = finding;
        let before = document.get(..self.start).unwrap_or_default();
        let lines_before = before.matches('\n').count();
        let columns_before = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let line = line.unwrap_or(1);
        let column = column.unwrap_or(1);
        Finding {
            line: Some(line + lines_before),
            column: Some(if line == 1 { column + columns_before } else { column }),
            message,
        }
    }

    /// What a statement that cannot be read may be about. A forbid may be about everything; a permit about what leaves the mesh only
    /// where it says so.
    pub(super) fn guessed_actions(&self) -> Actions {
        let says_egress = self.text.contains("egress") || self.text.contains("ExternalHost");
        if self.may_forbid || says_egress { Actions::ALL } else { Actions::INBOUND }
    }
}
