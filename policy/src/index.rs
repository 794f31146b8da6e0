//! What can be known of a condition before it is evaluated: whether it can fail, and which principals, paths and other values it needs.

use crate::{
    form::Form,
    ir::{Actions, Address, Entity, Kind, Node, Optional, Program, Test, Text},
    pattern::Pattern,
};

mod lookup;

pub(crate) use lookup::RequestIndex;

/// A path that a condition needs, in the form that requests are looked up by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PathKey {
    /// The whole path.
    Exact(Box<[u8]>),
    /// The path's first segments with the slash behind them; at most [`MAX_SEGMENTS`].
    Prefix(Box<[u8]>),
}

/// What of a request, beside its path, policies may be looked up by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Field {
    /// Any line of a header.
    Header(Box<str>),
    /// Any text of a claim.
    Claim(Box<str>),
    /// One text.
    Text(Text),
}

/// A value that a condition needs a field to have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FieldKey {
    pub(crate) field: Field,
    /// The whole value, or what it begins with.
    pub(crate) value: Box<[u8]>,
    pub(crate) is_prefix: bool,
}

/// What a policy needs of a request; `None`: nothing of that kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    pub(crate) paths: Option<Vec<PathKey>>,
    pub(crate) fields: Option<Vec<FieldKey>>,
}

/// How many leading segments of a path are looked at. One look-up each per request.
pub(crate) const MAX_SEGMENTS: usize = 3;

/// More alternatives than this are not worth separate entries.
const MAX_KEYS: usize = 256;

/// What a guard established to the left makes safe to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard<'a> {
    Has(Optional),
    Header(&'a str),
    Claim(&'a str),
    Kind(Kind),
    ResourceKind(Kind),
}

/// Whether evaluating the program can never fail: everything that may be absent is asked for first.
pub(crate) fn is_infallible(program: &Program) -> bool {
    let scope = Scope {
        may_be_opaque: program.actions.intersects(Actions::TCP.union(Actions::EGRESS_TCP)),
        is_egress: !program.actions.intersects(Actions::INBOUND),
    };
    is_safe(&program.condition, scope, &mut Vec::new())
}

/// What the actions alone make certain.
#[derive(Debug, Clone, Copy)]
struct Scope {
    /// There may be no request to look at.
    may_be_opaque: bool,
    /// The resource is always a host outside the mesh.
    is_egress: bool,
}

fn is_safe<'a>(node: &'a Node, scope: Scope, guards: &mut Vec<Guard<'a>>) -> bool {
    match node {
        Node::Const(_) => true,
        Node::Not(child) => is_safe(child, scope, guards),
        Node::Any(children) => children.iter().all(|child| {
            let established = guards.len();
            let is_child_safe = is_safe(child, scope, guards);
            guards.truncate(established);
            is_child_safe
        }),
        Node::All(children) => {
            let established = guards.len();
            let are_children_safe = children.iter().all(|child| {
                let is_child_safe = is_safe(child, scope, guards);
                if let Node::Test(test, _) = child {
                    guards.extend(guard_of(test));
                }
                is_child_safe
            });
            guards.truncate(established);
            are_children_safe
        }
        Node::Test(test, _) => is_test_safe(test, scope, guards),
    }
}

fn guard_of(test: &Test) -> Option<Guard<'_>> {
    match test {
        Test::Has(optional) | Test::HasInTls(optional) => Some(Guard::Has(*optional)),
        Test::HasHeader(name) => Some(Guard::Header(name)),
        Test::HasClaim(key) => Some(Guard::Claim(key)),
        Test::PrincipalKind(kind) => Some(Guard::Kind(*kind)),
        Test::ResourceKind(kind) => Some(Guard::ResourceKind(*kind)),
        _ => None,
    }
}

fn is_test_safe(test: &Test, scope: Scope, guards: &[Guard<'_>]) -> bool {
    let has = |optional| guards.contains(&Guard::Has(optional));
    let Scope { may_be_opaque, is_egress } = scope;
    let has_request = !may_be_opaque;
    match test {
        Test::PrincipalIs(_)
        | Test::PrincipalIn(_)
        | Test::PrincipalKind(_)
        | Test::Action(_)
        | Test::ResourceIs(_)
        | Test::ResourceIn(_)
        | Test::ResourceKind(_)
        | Test::AddressIn(Address::Source | Address::Remote | Address::Destination, _)
        | Test::Has(Optional::Tls | Optional::Sni | Optional::Alpn | Optional::Jwt) => true,
        Test::Has(Optional::Query) | Test::HasHeader(_) => has_request,
        Test::HasInTls(_) => has(Optional::Tls),
        Test::TextIn(text, _) | Test::TextLike(text, _) => match text {
            Text::Method | Text::Scheme | Text::Authority | Text::Host | Text::Path => has_request,
            Text::Query => has_request && has(Optional::Query),
            Text::Sni => has(Optional::Sni),
            Text::Alpn => has(Optional::Alpn),
            Text::TlsVersion => has(Optional::Tls) || has(Optional::Sni) || has(Optional::Alpn),
            Text::JwtIssuer | Text::JwtSubject => has(Optional::Jwt),
            Text::PrincipalName | Text::PrincipalNamespace | Text::PrincipalTrustDomain => {
                guards.contains(&Guard::Kind(Kind::ServiceAccount))
            }
            Text::ResourceHost => is_egress || guards.contains(&Guard::ResourceKind(Kind::ExternalHost)),
            Text::ExternalPeerId => guards.contains(&Guard::Kind(Kind::ExternalPeer)),
        },
        Test::NumberIn(number, _) => match number {
            crate::ir::Number::SourcePort | crate::ir::Number::DestinationPort => true,
            crate::ir::Number::Depth => has_request,
        },
        Test::HeaderIn(name, _) => has_request && guards.contains(&Guard::Header(name)),
        Test::HasClaim(_) | Test::AudienceIn(_) => has(Optional::Jwt),
        Test::ClaimIn(key, _) => has(Optional::Jwt) && guards.contains(&Guard::Claim(key)),
        Test::Matched(patterns) => {
            has_request || patterns.iter().all(|p| p.level() == crate::pattern::PatternLevel::Connection)
        }
    }
}

/// The principals of which one is needed for the condition to hold; `None`: any may do.
pub(crate) fn principal_keys(node: &Node) -> Option<Vec<Entity>> {
    needed(node, &|test| match test {
        Test::PrincipalIs(entity) => Some(vec![entity.clone()]),
        Test::PrincipalIn(entities) => Some(entities.as_slice().to_vec()),
        _ => None,
    })
}

/// The paths of which one is needed for the condition to hold; `None`: any may do.
pub(crate) fn path_keys(node: &Node) -> Option<Vec<PathKey>> {
    needed(node, &|test| match test {
        Test::TextIn(Text::Path, paths) => {
            Some(paths.as_slice().iter().map(|p| PathKey::Exact(p.as_bytes().into())).collect())
        }
        Test::TextLike(Text::Path, glob) => match glob.literal_prefix() {
            (path, true) => Some(vec![PathKey::Exact(path.as_bytes().into())]),
            (prefix, false) => leading_segments(prefix.as_bytes()).last().map(|p| vec![PathKey::Prefix(p.into())]),
        },
        Test::Matched(patterns) => patterns
            .iter()
            .map(|pattern| match pattern {
                Pattern::Path { template, .. } => {
                    leading_segments(template.literal_prefix().as_bytes()).last().map(|p| PathKey::Prefix(p.into()))
                }
                _ => None,
            })
            .collect(),
        _ => None,
    })
}

/// The values of fields of which one is needed for the condition to hold; `None`: any may do.
pub(crate) fn field_keys(node: &Node) -> Option<Vec<FieldKey>> {
    needed(node, &|test| {
        let keys = |field: &dyn Fn() -> Field, values: &[Box<str>]| {
            Some(values.iter().map(|value| FieldKey::new(field(), value, false)).collect())
        };
        match test {
            Test::HeaderIn(name, values) if is_plain_header(name) => {
                keys(&|| Field::Header(name.clone()), values.as_slice())
            }
            Test::ClaimIn(key, values) => keys(&|| Field::Claim(key.clone()), values.as_slice()),
            Test::TextIn(text, values) if is_looked_up(*text) => keys(&|| Field::Text(*text), values.as_slice()),
            Test::TextLike(text, glob) if is_looked_up(*text) => {
                let (value, is_whole) = glob.literal_prefix();
                (!value.is_empty()).then(|| vec![FieldKey::new(Field::Text(*text), value, !is_whole)])
            }
            Test::Matched(patterns) => patterns.iter().map(field_key_of).collect(),
            _ => None,
        }
    })
}

fn field_key_of(pattern: &Pattern) -> Option<FieldKey> {
    let (field, value) = match pattern {
        Pattern::Header { name, value } if is_plain_header(name) => (Field::Header(name.clone()), value),
        Pattern::Claim { key, value } => (Field::Claim(key.clone()), value),
        _ => return None,
    };
    match Form::of(value) {
        Form::Exact(value) => Some(FieldKey::new(field, value, false)),
        Form::Prefix(prefix) => Some(FieldKey::new(field, prefix, true)),
        Form::Any | Form::Suffix(_) => None,
    }
}

/// Parts of the request that are asked for as headers are put together anew each time: they are no index's business.
fn is_plain_header(name: &str) -> bool {
    !name.starts_with(':') && name != "host"
}

fn is_looked_up(text: Text) -> bool {
    matches!(text, Text::Authority | Text::Host | Text::JwtIssuer | Text::JwtSubject)
}

impl FieldKey {
    fn new(field: Field, value: &str, is_prefix: bool) -> Self {
        Self { field, value: value.as_bytes().into(), is_prefix }
    }
}

/// `/`-closed leading parts of a path, shortest first: `/a/b/c` has `/a/` and `/a/b/`.
pub(crate) fn leading_segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .skip(1)
        .filter(|(_, byte)| **byte == b'/')
        .take(MAX_SEGMENTS)
        .filter_map(|(at, _)| path.get(..=at))
}

fn needed<K: Ord>(node: &Node, of_test: &dyn Fn(&Test) -> Option<Vec<K>>) -> Option<Vec<K>> {
    match node {
        Node::Const(false) => Some(Vec::new()),
        Node::Const(true) | Node::Not(_) => None,
        Node::Test(test, _) => of_test(test),
        Node::All(children) => children.iter().filter_map(|child| needed(child, of_test)).min_by_key(Vec::len),
        Node::Any(children) => {
            let mut all = Vec::new();
            for child in children {
                all.extend(needed(child, of_test)?);
                if all.len() > MAX_KEYS {
                    return None;
                }
            }
            all.sort();
            all.dedup();
            Some(all)
        }
    }
}
