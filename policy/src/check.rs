//! Strict checking of one policy's Cedar text: syntax, schema, and what the schema cannot say.

use std::sync::Arc;

use cedar_policy::{
    Policy, PolicySet, ValidationMode,
    pst::{self, BinaryOp, Clause, EntityOrSlot, EntityUID, Expr, Literal, UnaryOp},
};
use miette::Diagnostic;

use crate::{
    compile::context_path,
    pattern::{Pattern, PatternLevel},
    schema::mesh_schema,
};

/// Longer texts are refused. A list of 10,000 address blocks is half of it.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Deeper expressions are refused: Cedar evaluates recursively, and on a small stack a deep policy would fail instead of denying.
pub const MAX_DEPTH: usize = 64;

/// One thing that is wrong in a policy's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line, from 1; `None` where the finding is about the whole policy.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
}

/// A policy that passed: parsed, and its syntax tree.
#[derive(Debug)]
pub(crate) struct Checked {
    pub policy: Policy,
    pub tree: pst::Policy,
}

/// Checks one policy's text: exactly one static policy, strictly valid against the schema without warnings, no arithmetic, bounded depth and
/// size, nothing that no request can carry.
///
/// # Errors
/// All findings of the first step that has some.
pub fn check_text(text: &str) -> Result<(), Vec<Finding>> {
    check(text, Warnings::Refuse).map(|_| ())
}

/// What the validator's warnings are worth. In a hand-written policy "can never match" is a mistake; a rule translated from a document may
/// say so, and then never matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warnings {
    Refuse,
    Accept,
}

pub(crate) fn check(text: &str, warnings: Warnings) -> Result<Checked, Vec<Finding>> {
    let whole = |message: String| vec![Finding { line: None, column: None, message: one_line(&message) }];
    if text.len() > MAX_TEXT_BYTES {
        return Err(whole(format!("{} bytes of policy are more than {MAX_TEXT_BYTES}", text.len())));
    }
    if let Some(finding) = nesting_problem(text) {
        return Err(vec![finding]);
    }
    let policy = Policy::parse(None, text)
        .map_err(|errors| errors.iter().map(|error| parse_finding(text, error)).collect::<Vec<_>>())?;
    let tree = policy.to_pst().map_err(|error| whole(error.to_string()))?;
    let mut lint = Lint::default();
    lint.scope(&tree);
    for clause in tree.body().clauses() {
        match clause {
            Clause::When(expr) | Clause::Unless(expr) => lint.expr(expr, 0),
        }
    }
    if !lint.messages.is_empty() {
        return Err(lint.messages.into_iter().map(|message| Finding { line: None, column: None, message }).collect());
    }
    let schema = mesh_schema().map_err(whole)?;
    let mut set = PolicySet::new();
    set.add(policy.clone()).map_err(|error| whole(error.to_string()))?;
    let result = schema.validator.validate(&set, ValidationMode::Strict);
    let errors = result.validation_errors().map(|e| parse_finding(text, e));
    let mut findings: Vec<Finding> = errors.collect();
    if warnings == Warnings::Refuse {
        findings.extend(result.validation_warnings().map(|w| parse_finding(text, w)));
    }
    // The validator says the same once for each kind of request.
    findings.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
    findings.dedup_by(|later, first| first.line.is_some() && (later.line, later.column) == (first.line, first.column));
    if findings.is_empty() { Ok(Checked { policy, tree }) } else { Err(findings) }
}

/// What must be known of a text before it is parsed: Cedar's own parser and syntax trees recurse, and would take the thread down with them.
pub(crate) fn nesting_problem(text: &str) -> Option<Finding> {
    (nesting(text) > 2 * MAX_DEPTH).then(|| Finding {
        line: None,
        column: None,
        message: format!(
            "the policy nests deeper than {} levels; use a set, or brackets that balance a long `||`",
            2 * MAX_DEPTH
        ),
    })
}

/// One of Cedar's errors with its place in the text.
pub(crate) fn parse_finding(text: &str, error: &dyn Diagnostic) -> Finding {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let before = offset.and_then(|offset| text.get(..offset));
    Finding {
        line: before.map(|b| b.matches('\n').count() + 1),
        column: before.map(|b| b.rsplit('\n').next().unwrap_or_default().chars().count() + 1),
        message: one_line(&error.to_string()),
    }
}

/// Cedar quotes the user's text, line ends and all; a finding is one line.
fn one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// An upper bound of how deep a text's syntax tree is, texts and comments left out: open brackets, the operators of each open level (they
/// nest to the left), and dots in a row.
fn nesting(text: &str) -> usize {
    let (mut levels, mut open, mut dots, mut deepest) = (vec![0_usize], 0_usize, 0_usize, 0_usize);
    let mut chars = text.chars().peekable();
    let mut word = String::new();
    while let Some(c) = chars.next() {
        let is_if = word == "if" && !(c.is_ascii_alphanumeric() || c == '_');
        if c.is_ascii_alphanumeric() || c == '_' {
            if word.len() <= 2 {
                word.push(c);
            }
        } else {
            word.clear();
        }
        match c {
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if chars.peek() == Some(&'/') => drop(chars.by_ref().find(|c| *c == '\n')),
            '(' | '[' | '{' => levels.push(0),
            ')' | ']' | '}' => open -= levels.pop().unwrap_or(0),
            ',' | ';' => {
                dots = 0;
                open -= levels.last_mut().map_or(0, std::mem::take);
            }
            '.' => dots += 1,
            '=' | '<' | '>' => dots = 0,
            '&' | '|' => {
                dots = 0;
                // Both operators are two characters long.
                if chars.next_if_eq(&c).is_some() {
                    open += count(&mut levels);
                }
            }
            '+' | '-' | '*' | '!' => open += count(&mut levels),
            _ => {}
        }
        if is_if {
            open += count(&mut levels);
        }
        deepest = deepest.max(levels.len() + open + dots);
    }
    deepest
}

/// Counts one more operator on the innermost level.
fn count(levels: &mut Vec<usize>) -> usize {
    match levels.last_mut() {
        Some(operators) => *operators += 1,
        // More brackets were closed than opened; the parser will say so.
        None => levels.push(1),
    }
    1
}

/// Entity types that a request can fill. Anything else would quietly never match.
const KNOWN_TYPES: [&str; 11] = [
    "Mesh::ServiceAccount",
    "Mesh::ExternalPeer",
    "Mesh::Anonymous",
    "Mesh::Namespace",
    "Mesh::TrustDomain",
    "Mesh::Workload",
    "Mesh::Gateway",
    "Mesh::ExternalHost",
    "Mesh::Issuer",
    "Mesh::User",
    "Mesh::Action",
];

#[derive(Default)]
struct Lint {
    messages: Vec<String>,
}

impl Lint {
    fn say(&mut self, message: String) {
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    fn entity(&mut self, uid: &EntityUID) {
        let kind = uid.ty.to_string();
        if !KNOWN_TYPES.contains(&kind.as_str()) {
            self.say(format!("no request says anything about entities of type `{kind}`"));
        }
    }

    fn scope(&mut self, tree: &pst::Policy) {
        let template = tree.body();
        let mut literal = |entity: &EntityOrSlot| match entity {
            EntityOrSlot::Entity(uid) => self.entity(uid),
            EntityOrSlot::Slot(slot) => self.say(format!("template slot `{slot}`: templates are not supported")),
        };
        match &template.principal {
            pst::PrincipalConstraint::Eq(e)
            | pst::PrincipalConstraint::In(e)
            | pst::PrincipalConstraint::IsIn(_, e) => literal(e),
            pst::PrincipalConstraint::Any | pst::PrincipalConstraint::Is(_) => {}
        }
        match &template.resource {
            pst::ResourceConstraint::Eq(e) | pst::ResourceConstraint::In(e) | pst::ResourceConstraint::IsIn(_, e) => {
                literal(e)
            }
            pst::ResourceConstraint::Any | pst::ResourceConstraint::Is(_) => {}
        }
    }

    fn expr(&mut self, expr: &Expr, depth: usize) {
        if depth >= MAX_DEPTH {
            return self.say(format!(
                "an expression nests deeper than {MAX_DEPTH} levels; use a set, or brackets that balance a long `||`"
            ));
        }
        let below = depth + 1;
        match expr {
            Expr::Literal(Literal::EntityUID(uid)) => self.entity(uid),
            Expr::Literal(_) | Expr::Var(_) => {}
            Expr::UnaryOp { op, expr } => {
                if *op == UnaryOp::Neg {
                    self.say("arithmetic can overflow, and a forbid must not fail: `-` is refused".to_owned());
                }
                self.expr(expr, below);
            }
            Expr::BinaryOp { op, left, right } => self.binary(*op, left, right, below),
            Expr::GetAttr { expr: owner, .. } => {
                if matched_level(expr).is_some() {
                    self.say("`matched` is only for `contains` and `containsAny` with literal patterns".to_owned());
                }
                self.expr(owner, below);
            }
            Expr::HasAttr { expr, .. } | Expr::Like { expr, .. } => self.expr(expr, below),
            Expr::Is { expr, in_expr, .. } => {
                self.expr(expr, below);
                if let Some(groups) = in_expr {
                    self.expr(groups, below);
                }
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                for part in [cond, then_expr, else_expr] {
                    self.expr(part, below);
                }
            }
            Expr::Set(items) => items.iter().for_each(|item| self.expr(item, below)),
            Expr::Record(fields) => fields.values().for_each(|value| self.expr(value, below)),
            other => self.say(format!("`{other}` is not supported")),
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &Arc<Expr>, right: &Arc<Expr>, below: usize) {
        match op {
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Offset | BinaryOp::DurationSince => {
                self.say("arithmetic can overflow, and a forbid must not fail: `+`, `-`, `*`, `offset` and `durationSince` are refused".to_owned());
            }
            BinaryOp::HasTag | BinaryOp::GetTag => {
                let is_header = match context_path(left).as_deref() {
                    Some(["http", "headers"]) => true,
                    Some(["jwt", "claims"]) => false,
                    _ => {
                        return self.say(
                            "no request carries tags but those of `context.http.headers` and `context.jwt.claims`"
                                .to_owned(),
                        );
                    }
                };
                match &**right {
                    Expr::Literal(Literal::String(name))
                        if is_header && name.chars().any(|c| c.is_ascii_uppercase()) =>
                    {
                        self.say(format!("header names are lower case: `{name}` never matches"));
                    }
                    Expr::Literal(Literal::String(_)) => {}
                    _ => self.say("the name of a header or claim must be written out".to_owned()),
                }
                return self.expr(left, below);
            }
            BinaryOp::Contains | BinaryOp::ContainsAny => {
                if let Some(level) = matched_level(left) {
                    return self.patterns(level, right);
                }
            }
            _ => {}
        }
        self.expr(left, below);
        self.expr(right, below);
    }

    fn patterns(&mut self, level: PatternLevel, values: &Expr) {
        let mut literal = |value: &Expr| match value {
            Expr::Literal(Literal::String(text)) => match Pattern::parse(text) {
                Ok(pattern) if pattern.level() == level => {}
                Ok(_) if level == PatternLevel::Connection => {
                    self.say(format!("pattern `{text}` is about requests: it belongs into `context.http.matched`"));
                }
                Ok(_) => self.say(format!("pattern `{text}` is about the peer: it belongs into `context.matched`")),
                Err(error) => self.say(error.to_string()),
            },
            _ => self.say("patterns must be written out".to_owned()),
        };
        match values {
            Expr::Set(items) => items.iter().for_each(|item| literal(item)),
            single => literal(single),
        }
    }
}

fn matched_level(expr: &Expr) -> Option<PatternLevel> {
    match context_path(expr).as_deref() {
        Some(["matched"]) => Some(PatternLevel::Connection),
        Some(["http", "matched"]) => Some(PatternLevel::Request),
        _ => None,
    }
}

/// All text literals of a policy, for those who must prepare what it may ask for.
pub(crate) fn text_literals(tree: &pst::Policy) -> Vec<&str> {
    let mut out = Vec::new();
    let mut stack: Vec<&Expr> = tree
        .body()
        .clauses()
        .iter()
        .map(|clause| match clause {
            Clause::When(expr) | Clause::Unless(expr) => &**expr,
        })
        .collect();
    while let Some(expr) = stack.pop() {
        match expr {
            Expr::Literal(Literal::String(text)) => out.push(text.as_str()),
            Expr::UnaryOp { expr, .. }
            | Expr::GetAttr { expr, .. }
            | Expr::HasAttr { expr, .. }
            | Expr::Like { expr, .. } => stack.push(expr),
            Expr::BinaryOp { left, right, .. } => stack.extend([left.as_ref(), right.as_ref()]),
            Expr::Is { expr, in_expr, .. } => {
                stack.push(expr);
                stack.extend(in_expr.as_deref());
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                stack.extend([cond.as_ref(), then_expr.as_ref(), else_expr.as_ref()])
            }
            Expr::Set(items) => stack.extend(items.iter().map(|i| &**i)),
            Expr::Record(fields) => stack.extend(fields.values().map(|v| &**v)),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests;
