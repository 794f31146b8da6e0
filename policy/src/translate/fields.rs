//! The fields of `from` and `to` as conditions.

use std::rc::Rc;

use super::{
    Clause,
    expr::{Expr, like, quote, quote_all},
    principals::{self, expand_principals, expand_trust_domains},
};
use crate::{
    RuleProblem, TrustDomains,
    form::{Form, Template},
    ipset::{parse_net, show_net},
    pattern::Pattern,
};

/// What the meaning of values depends on.
pub(super) struct Context<'a> {
    pub namespace: &'a str,
    pub domains: &'a TrustDomains,
}

/// What was found wrong.
#[derive(Default)]
pub(super) struct Problems(Vec<RuleProblem>);

/// Makes the condition "one of these values".
pub(super) type Make<'a> = dyn Fn(&[String], &Rc<str>, &mut Problems) -> Expr + 'a;

impl Problems {
    pub(super) fn add(&mut self, field: &str, message: &str) {
        self.0.push(RuleProblem { field: field.to_owned(), message: message.to_owned() });
    }

    pub(super) fn into_result(self) -> Result<(), Vec<RuleProblem>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// A field and its `not` twin.
pub(super) fn pair(
    at: &str,
    name: &str,
    values: &[String],
    not_values: &[String],
    is_http_only: bool,
    make: &Make<'_>,
    problems: &mut Problems,
) -> Vec<Clause> {
    let mut not_name = String::from("not");
    not_name.extend(name.chars().take(1).flat_map(char::to_uppercase));
    not_name.extend(name.chars().skip(1));
    let positive = one(&format!("{at}.{name}"), values, false, is_http_only, make, problems);
    let negative = one(&format!("{at}.{not_name}"), not_values, true, is_http_only, make, problems);
    positive.into_iter().chain(negative).collect()
}

/// One field; `None` when it is not set.
pub(super) fn one(
    field: &str,
    values: &[String],
    is_negated: bool,
    is_http_only: bool,
    make: &Make<'_>,
    problems: &mut Problems,
) -> Option<Clause> {
    if values.is_empty() {
        return None;
    }
    for (position, value) in values.iter().enumerate() {
        if value.is_empty() {
            problems.add(&format!("{field}[{position}]"), "must not be empty");
        }
    }
    let expr = make(values, &Rc::from(field), problems);
    Some(Clause { expr: if is_negated { expr.not() } else { expr }, is_http_only })
}

/// `attribute` is one of the texts.
fn equals(attribute: &str, values: &[&str], field: &Rc<str>) -> Expr {
    match values {
        [] => Expr::Const(false),
        [only] => Expr::atom(format!("{attribute} == {}", quote(only)), field),
        several => Expr::atom(format!("{}.contains({attribute})", quote_all(several.iter().copied())), field),
    }
}

/// A set of texts has one of the texts.
pub(super) fn has_any<S: AsRef<str>>(set: &str, values: &[S], field: &Rc<str>) -> Expr {
    match values {
        [] => Expr::Const(false),
        [only] => Expr::atom(format!("{set}.contains({})", quote(only.as_ref())), field),
        several => Expr::atom(format!("{set}.containsAny({})", quote_all(several.iter().map(AsRef::as_ref))), field),
    }
}

/// The condition of one string form that is not exact.
fn form_atom(attribute: &str, form: Form<'_>, field: &Rc<str>) -> Expr {
    let text = match form {
        Form::Any => format!("{attribute} != \"\""),
        Form::Prefix(prefix) => format!("{attribute} like {}", like(prefix, "")),
        Form::Suffix(suffix) => format!("{attribute} like {}", like("", suffix)),
        Form::Exact(exact) => format!("{attribute} == {}", quote(exact)),
    };
    Expr::atom(text, field)
}

/// String forms over a text that is always there.
pub(super) fn texts(attribute: &str, values: &[String], field: &Rc<str>, _: &mut Problems) -> Expr {
    string_forms(attribute, values.iter().map(String::as_str), field)
}

fn string_forms<'a>(attribute: &str, values: impl Iterator<Item = &'a str>, field: &Rc<str>) -> Expr {
    let (mut exact, mut others) = (Vec::new(), Vec::new());
    for value in values {
        match Form::of(value) {
            Form::Exact(text) => exact.push(text),
            form => others.push(form_atom(attribute, form, field)),
        }
    }
    Expr::any(std::iter::once(equals(attribute, &exact, field)).chain(others).collect())
}

/// `:authority` with its port, case ignored.
pub(super) fn hosts(values: &[String], field: &Rc<str>, _: &mut Problems) -> Expr {
    let lowered: Vec<String> = values.iter().map(|v| v.to_ascii_lowercase()).collect();
    string_forms("context.http.authority", lowered.iter().map(String::as_str), field)
}

/// Paths: string forms and templates.
pub(super) fn paths(values: &[String], field: &Rc<str>, problems: &mut Problems) -> Expr {
    const PATH: &str = "context.http.path";
    let (templates, plain): (Vec<_>, Vec<_>) = values.iter().enumerate().partition(|(_, v)| Template::is_template(v));
    let (mut likes, mut patterns) = (Vec::new(), Vec::new());
    for (position, value) in templates {
        match Template::parse(value) {
            Ok(template) => match template.as_prefix_suffix() {
                Some((prefix, suffix)) => {
                    likes.push(Expr::atom(format!("{PATH} like {}", like(prefix, suffix)), field))
                }
                None => patterns.push(Pattern::Path { text: value.as_str().into(), template }.to_string()),
            },
            Err(message) => problems.add(&format!("{field}[{position}]"), &message),
        }
    }
    let plain = string_forms(PATH, plain.into_iter().map(|(_, v)| v.as_str()), field);
    let matched = has_any("context.http.matched", &patterns, field);
    Expr::any(std::iter::once(plain).chain(likes).chain([matched]).collect())
}

/// Original destination ports.
pub(super) fn ports(values: &[String], field: &Rc<str>, problems: &mut Problems) -> Expr {
    let mut ports = Vec::new();
    for (position, value) in values.iter().enumerate() {
        // As Go reads it: digits alone. Istio admits 0, which no connection has.
        let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        match value.parse::<u16>() {
            Ok(port) if is_number => ports.push(port),
            _ => problems.add(&format!("{field}[{position}]"), &format!("`{value}` is not a port from 1 to 65535")),
        }
    }
    match ports.as_slice() {
        [] => Expr::Const(false),
        [port] => Expr::atom(format!("context.destination.port == {port}"), field),
        several => {
            let list = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Expr::atom(format!("[{list}].contains(context.destination.port)"), field)
        }
    }
}

/// Addresses and blocks.
pub(super) fn blocks(attribute: &str, values: &[String], field: &Rc<str>, problems: &mut Problems) -> Expr {
    let mut atoms = Vec::new();
    for (position, value) in values.iter().enumerate() {
        match parse_net(value) {
            Some(net) => {
                atoms.push(Expr::atom(format!("{attribute}.isInRange(ip({}))", quote(&show_net(&net))), field))
            }
            None => {
                problems.add(&format!("{field}[{position}]"), &format!("`{value}` is neither an address nor a block"))
            }
        }
    }
    Expr::any(atoms)
}

/// Peer names.
pub(super) fn principals(values: &[String], field: &Rc<str>, context: &Context<'_>, _: &mut Problems) -> Expr {
    let values = expand_principals(values, context.domains);
    let (mut accounts, mut patterns, mut any) = (Vec::new(), Vec::new(), Expr::Const(false));
    for value in &values {
        if value == "*" {
            any = Expr::atom("principal is Mesh::Anonymous".to_owned(), field).not();
        } else if principals::is_account(value) {
            accounts.push(value.as_str());
        } else if !value.is_empty() {
            patterns.push(Pattern::Principal(value.as_str().into()).to_string());
        }
    }
    Expr::any(vec![is_in("Mesh::ServiceAccount", &accounts, field), any, has_any("context.matched", &patterns, field)])
}

fn is_in(kind: &str, ids: &[&str], field: &Rc<str>) -> Expr {
    match ids {
        [] => Expr::Const(false),
        [only] => Expr::atom(format!("principal in {kind}::{}", quote(only)), field),
        several => {
            let list = several.iter().map(|id| format!("{kind}::{}", quote(id))).collect::<Vec<_>>().join(", ");
            Expr::atom(format!("principal in [{list}]"), field)
        }
    }
}

/// Namespaces of the peer.
pub(super) fn namespaces(values: &[String], field: &Rc<str>, _: &mut Problems) -> Expr {
    let values = || values.iter().map(String::as_str).filter(|v| !v.is_empty());
    let is_plain = |value: &&str| !value.contains(['*', '/']);
    let exact: Vec<&str> = values().filter(is_plain).collect();
    let patterns: Vec<String> = values().filter(|v| !is_plain(v)).map(|value| format!("namespaces={value}")).collect();
    Expr::any(vec![is_in("Mesh::Namespace", &exact, field), has_any("context.matched", &patterns, field)])
}

/// Service accounts in any trust domain.
pub(super) fn service_accounts(
    values: &[String],
    field: &Rc<str>,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Expr {
    let mut patterns = Vec::new();
    for (position, value) in values.iter().enumerate() {
        let (namespace, account) = value.split_once('/').unwrap_or((context.namespace, value));
        let is_name = |text: &str| !text.is_empty() && !text.contains(['/', '*']);
        if value.len() > 320 || !is_name(namespace) || !is_name(account) {
            problems.add(&format!("{field}[{position}]"), &format!("`{value}` is not NAMESPACE/ACCOUNT or ACCOUNT"));
        } else {
            patterns.push(format!("serviceAccounts={namespace}/{account}"));
        }
    }
    has_any("context.matched", &patterns, field)
}

/// Trust domains of the peer.
pub(super) fn trust_domains(
    values: &[String],
    field: &Rc<str>,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Expr {
    for (position, value) in values.iter().enumerate() {
        let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
        if value.contains('/') || inner.contains('*') {
            problems.add(
                &format!("{field}[{position}]"),
                &format!("`{value}` is not a trust domain with at most one `*` at an end"),
            );
        }
    }
    let values = expand_trust_domains(values, context.domains);
    let (patterns, exact): (Vec<&String>, Vec<&String>) =
        values.iter().filter(|v| !v.is_empty()).partition(|v| v.contains('*'));
    let exact: Vec<&str> = exact.into_iter().map(String::as_str).collect();
    let patterns: Vec<String> = patterns.into_iter().map(|v| format!("trustDomains={v}")).collect();
    Expr::any(vec![is_in("Mesh::TrustDomain", &exact, field), has_any("context.matched", &patterns, field)])
}

/// `ISSUER/SUBJECT` of the token, split at the last slash.
pub(super) fn request_principals(values: &[String], field: &Rc<str>, _: &mut Problems) -> Expr {
    let each = values.iter().map(|value| {
        let star_or = |text: &'_ str, form| if text == "*" { Form::Any } else { form };
        // One star counts: the one at the start of the whole value or, failing that, the one at its end.
        let (issuer, subject) = match (value.strip_prefix('*'), value.strip_suffix('*'), value.rsplit_once('/')) {
            (Some(""), ..) => (Form::Any, Form::Any),
            (Some(_), _, Some((issuer, subject))) => (Form::of(issuer), star_or(subject, Form::Exact(subject))),
            (Some(suffix), _, None) => (Form::Any, Form::Suffix(suffix)),
            (None, Some(_), Some((issuer, subject))) => {
                (Form::Exact(issuer), star_or(subject, Form::Prefix(subject.strip_suffix('*').unwrap_or(subject))))
            }
            (None, Some(prefix), None) => (Form::Prefix(prefix), Form::Any),
            (None, None, Some((issuer, subject))) => (Form::Exact(issuer), Form::Exact(subject)),
            // Without a slash and a star it names no subject, and no token matches.
            (None, None, None) => return Expr::Const(false),
        };
        if issuer == Form::Exact("") || subject == Form::Exact("") {
            return Expr::Const(false);
        }
        Expr::all(vec![
            form_atom("context.jwt.issuer", issuer, field),
            form_atom("context.jwt.subject", subject, field),
        ])
    });
    let any = Expr::any(each.collect());
    Expr::all(vec![Expr::atom("context has jwt".to_owned(), field), any])
}
