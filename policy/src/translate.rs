//! A rule to Cedar text: one readable policy per rule, and a TCP form where a DENY or AUDIT rule needs one.

use palisade_model::policy::{Effect, PolicyId, PolicyMode};

use crate::{Condition, Operation, RuleAction, RuleProblem, RuleSpec, Source, TrustDomains};

mod expr;
mod fields;
mod keys;
mod principals;

use expr::Expr;
pub(crate) use expr::quote;
use fields::{Context, Problems};

/// One Cedar policy made from a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyForm {
    pub id: PolicyId,
    pub effect: Effect,
    pub mode: PolicyMode,
    pub text: String,
    /// The field path of each test in the text, in written order.
    pub labels: Vec<String>,
}

/// One field of a rule as an expression.
struct Clause {
    expr: Expr,
    is_http_only: bool,
}

/// Translates a rule. No form at all: the rule can never match.
///
/// # Errors
/// Everything that is wrong with the rule, by field.
pub(crate) fn translate(rule: &RuleSpec, domains: &TrustDomains) -> Result<Vec<PolicyForm>, Vec<RuleProblem>> {
    let RuleSpec { id, source, rule: _, namespace, action, mode, from, to, when } = rule;
    let context = Context { namespace, domains };
    let mut problems = Problems::default();
    let from = alternatives(from.as_deref(), "from", &mut problems, |s, at, problems| {
        source_clauses(s, at, &context, problems)
    });
    let to = alternatives(to.as_deref(), "to", &mut problems, operation_clauses);
    let when: Vec<Clause> = when
        .iter()
        .enumerate()
        .flat_map(|(position, condition)| {
            condition_clauses(condition, &format!("when[{position}]"), &context, &mut problems)
        })
        .collect();
    problems.into_result()?;

    let effect = if *action == RuleAction::Deny { Effect::Forbid } else { Effect::Permit };
    let mode = if *action == RuleAction::Audit { PolicyMode::Audit } else { *mode };
    let title = source.as_ref().map(ToString::to_string);
    let form = |id: PolicyId, actions: &str, expr: Expr| {
        let text = policy_text(&id, title.as_deref(), effect, actions, &expr)?;
        Some(PolicyForm { id, effect, mode, text, labels: expr.labels() })
    };
    let is_http_only =
        from.iter().flatten().flatten().chain(to.iter().flatten().flatten()).chain(&when).any(|c| c.is_http_only);
    let whole = assemble(&from, &to, &when, false);
    let mut forms = Vec::new();
    if is_http_only {
        forms.extend(form(id.clone(), HTTP, whole));
        // Istio: an ALLOW rule with an HTTP-only field does not exist on TCP; DENY and AUDIT keep the rest, and so are wider there.
        if *action != RuleAction::Allow {
            forms.extend(form(PolicyId(format!("{id}@tcp").into()), TCP, assemble(&from, &to, &when, true)));
        }
    } else {
        forms.extend(form(id.clone(), BOTH, whole));
    }
    Ok(forms)
}

const BOTH: &str = r#"action in [Mesh::Action::"tcp", Mesh::Action::"http", Mesh::Action::"grpc"]"#;
const HTTP: &str = r#"action in [Mesh::Action::"http", Mesh::Action::"grpc"]"#;
const TCP: &str = r#"action == Mesh::Action::"tcp""#;

/// The list items of `from` or `to`; `None` for an absent list.
fn alternatives<T>(
    items: Option<&[T]>,
    name: &str,
    problems: &mut Problems,
    clauses: impl Fn(&T, &str, &mut Problems) -> Vec<Clause>,
) -> Option<Vec<Vec<Clause>>> {
    let items = items?;
    if items.is_empty() {
        problems.add(name, "must not be an empty list");
    }
    let item = |(position, item)| clauses(item, &format!("{name}[{position}]"), problems);
    Some(items.iter().enumerate().map(item).collect())
}

fn assemble(from: &Option<Vec<Vec<Clause>>>, to: &Option<Vec<Vec<Clause>>>, when: &[Clause], is_tcp: bool) -> Expr {
    let all = |clauses: &[Clause]| {
        Expr::all(clauses.iter().filter(|c| !(is_tcp && c.is_http_only)).map(|c| c.expr.clone()).collect())
    };
    let any = |list: &Option<Vec<Vec<Clause>>>| match list {
        None => Expr::Const(true),
        Some(items) => Expr::any(items.iter().map(|clauses| all(clauses)).collect()),
    };
    Expr::all(vec![any(from), any(to), all(when)])
}

/// The text; `None` if the condition can never hold.
fn policy_text(id: &PolicyId, title: Option<&str>, effect: Effect, actions: &str, condition: &Expr) -> Option<String> {
    let mut text = format!("@id({})\n", quote(id.as_str()));
    if let Some(title) = title {
        text += &format!("@source({})\n", quote(title));
    }
    let effect = match effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    text += &format!("{effect} (\n  principal,\n  {actions},\n  resource is Mesh::Workload\n)");
    match condition {
        Expr::Const(false) => return None,
        Expr::Const(true) => text += ";\n",
        condition => text += &format!(" when {{\n  {}\n}};\n", condition.render_body()),
    }
    Some(text)
}

fn source_clauses(source: &Source, at: &str, context: &Context<'_>, problems: &mut Problems) -> Vec<Clause> {
    let Source {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        request_principals,
        not_request_principals,
    } = source;
    let at = format!("{at}.source");
    if !service_accounts.is_empty() || !not_service_accounts.is_empty() {
        let others = [principals, not_principals, namespaces, not_namespaces];
        if others.iter().any(|list| !list.is_empty()) {
            problems.add(&at, "`serviceAccounts` cannot be set together with `principals` or `namespaces`");
        }
        for (name, list) in [("serviceAccounts", service_accounts), ("notServiceAccounts", not_service_accounts)] {
            if list.len() > 16 {
                problems.add(&format!("{at}.{name}"), "more than 16 values");
            }
        }
    }
    let mut clauses = Vec::new();
    let mut add =
        |name: &str, values: &[String], not_values: &[String], is_http_only: bool, make: &fields::Make<'_>| {
            clauses.extend(fields::pair(&at, name, values, not_values, is_http_only, make, problems));
        };
    add("principals", principals, not_principals, false, &|v, f, p| fields::principals(v, f, context, p));
    add("namespaces", namespaces, not_namespaces, false, &|v, f, p| fields::namespaces(v, f, p));
    add("serviceAccounts", service_accounts, not_service_accounts, false, &|v, f, p| {
        fields::service_accounts(v, f, context, p)
    });
    add("trustDomains", trust_domains, not_trust_domains, false, &|v, f, p| fields::trust_domains(v, f, context, p));
    add("ipBlocks", ip_blocks, not_ip_blocks, false, &|v, f, p| fields::blocks("context.source.ip", v, f, p));
    add("remoteIpBlocks", remote_ip_blocks, not_remote_ip_blocks, false, &|v, f, p| {
        fields::blocks("context.source.remoteIp", v, f, p)
    });
    add("requestPrincipals", request_principals, not_request_principals, true, &|v, f, p| {
        fields::request_principals(v, f, p)
    });
    if clauses.is_empty() {
        problems.add(&at, "must have at least one field set");
    }
    clauses
}

fn operation_clauses(operation: &Operation, at: &str, problems: &mut Problems) -> Vec<Clause> {
    let Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } = operation;
    let at = format!("{at}.operation");
    let mut clauses = Vec::new();
    let mut add =
        |name: &str, values: &[String], not_values: &[String], is_http_only: bool, make: &fields::Make<'_>| {
            clauses.extend(fields::pair(&at, name, values, not_values, is_http_only, make, problems));
        };
    add("hosts", hosts, not_hosts, true, &|v, f, p| fields::hosts(v, f, p));
    add("ports", ports, not_ports, false, &|v, f, p| fields::ports(v, f, p));
    add("methods", methods, not_methods, true, &|v, f, p| fields::texts("context.http.method", v, f, p));
    add("paths", paths, not_paths, true, &|v, f, p| fields::paths(v, f, p));
    if clauses.is_empty() {
        problems.add(&at, "must have at least one field set");
    }
    clauses
}

fn condition_clauses(condition: &Condition, at: &str, context: &Context<'_>, problems: &mut Problems) -> Vec<Clause> {
    let Condition { key, values, not_values } = condition;
    if values.is_empty() && not_values.is_empty() {
        problems.add(at, "`values` or `notValues` must be set");
    }
    match keys::Key::parse(key) {
        Ok(key) => {
            let make: &fields::Make<'_> = &|v, f, p| key.expr(v, f, context, p);
            let positive = fields::one(&format!("{at}.values"), values, false, key.is_http_only(), make, problems);
            let negative =
                fields::one(&format!("{at}.notValues"), not_values, true, key.is_http_only(), make, problems);
            positive.into_iter().chain(negative).collect()
        }
        Err(message) => {
            problems.add(&format!("{at}.key"), &message);
            Vec::new()
        }
    }
}
