//! Conditions while they are put together, and how they are written as Cedar text.

use std::{fmt::Write as _, rc::Rc};

/// A condition. Each atom is one test of the compiled form, so that field paths can be matched up by order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expr {
    Const(bool),
    Atom { text: String, field: Rc<str> },
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
}

/// Wider conditions are broken into lines.
const WIDTH: usize = 100;

/// More operands than this are joined as a balanced tree, because Cedar's operators nest to the left.
const FLAT: usize = 8;

impl Expr {
    pub(super) fn atom(text: String, field: &Rc<str>) -> Self {
        Self::Atom { text, field: Rc::clone(field) }
    }

    /// `&&`, simplified: `true` vanishes, `false` is the whole.
    pub(super) fn all(items: Vec<Self>) -> Self {
        Self::join(items, true)
    }

    /// `||`, simplified: `false` vanishes, `true` is the whole.
    pub(super) fn any(items: Vec<Self>) -> Self {
        Self::join(items, false)
    }

    pub(super) fn not(self) -> Self {
        match self {
            Self::Const(value) => Self::Const(!value),
            other => Self::Not(Box::new(other)),
        }
    }

    fn join(items: Vec<Self>, is_all: bool) -> Self {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Self::Const(value) if value == is_all => {}
                Self::Const(value) => return Self::Const(value),
                Self::All(inner) if is_all => out.extend(inner),
                Self::Any(inner) if !is_all => out.extend(inner),
                other => out.push(other),
            }
        }
        match out.pop() {
            None => Self::Const(is_all),
            Some(only) if out.is_empty() => only,
            Some(last) => {
                out.push(last);
                if is_all { Self::All(out) } else { Self::Any(out) }
            }
        }
    }

    /// The field path of each atom, in written order.
    pub(super) fn labels(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_labels(&mut out);
        out
    }

    fn collect_labels(&self, out: &mut Vec<String>) {
        match self {
            Self::Const(_) => {}
            Self::Atom { field, .. } => out.push(field.to_string()),
            Self::All(items) | Self::Any(items) => items.iter().for_each(|i| i.collect_labels(out)),
            Self::Not(item) => item.collect_labels(out),
        }
    }

    /// The text of a policy's body: the parts of an `&&` each on its own line.
    pub(super) fn render_body(&self) -> String {
        match self {
            Self::All(items) if items.len() <= FLAT => {
                items.iter().map(|i| i.render(2)).collect::<Vec<_>>().join(" &&\n  ")
            }
            other => other.render(2),
        }
    }

    fn render(&self, indent: usize) -> String {
        match self {
            Self::Const(value) => value.to_string(),
            Self::Atom { text, .. } => text.clone(),
            Self::Not(item) => match &**item {
                group @ (Self::All(_) | Self::Any(_)) => format!("!{}", group.render(indent)),
                single => format!("!({})", single.render(indent)),
            },
            Self::All(items) => group(items, "&&", indent),
            Self::Any(items) => group(items, "||", indent),
        }
    }
}

/// Operands in brackets, on one line where that is readable.
fn group(items: &[Expr], operator: &str, indent: usize) -> String {
    if items.len() > FLAT {
        let (left, right) = items.split_at(items.len() / 2);
        let side = |half: &[Expr]| match half {
            [only] => only.render(indent + 2),
            several => group(several, operator, indent + 2),
        };
        let pad = " ".repeat(indent + 2);
        return format!("(\n{pad}{} {operator}\n{pad}{}\n{})", side(left), side(right), " ".repeat(indent));
    }
    let line: Vec<String> = items.iter().map(|i| i.render(indent + 2)).collect();
    let joined = line.join(&format!(" {operator} "));
    if joined.len() + indent <= WIDTH && !joined.contains('\n') {
        return format!("({joined})");
    }
    let pad = " ".repeat(indent + 2);
    format!("(\n{pad}{}\n{})", line.join(&format!(" {operator}\n{pad}")), " ".repeat(indent))
}

/// A Cedar text literal. Whatever the text, the literal ends where it should: quotes, backslashes and everything that is not plainly
/// readable are escaped.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    escape(text, false, &mut out);
    out.push('"');
    out
}

/// A list of text literals.
pub(super) fn quote_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", texts.into_iter().map(quote).collect::<Vec<_>>().join(", "))
}

/// A `like` pattern: the two texts with a wildcard between them.
pub(super) fn like(prefix: &str, suffix: &str) -> String {
    let mut out = String::from('"');
    escape(prefix, true, &mut out);
    out.push('*');
    escape(suffix, true, &mut out);
    out.push('"');
    out
}

fn escape(text: &str, is_pattern: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '*' if is_pattern => out.push_str("\\*"),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
}
