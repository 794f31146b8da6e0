//! Why a decision came out as it did: the deciding policies, or the nearest misses and the clauses that failed.

use std::{net::IpAddr, time::SystemTime};

use crate::{
    CompiledPolicy, ConnectionFacts, JwtFacts, PolicyRef, RequestFacts,
    eval::{Outcome, RequestState, View},
    ipset::show_net,
    ir::{Address, Kind, Node, Number, Program, Test, Text},
    pattern::Pattern,
};

/// An owned copy of what one decision was made from; [`crate::PolicyEngine::capture_http`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedRequest {
    /// The connection.
    pub connection: ConnectionFacts,
    /// The request; `None` for an opaque connection.
    pub http: Option<CapturedHttp>,
    /// The host outside the mesh that the decision was about; `None` for traffic towards a workload.
    pub egress_host: Option<Box<str>>,
}

/// An owned copy of a request, with only those header lines that the engine's policies mention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedHttp {
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Authority, port included.
    pub authority: Vec<u8>,
    /// Path as the engine saw it, query included.
    pub path: Vec<u8>,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The original client.
    pub remote_ip: IpAddr,
    /// The verified token.
    pub jwt: Option<JwtFacts>,
    /// The time of the request.
    pub now: SystemTime,
}

/// The whole story of one decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The verdict.
    pub allowed: bool,
    /// All policies that matched on the deciding side, the deciding one first; empty for the default deny.
    pub policies: Vec<PolicyRef>,
    /// For the default deny: the permits that came nearest, fewest failed clauses first. At most [`NearMiss::LIMIT`].
    pub nearest: Vec<NearMiss>,
    /// For a target that is denied as a whole: what is wrong.
    pub message: Option<String>,
    /// What each audited and dry-run document says.
    pub recorded: Vec<RecordedExplanation>,
}

/// What an audited or dry-run document says of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedExplanation {
    /// Its names; of its rules the first that matched.
    pub policy: PolicyRef,
    /// Whether a rule matched.
    pub matched: bool,
    /// The decision if it alone were enforced as well; `None` for an audited one.
    pub allowed: Option<bool>,
    /// Where no rule matched: the permit of it that came nearest.
    pub nearest: Option<NearMiss>,
}

/// A permit that did not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The permit.
    pub policy: PolicyRef,
    /// What would have to be otherwise.
    pub failed: Vec<FailedClause>,
}

/// One clause that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedClause {
    /// Field path in the rule, for example `to[0].operation.methods`.
    pub field: String,
    /// What the rule names there.
    pub expected: Vec<String>,
    /// What the request had; empty when it had nothing.
    pub actual: String,
}

impl CapturedRequest {
    /// The same, as traffic to a host outside the mesh.
    #[must_use]
    pub fn towards(self, host: &str) -> Self {
        Self { egress_host: Some(host.into()), ..self }
    }
}

impl CapturedHttp {
    /// The request as the engine is told of it.
    pub(crate) fn facts(&self) -> RequestFacts<'_> {
        let Self { method, scheme, authority, path, headers, remote_ip, jwt, now } = self;
        // The query is part of the path here.
        let (query, remote_ip, jwt, now) = (None, *remote_ip, jwt.as_ref(), *now);
        RequestFacts { method, scheme, authority, path, query, headers, remote_ip, jwt, now }
    }
}

/// The clauses of a permit that did not hold: of an `||` the alternative that came nearest.
pub(crate) fn failed_clauses(policy: &CompiledPolicy, view: &View<'_>) -> Vec<FailedClause> {
    match policy.program() {
        Some(program) => misses(&program.condition, view, program),
        // What has no compiled form has no fields either.
        None => vec![FailedClause { field: "condition".to_owned(), expected: Vec::new(), actual: String::new() }],
    }
}

/// Calls `visit` with each clause: its field path and the tests of that field which stand together. What is about no single field is
/// not a clause.
pub(crate) fn clauses(node: &Node, program: &Program, visit: &mut dyn FnMut(String, &[Node])) {
    let name = |label: u16| program.labels.get(usize::from(label)).cloned().unwrap_or_default();
    if let Some(label) = field_of(node, program) {
        return visit(name(label), std::slice::from_ref(node));
    }
    match node {
        Node::All(children) => {
            let mut at = 0;
            while let Some(first) = children.get(at) {
                let field = field_of(first, program);
                let rest = children.iter().skip(at);
                let run = rest.take_while(|c| field.is_some() && field_of(c, program) == field).count().max(1);
                match field {
                    Some(label) => visit(name(label), children.get(at..at + run).unwrap_or_default()),
                    None => clauses(first, program, visit),
                }
                at += run;
            }
        }
        Node::Any(children) => children.iter().for_each(|child| clauses(child, program, visit)),
        Node::Not(child) => clauses(child, program, visit),
        Node::Const(_) | Node::Test(..) => {}
    }
}

/// Empty if and only if the node holds.
fn misses(node: &Node, view: &View<'_>, program: &Program) -> Vec<FailedClause> {
    if node.eval(view, false) == Outcome::True {
        return Vec::new();
    }
    let children = match node {
        Node::All(children) => {
            let mut out: Vec<FailedClause> = Vec::new();
            let mut at = 0;
            // Tests of one field belong together: a guard (`context has jwt`) and what it guards are one clause.
            while let Some(first) = children.get(at) {
                let field = field_of(first, program);
                let run = children
                    .iter()
                    .skip(at)
                    .take_while(|c| field.is_some() && field_of(c, program) == field)
                    .count()
                    .max(1);
                let fields = children.get(at..at + run).unwrap_or_default();
                if fields.iter().any(|c| c.eval(view, false) != Outcome::True) {
                    match field {
                        Some(_) => out.push(clause_of(fields, view, program)),
                        None => out.extend(fields.iter().flat_map(|c| misses(c, view, program))),
                    }
                }
                at += run;
            }
            return out;
        }
        Node::Any(children) if field_of(node, program).is_none() => children,
        _ => return vec![clause_of(std::slice::from_ref(node), view, program)],
    };
    children.iter().map(|c| misses(c, view, program)).min_by_key(Vec::len).unwrap_or_default()
}

/// The one field that a node is about; `None` if it is about several.
fn field_of(node: &Node, program: &Program) -> Option<u16> {
    let mut labels = Vec::new();
    node.for_each_test(&mut |_, label| labels.push(label));
    let first = *labels.first()?;
    (program.labels.get(usize::from(first)).is_some() && labels.iter().all(|l| *l == first)).then_some(first)
}

fn clause_of(nodes: &[Node], view: &View<'_>, program: &Program) -> FailedClause {
    let (mut expected, mut actual, mut field) = (Vec::new(), None, None);
    for node in nodes {
        node.for_each_test(&mut |test, label| {
            for value in values_of(test) {
                if !expected.contains(&value) {
                    expected.push(value);
                }
            }
            if !is_guard(test) && actual.is_none() {
                actual = Some(actual_of(test, view));
            }
            field.get_or_insert_with(|| {
                program.labels.get(usize::from(label)).cloned().unwrap_or_else(|| subject_of(test))
            });
        });
    }
    FailedClause {
        field: field.unwrap_or_else(|| "condition".to_owned()),
        expected,
        actual: actual.unwrap_or_default(),
    }
}

/// Whether a test only asks if something is there, before another looks at it.
fn is_guard(test: &Test) -> bool {
    matches!(test, Test::Has(_) | Test::HasInTls(_) | Test::HasHeader(_) | Test::HasClaim(_))
}

/// What a test names, as the user wrote it.
fn values_of(test: &Test) -> Vec<String> {
    match test {
        Test::PrincipalIs(entity) | Test::ResourceIs(entity) => vec![entity.id.to_string()],
        Test::PrincipalIn(entities) | Test::ResourceIn(entities) => {
            entities.as_slice().iter().map(|e| e.id.to_string()).collect()
        }
        // `principal is Anonymous` stands inside a `!`: any peer that proved a name.
        Test::PrincipalKind(Kind::Anonymous) => vec!["*".to_owned()],
        Test::PrincipalKind(kind) | Test::ResourceKind(kind) => vec![format!("{kind:?}")],
        Test::TextIn(_, values) => {
            // `!= ""` is how "present" is written.
            values.as_slice().iter().map(|v| if v.is_empty() { "*".to_owned() } else { v.to_string() }).collect()
        }
        Test::HeaderIn(_, values) | Test::ClaimIn(_, values) | Test::AudienceIn(values) => {
            values.as_slice().iter().map(ToString::to_string).collect()
        }
        Test::TextLike(_, glob) => vec![glob.show()],
        Test::NumberIn(_, ranges) => ranges
            .iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect(),
        Test::AddressIn(_, set) => set.nets().iter().map(show_net).collect(),
        Test::Matched(patterns) => patterns.iter().map(Pattern::value).collect(),
        Test::Action(_) | Test::Has(_) | Test::HasInTls(_) | Test::HasHeader(_) | Test::HasClaim(_) => Vec::new(),
    }
}

/// What the request has there; several lines are joined by `, `.
fn actual_of(test: &Test, view: &View<'_>) -> String {
    let principal = &view.connection.principal;
    let text = |text: Text| view.text(text).map_or_else(|_| String::new(), |t| String::from_utf8_lossy(t).into_owned());
    let named = |kind: Kind| match kind {
        Kind::Namespace | Kind::TrustDomain => principal.id_of(kind).to_owned(),
        _ => principal.names.first().map_or_else(String::new, |n| n.strip_prefix("spiffe://").unwrap_or(n).to_owned()),
    };
    match test {
        Test::PrincipalIs(entity) => named(entity.kind),
        Test::PrincipalIn(entities) => named(entities.as_slice().first().map_or(Kind::ServiceAccount, |e| e.kind)),
        Test::PrincipalKind(kind) => named(*kind),
        Test::ResourceIs(_) | Test::ResourceIn(_) | Test::ResourceKind(_) => {
            view.target.entities.first().map_or_else(String::new, |e| e.id.to_string())
        }
        Test::TextIn(of, _) | Test::TextLike(of, _) => text(*of),
        Test::NumberIn(number, _) => view.number(*number).map_or_else(|_| String::new(), |n| n.to_string()),
        Test::AddressIn(address, _) => view.address(*address).map_or_else(|_| String::new(), |ip| ip.to_string()),
        Test::HeaderIn(name, _) | Test::HasHeader(name) => header(name, view),
        Test::ClaimIn(key, _) | Test::HasClaim(key) => claim(key, view),
        Test::AudienceIn(_) => claim("aud", view),
        Test::Matched(patterns) => match patterns.first() {
            Some(Pattern::Header { name, .. }) => header(name, view),
            Some(Pattern::Claim { key, .. }) => claim(key, view),
            Some(Pattern::Path { .. }) => text(Text::Path),
            Some(Pattern::Namespace { .. }) => named(Kind::Namespace),
            Some(Pattern::TrustDomain(_)) => named(Kind::TrustDomain),
            Some(Pattern::ServiceAccount { .. }) if principal.account.is_some() => {
                principal.account.as_ref().map_or_else(String::new, |a| format!("{}/{}", a.namespace, a.name))
            }
            Some(Pattern::Principal(_) | Pattern::ServiceAccount { .. }) | None => named(Kind::ServiceAccount),
        },
        Test::Action(_) | Test::Has(_) | Test::HasInTls(_) => String::new(),
    }
}

fn header(name: &str, view: &View<'_>) -> String {
    let RequestState::Known(request) = view.request else { return String::new() };
    let mut lines = Vec::new();
    request.visit_lines(name, &mut |line| {
        lines.push(String::from_utf8_lossy(line).into_owned());
        std::ops::ControlFlow::Continue(())
    });
    lines.join(", ")
}

fn claim(key: &str, view: &View<'_>) -> String {
    let RequestState::Known(request) = view.request else { return String::new() };
    let texts = request.facts.jwt.and_then(|jwt| jwt.claims.at(key));
    texts.map_or_else(String::new, |texts| texts.iter().cloned().collect::<Vec<_>>().join(", "))
}

/// A field name for a test whose policy brought none along.
fn subject_of(test: &Test) -> String {
    match test {
        Test::PrincipalIs(_) | Test::PrincipalIn(_) | Test::PrincipalKind(_) => "principal".to_owned(),
        Test::ResourceIs(_) | Test::ResourceIn(_) | Test::ResourceKind(_) => "resource".to_owned(),
        Test::Action(_) => "action".to_owned(),
        Test::TextIn(text, _) | Test::TextLike(text, _) => format!("{text:?}").to_lowercase(),
        Test::NumberIn(Number::SourcePort, _) => "source.port".to_owned(),
        Test::NumberIn(Number::DestinationPort, _) => "destination.port".to_owned(),
        Test::NumberIn(Number::Depth, _) => "http.depth".to_owned(),
        Test::AddressIn(Address::Source, _) => "source.ip".to_owned(),
        Test::AddressIn(Address::Remote, _) => "source.remoteIp".to_owned(),
        Test::AddressIn(Address::Destination, _) => "destination.ip".to_owned(),
        Test::HasHeader(name) | Test::HeaderIn(name, _) => format!("http.headers[{name}]"),
        Test::HasClaim(key) | Test::ClaimIn(key, _) => format!("jwt.claims[{key}]"),
        Test::AudienceIn(_) => "jwt.audiences".to_owned(),
        Test::Has(_) | Test::HasInTls(_) | Test::Matched(_) => "condition".to_owned(),
    }
}

impl NearMiss {
    /// How many misses are told at most.
    pub const LIMIT: usize = 8;
}
