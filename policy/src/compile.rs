//! Cedar's public syntax tree to the compiled form: a partial function. What it does not know stays on Cedar, never gets a wrong answer.

use cedar_policy::pst::{
    ActionConstraint, BinaryOp, Clause, EntityOrSlot, EntityUID, Expr, Literal, PatternElem, Policy,
    PrincipalConstraint, ResourceConstraint, Template, UnaryOp, Var,
};

use crate::{
    glob::Glob,
    ipset::{IpSet, parse_net},
    ir::{Actions, Address, Entity, Kind, NO_LABEL, Node, Number, Optional, Program, Sorted, Test, Text},
    pattern::{Pattern, PatternLevel},
};

/// What the compiled form cannot express.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no compiled form for {0}")]
pub(crate) struct Unsupported(pub String);

type Compiled<T> = Result<T, Unsupported>;

/// Deeper expressions are not compiled; strict checking refuses them long before.
const MAX_DEPTH: usize = 100;

/// Compiles a policy's scope and conditions. Labels are not known here.
pub(crate) fn compile(policy: &Policy) -> Compiled<Program> {
    let template = policy.body();
    let mut parts = Vec::new();
    match &template.principal {
        PrincipalConstraint::Any => {}
        PrincipalConstraint::Eq(entity) => parts.push(test(Test::PrincipalIs(scope_entity(entity)?))),
        PrincipalConstraint::In(entity) => parts.push(principal_in(vec![scope_entity(entity)?])),
        PrincipalConstraint::Is(kind) => parts.push(test(Test::PrincipalKind(kind_of(&kind.to_string())?))),
        PrincipalConstraint::IsIn(kind, entity) => {
            parts.push(test(Test::PrincipalKind(kind_of(&kind.to_string())?)));
            parts.push(principal_in(vec![scope_entity(entity)?]));
        }
    }
    match &template.resource {
        ResourceConstraint::Any => {}
        ResourceConstraint::Eq(entity) => parts.push(test(Test::ResourceIs(scope_entity(entity)?))),
        ResourceConstraint::In(entity) => parts.push(resource_in(vec![scope_entity(entity)?])),
        ResourceConstraint::Is(kind) => parts.push(test(Test::ResourceKind(kind_of(&kind.to_string())?))),
        ResourceConstraint::IsIn(kind, entity) => {
            parts.push(test(Test::ResourceKind(kind_of(&kind.to_string())?)));
            parts.push(resource_in(vec![scope_entity(entity)?]));
        }
    }
    let actions = scope_actions(template)?;
    for clause in template.clauses() {
        let node = match clause {
            Clause::When(expr) => condition(expr, 0)?,
            Clause::Unless(expr) => negate(condition(expr, 0)?),
        };
        match node {
            Node::All(children) => parts.extend(children),
            other => parts.push(other),
        }
    }
    let condition = match parts.len() {
        0 => Node::Const(true),
        _ => single_or(parts, Node::All),
    };
    Ok(Program { actions, condition, labels: Vec::new() })
}

/// The actions that a policy's scope names, as far as its resource can take part in them.
pub(crate) fn scope_actions(template: &Template) -> Compiled<Actions> {
    let named = match &template.action {
        ActionConstraint::Any => Actions::ALL,
        ActionConstraint::Eq(uid) => action(uid, false)?,
        ActionConstraint::In(uids) => {
            uids.iter().try_fold(Actions(0), |all, uid| Ok::<_, Unsupported>(all.union(action(uid, true)?)))?
        }
    };
    let of_entity = |entity: &EntityOrSlot| scope_entity(entity).map(|entity| entity.kind);
    let kind = match &template.resource {
        ResourceConstraint::Any => return Ok(named),
        ResourceConstraint::Eq(entity) | ResourceConstraint::In(entity) => of_entity(entity)?,
        ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => kind_of(&kind.to_string())?,
    };
    // Nothing is in an external host but itself, and no external host is in anything.
    Ok(named.without(if kind == Kind::ExternalHost { Actions::INBOUND } else { Actions::EGRESS }))
}

fn test(test: Test) -> Node {
    Node::Test(test, NO_LABEL)
}

fn negate(node: Node) -> Node {
    match node {
        Node::Const(value) => Node::Const(!value),
        other => Node::Not(Box::new(other)),
    }
}

fn single_or(mut nodes: Vec<Node>, several: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => only,
        Some(last) => {
            nodes.push(last);
            several(nodes)
        }
        None => several(nodes),
    }
}

fn unsupported<T>(expr: &Expr) -> Compiled<T> {
    let mut text = expr.to_string();
    if let Some((cut, _)) = text.char_indices().nth(120) {
        text.truncate(cut);
    }
    Err(Unsupported(format!("`{text}`")))
}

fn scope_entity(entity: &EntityOrSlot) -> Compiled<Entity> {
    match entity {
        EntityOrSlot::Entity(uid) => entity_of(uid),
        EntityOrSlot::Slot(slot) => Err(Unsupported(format!("template slot `{slot}`"))),
    }
}

fn kind_of(name: &str) -> Compiled<Kind> {
    Ok(match name {
        "Mesh::ServiceAccount" => Kind::ServiceAccount,
        "Mesh::ExternalPeer" => Kind::ExternalPeer,
        "Mesh::Anonymous" => Kind::Anonymous,
        "Mesh::Namespace" => Kind::Namespace,
        "Mesh::TrustDomain" => Kind::TrustDomain,
        "Mesh::Workload" => Kind::Workload,
        "Mesh::Gateway" => Kind::Gateway,
        "Mesh::ExternalHost" => Kind::ExternalHost,
        other => return Err(Unsupported(format!("entity type `{other}`"))),
    })
}

fn entity_of(uid: &EntityUID) -> Compiled<Entity> {
    Ok(Entity { kind: kind_of(&uid.ty.to_string())?, id: uid.eid.as_str().into() })
}

fn action(uid: &EntityUID, with_members: bool) -> Compiled<Actions> {
    if uid.ty.to_string() != "Mesh::Action" {
        return Err(Unsupported(format!("action `{uid}`")));
    }
    Ok(match (uid.eid.as_str(), with_members) {
        ("tcp", _) => Actions::TCP,
        ("http", _) => Actions::HTTP,
        ("grpc", _) => Actions::GRPC,
        ("egressTcp", _) => Actions::EGRESS_TCP,
        ("egressHttp", _) => Actions::EGRESS_HTTP,
        ("l4", true) => Actions::TCP.union(Actions::EGRESS_TCP),
        ("l7", true) => Actions::L7.union(Actions::EGRESS_HTTP),
        ("egress", true) => Actions::EGRESS,
        ("any", true) => Actions::ALL,
        // No request has a group as its action.
        ("l4" | "l7" | "egress" | "any", false) => Actions(0),
        (other, _) => return Err(Unsupported(format!("action `{other}`"))),
    })
}

fn principal_in(entities: Vec<Entity>) -> Node {
    test(Test::PrincipalIn(Sorted::from_values(entities)))
}

fn resource_in(entities: Vec<Entity>) -> Node {
    test(Test::ResourceIn(Sorted::from_values(entities)))
}

fn condition(expr: &Expr, depth: usize) -> Compiled<Node> {
    if depth > MAX_DEPTH {
        return Err(Unsupported("an expression this deep".to_owned()));
    }
    match expr {
        Expr::Literal(Literal::Bool(value)) => Ok(Node::Const(*value)),
        Expr::UnaryOp { op, expr: operand } => match op {
            UnaryOp::Not => Ok(negate(condition(operand, depth + 1)?)),
            UnaryOp::IsIPv4 => address_in(expr, operand, &["0.0.0.0/0"]),
            UnaryOp::IsIPV6 => address_in(expr, operand, &["::/0"]),
            UnaryOp::IsLoopback => address_in(expr, operand, &["127.0.0.0/8", "::1"]),
            UnaryOp::IsMulticast => address_in(expr, operand, &["224.0.0.0/4", "ff00::/8"]),
            _ => unsupported(expr),
        },
        Expr::BinaryOp { op, left, right } => match op {
            BinaryOp::And => {
                let mut children = Vec::new();
                for side in [left, right] {
                    match condition(side, depth + 1)? {
                        Node::All(inner) => children.extend(inner),
                        other => children.push(other),
                    }
                }
                Ok(Node::All(children))
            }
            BinaryOp::Or => {
                let mut children = Vec::new();
                for side in [left, right] {
                    match condition(side, depth + 1)? {
                        Node::Any(inner) => children.extend(inner),
                        other => children.push(other),
                    }
                }
                Ok(Node::Any(children))
            }
            BinaryOp::Eq => equal(expr, left, right),
            BinaryOp::NotEq => equal(expr, left, right).map(negate),
            BinaryOp::Less => number_range(expr, left, right, |n| (i64::MIN, n.checked_sub(1))),
            BinaryOp::LessEq => number_range(expr, left, right, |n| (i64::MIN, Some(n))),
            BinaryOp::Greater => {
                number_range(expr, left, right, |n| (n.saturating_add(1), (n < i64::MAX).then_some(i64::MAX)))
            }
            BinaryOp::GreaterEq => number_range(expr, left, right, |n| (n, Some(i64::MAX))),
            BinaryOp::In => is_in(expr, left, right),
            BinaryOp::Contains => contains(expr, left, right),
            BinaryOp::ContainsAny => contains_any(expr, left, right),
            BinaryOp::HasTag => match (tagged(left), string(right)) {
                (Some(Tagged::Headers), Some(name)) => Ok(test(Test::HasHeader(name.into()))),
                (Some(Tagged::Claims), Some(key)) => Ok(test(Test::HasClaim(key.into()))),
                _ => unsupported(expr),
            },
            BinaryOp::IsInRange => match (address(left), &**right) {
                (Some(address), Expr::UnaryOp { op: UnaryOp::Ip, expr: block }) => {
                    match string(block).and_then(parse_net) {
                        Some(net) => Ok(test(Test::AddressIn(address, IpSet::from(vec![net])))),
                        None => unsupported(expr),
                    }
                }
                _ => unsupported(expr),
            },
            _ => unsupported(expr),
        },
        Expr::Like { expr: operand, pattern } => match text(operand) {
            Some(text) => Ok(test(Test::TextLike(text, glob(pattern)))),
            None => unsupported(expr),
        },
        Expr::HasAttr { expr: operand, attrs } => {
            let mut path = context_path(operand).ok_or(()).or_else(|()| unsupported(expr))?;
            path.extend(attrs.iter().map(|a| a.as_str()));
            let optional = match path.as_slice() {
                ["tls"] => Optional::Tls,
                ["tls", "sni"] => Optional::Sni,
                ["tls", "alpn"] => Optional::Alpn,
                ["jwt"] => Optional::Jwt,
                ["http", "query"] => Optional::Query,
                _ => return unsupported(expr),
            };
            // `context.tls has sni` reads `context.tls`, and so fails without TLS; `context has tls.sni` does not.
            match (optional, &**operand) {
                (Optional::Sni | Optional::Alpn, Expr::GetAttr { .. }) => Ok(test(Test::HasInTls(optional))),
                _ => Ok(test(Test::Has(optional))),
            }
        }
        Expr::Is { expr: operand, entity_type, in_expr } => {
            let kind = kind_of(&entity_type.to_string())?;
            let is_kind = match &**operand {
                Expr::Var(Var::Principal) => Test::PrincipalKind(kind),
                Expr::Var(Var::Resource) => Test::ResourceKind(kind),
                _ => return unsupported(expr),
            };
            match in_expr {
                None => Ok(test(is_kind)),
                Some(groups) => Ok(Node::All(vec![test(is_kind), is_in(expr, operand, groups)?])),
            }
        }
        _ => unsupported(expr),
    }
}

fn equal(expr: &Expr, left: &Expr, right: &Expr) -> Compiled<Node> {
    let (operand, literal) = if matches!(left, Expr::Literal(_)) { (right, left) } else { (left, right) };
    match literal {
        Expr::Literal(Literal::String(value)) => match text(operand) {
            Some(text) => Ok(test(Test::TextIn(text, Sorted::from_values(vec![value.as_str().into()])))),
            None => unsupported(expr),
        },
        Expr::Literal(Literal::Long(value)) => match number(operand) {
            Some(number) => Ok(test(Test::NumberIn(number, vec![(*value, *value)]))),
            None => unsupported(expr),
        },
        Expr::Literal(Literal::EntityUID(uid)) => match operand {
            Expr::Var(Var::Principal) => Ok(test(Test::PrincipalIs(entity_of(uid)?))),
            Expr::Var(Var::Resource) => Ok(test(Test::ResourceIs(entity_of(uid)?))),
            Expr::Var(Var::Action) => Ok(test(Test::Action(action(uid, false)?))),
            _ => unsupported(expr),
        },
        // Equality of addresses compares prefix lengths too, so only a single address has a compiled form.
        Expr::UnaryOp { op: UnaryOp::Ip, expr: single } => {
            match (address(operand), string(single).and_then(|s| s.parse::<std::net::IpAddr>().ok())) {
                (Some(address), Some(ip)) => {
                    Ok(test(Test::AddressIn(address, IpSet::from(vec![ip.to_canonical().into()]))))
                }
                _ => unsupported(expr),
            }
        }
        _ => unsupported(expr),
    }
}

fn number_range(expr: &Expr, left: &Expr, right: &Expr, range: fn(i64) -> (i64, Option<i64>)) -> Compiled<Node> {
    match (number(left), right) {
        (Some(number), Expr::Literal(Literal::Long(value))) => Ok(match range(*value) {
            (first, Some(last)) => test(Test::NumberIn(number, vec![(first, last)])),
            // Nothing is below the smallest number; the operand is still read, and may fail.
            (_, None) => test(Test::NumberIn(number, Vec::new())),
        }),
        _ => unsupported(expr),
    }
}

fn address_in(expr: &Expr, operand: &Expr, blocks: &[&str]) -> Compiled<Node> {
    let nets: Option<Vec<_>> = blocks.iter().map(|b| parse_net(b)).collect();
    match (address(operand), nets) {
        (Some(address), Some(nets)) => Ok(test(Test::AddressIn(address, IpSet::from(nets)))),
        _ => unsupported(expr),
    }
}

fn is_in(expr: &Expr, left: &Expr, right: &Expr) -> Compiled<Node> {
    let uids: Vec<&EntityUID> = match right {
        Expr::Literal(Literal::EntityUID(uid)) => vec![uid],
        Expr::Set(items) => {
            let uids: Option<Vec<_>> = items
                .iter()
                .map(|i| if let Expr::Literal(Literal::EntityUID(uid)) = &**i { Some(uid) } else { None })
                .collect();
            uids.ok_or(()).or_else(|()| unsupported(expr))?
        }
        _ => return unsupported(expr),
    };
    match left {
        Expr::Var(Var::Principal) => Ok(principal_in(uids.into_iter().map(entity_of).collect::<Compiled<_>>()?)),
        Expr::Var(Var::Resource) => Ok(resource_in(uids.into_iter().map(entity_of).collect::<Compiled<_>>()?)),
        Expr::Var(Var::Action) => {
            let actions = uids
                .into_iter()
                .try_fold(Actions(0), |all, uid| Ok::<_, Unsupported>(all.union(action(uid, true)?)))?;
            Ok(test(Test::Action(actions)))
        }
        _ => unsupported(expr),
    }
}

fn contains(expr: &Expr, left: &Expr, right: &Expr) -> Compiled<Node> {
    if let Expr::Set(items) = left {
        if let (Some(text), Some(values)) = (text(right), strings(items)) {
            return Ok(test(Test::TextIn(text, Sorted::from_values(values))));
        }
        if let Some(number) = number(right) {
            let values: Option<Vec<_>> = items
                .iter()
                .map(|i| if let Expr::Literal(Literal::Long(n)) = &**i { Some((*n, *n)) } else { None })
                .collect();
            return values.map(|values| test(Test::NumberIn(number, values))).ok_or(()).or_else(|()| unsupported(expr));
        }
        return unsupported(expr);
    }
    match string(right) {
        Some(value) => any_of(expr, left, vec![value.into()]),
        None => unsupported(expr),
    }
}

fn contains_any(expr: &Expr, left: &Expr, right: &Expr) -> Compiled<Node> {
    match right {
        Expr::Set(items) => match strings(items) {
            Some(values) => any_of(expr, left, values),
            None => unsupported(expr),
        },
        _ => unsupported(expr),
    }
}

/// `set.containsAny([values])` for the sets of texts that there are.
fn any_of(expr: &Expr, set: &Expr, values: Vec<Box<str>>) -> Compiled<Node> {
    let level = match context_path(set).as_deref() {
        Some(["matched"]) => PatternLevel::Connection,
        Some(["http", "matched"]) => PatternLevel::Request,
        Some(["jwt", "audiences"]) => return Ok(test(Test::AudienceIn(Sorted::from_values(values)))),
        _ => {
            let Expr::BinaryOp { op: BinaryOp::GetTag, left, right } = set else { return unsupported(expr) };
            return match (tagged(left), string(right)) {
                (Some(Tagged::Headers), Some(name)) => {
                    Ok(test(Test::HeaderIn(name.into(), Sorted::from_values(values))))
                }
                (Some(Tagged::Claims), Some(key)) => Ok(test(Test::ClaimIn(key.into(), Sorted::from_values(values)))),
                _ => unsupported(expr),
            };
        }
    };
    let mut patterns = Vec::with_capacity(values.len());
    for value in values {
        match Pattern::parse(&value) {
            Ok(pattern) if pattern.level() == level => patterns.push(pattern),
            Ok(_) => return Err(Unsupported(format!("pattern `{value}` in this set"))),
            Err(error) => return Err(Unsupported(error.to_string())),
        }
    }
    Ok(test(Test::Matched(patterns)))
}

enum Tagged {
    Headers,
    Claims,
}

fn tagged(expr: &Expr) -> Option<Tagged> {
    match context_path(expr).as_deref() {
        Some(["http", "headers"]) => Some(Tagged::Headers),
        Some(["jwt", "claims"]) => Some(Tagged::Claims),
        _ => None,
    }
}

/// The attribute names from `context` to this expression.
pub(crate) fn context_path(expr: &Expr) -> Option<Vec<&str>> {
    let mut path = Vec::new();
    let mut at = expr;
    loop {
        match at {
            Expr::Var(Var::Context) => break,
            Expr::GetAttr { expr, attr } => {
                path.push(attr.as_str());
                at = expr;
            }
            _ => return None,
        }
    }
    path.reverse();
    Some(path)
}

fn text(expr: &Expr) -> Option<Text> {
    if let Expr::GetAttr { expr: owner, attr } = expr
        && matches!(&**owner, Expr::Var(Var::Resource))
    {
        return (attr.as_str() == "host").then_some(Text::ResourceHost);
    }
    if let Expr::GetAttr { expr: owner, attr } = expr
        && matches!(&**owner, Expr::Var(Var::Principal))
    {
        return match attr.as_str() {
            "name" => Some(Text::PrincipalName),
            "namespace" => Some(Text::PrincipalNamespace),
            "trustDomain" => Some(Text::PrincipalTrustDomain),
            "id" => Some(Text::ExternalPeerId),
            _ => None,
        };
    }
    Some(match context_path(expr)?.as_slice() {
        ["http", "method"] => Text::Method,
        ["http", "scheme"] => Text::Scheme,
        ["http", "authority"] => Text::Authority,
        ["http", "host"] => Text::Host,
        ["http", "path"] => Text::Path,
        ["http", "query"] => Text::Query,
        ["tls", "sni"] => Text::Sni,
        ["tls", "alpn"] => Text::Alpn,
        ["tls", "version"] => Text::TlsVersion,
        ["jwt", "issuer"] => Text::JwtIssuer,
        ["jwt", "subject"] => Text::JwtSubject,
        _ => return None,
    })
}

fn number(expr: &Expr) -> Option<Number> {
    Some(match context_path(expr)?.as_slice() {
        ["source", "port"] => Number::SourcePort,
        ["destination", "port"] => Number::DestinationPort,
        ["http", "depth"] => Number::Depth,
        _ => return None,
    })
}

fn address(expr: &Expr) -> Option<Address> {
    Some(match context_path(expr)?.as_slice() {
        ["source", "ip"] => Address::Source,
        ["source", "remoteIp"] => Address::Remote,
        ["destination", "ip"] => Address::Destination,
        _ => return None,
    })
}

fn string(expr: &Expr) -> Option<&str> {
    if let Expr::Literal(Literal::String(value)) = expr { Some(value.as_str()) } else { None }
}

fn strings(items: &[std::sync::Arc<Expr>]) -> Option<Vec<Box<str>>> {
    items.iter().map(|item| string(item).map(Into::into)).collect()
}

fn glob(pattern: &[PatternElem]) -> Glob {
    let mut first = String::new();
    let mut rest: Vec<String> = Vec::new();
    for element in pattern {
        match element {
            PatternElem::Wildcard => rest.push(String::new()),
            PatternElem::Char(c) => rest.last_mut().unwrap_or(&mut first).push(*c),
        }
    }
    Glob::new(first, rest)
}
