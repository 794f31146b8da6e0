//! The compiled form of a policy's condition: a tree of tests, each with the field that it came from.

use serde::{Deserialize, Serialize};

use crate::{glob::Glob, ipset::IpSet, pattern::Pattern};

mod encoding;

pub(crate) use encoding::{IR_VERSION, decode, encode};

/// A whole compiled policy: scope and condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    /// The actions that the policy is about.
    pub actions: Actions,
    /// Principal and resource scope, then the conditions.
    pub condition: Node,
    /// Field paths that nodes refer to.
    pub labels: Vec<String>,
}

/// A node of the condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// A constant.
    Const(bool),
    /// `&&`, in written order.
    All(Vec<Node>),
    /// `||`, in written order.
    Any(Vec<Node>),
    /// `!`
    Not(Box<Node>),
    /// A test. The label is an index into [`Program::labels`]; [`NO_LABEL`] where the field is not known.
    Test(Test, u16),
}

/// Marks a test without a field path.
pub(crate) const NO_LABEL: u16 = u16::MAX;

/// Bits of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Actions(pub u8);

impl Actions {
    pub(crate) const TCP: Self = Self(1);
    pub(crate) const HTTP: Self = Self(2);
    pub(crate) const GRPC: Self = Self(4);
    pub(crate) const EGRESS_TCP: Self = Self(8);
    pub(crate) const EGRESS_HTTP: Self = Self(16);
    /// Requests towards a workload.
    pub(crate) const L7: Self = Self(2 | 4);
    /// Everything towards a workload.
    pub(crate) const INBOUND: Self = Self(1 | 2 | 4);
    /// Everything that leaves the mesh.
    pub(crate) const EGRESS: Self = Self(8 | 16);
    pub(crate) const ALL: Self = Self(1 | 2 | 4 | 8 | 16);

    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Kinds of entities that principals, resources and their groups can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Kind {
    ServiceAccount,
    ExternalPeer,
    Anonymous,
    Namespace,
    TrustDomain,
    Workload,
    Gateway,
    ExternalHost,
}

/// One entity by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Entity {
    pub kind: Kind,
    pub id: Box<str>,
}

/// Texts of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Text {
    Method,
    Scheme,
    Authority,
    Host,
    Path,
    Query,
    Sni,
    Alpn,
    TlsVersion,
    JwtIssuer,
    JwtSubject,
    PrincipalName,
    PrincipalNamespace,
    PrincipalTrustDomain,
    ExternalPeerId,
    ResourceHost,
}

/// Numbers of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Number {
    SourcePort,
    DestinationPort,
    Depth,
}

/// Addresses of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Address {
    Source,
    Remote,
    Destination,
}

/// What may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Optional {
    Tls,
    Sni,
    Alpn,
    Jwt,
    Query,
}

/// Values in ascending order without repetitions, so that look-up is a binary search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<T>", into = "Vec<T>")]
#[serde(bound(serialize = "T: Ord + Clone + Serialize", deserialize = "T: Ord + Clone + Deserialize<'de>"))]
pub(crate) struct Sorted<T>(Vec<T>);

/// A leaf of the condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Test {
    /// `principal == E`
    PrincipalIs(Entity),
    /// `principal in [E, …]`
    PrincipalIn(Sorted<Entity>),
    /// `principal is K`
    PrincipalKind(Kind),
    /// `action == A`, `action in A`
    Action(Actions),
    /// `resource == E`
    ResourceIs(Entity),
    /// `resource in [E, …]`
    ResourceIn(Sorted<Entity>),
    /// `resource is K`
    ResourceKind(Kind),
    /// `context has …`
    Has(Optional),
    /// `context.tls has …`: fails without TLS.
    HasInTls(Optional),
    /// `T == "…"`, `["…"].contains(T)`
    TextIn(Text, Sorted<Box<str>>),
    /// `T like "…"`
    TextLike(Text, Glob),
    /// Ranges of numbers, ends included.
    NumberIn(Number, Vec<(i64, i64)>),
    /// `A.isInRange(ip("…"))`, several merged
    AddressIn(Address, IpSet),
    /// `context.http.headers.hasTag(name)`
    HasHeader(Box<str>),
    /// `context.http.headers.getTag(name).containsAny([…])`
    HeaderIn(Box<str>, Sorted<Box<str>>),
    /// `context.jwt.claims.hasTag(key)`
    HasClaim(Box<str>),
    /// `context.jwt.claims.getTag(key).containsAny([…])`
    ClaimIn(Box<str>, Sorted<Box<str>>),
    /// `context.jwt.audiences.containsAny([…])`
    AudienceIn(Sorted<Box<str>>),
    /// `context.matched.containsAny([…])`, `context.http.matched.containsAny([…])`
    Matched(Vec<Pattern>),
}

/// Values that are not in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("values are not in ascending order")]
pub(crate) struct NotSorted;

impl<T: Ord> Sorted<T> {
    /// Sorts values and removes repetitions.
    pub(crate) fn from_values(mut values: Vec<T>) -> Self {
        values.sort();
        values.dedup();
        Self(values)
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl Sorted<Box<str>> {
    pub(crate) fn has(&self, text: &[u8]) -> bool {
        match self.0.as_slice() {
            [only] => only.as_bytes() == text,
            values => values.binary_search_by(|v| v.as_bytes().cmp(text)).is_ok(),
        }
    }
}

impl<T: Ord> TryFrom<Vec<T>> for Sorted<T> {
    type Error = NotSorted;

    fn try_from(values: Vec<T>) -> Result<Self, Self::Error> {
        if values.is_sorted_by(|a, b| a < b) { Ok(Self(values)) } else { Err(NotSorted) }
    }
}

impl<T> From<Sorted<T>> for Vec<T> {
    fn from(sorted: Sorted<T>) -> Self {
        sorted.0
    }
}

impl Node {
    /// Calls `visit` for each test, in written order.
    pub(crate) fn for_each_test<'a>(&'a self, visit: &mut dyn FnMut(&'a Test, u16)) {
        match self {
            Self::Const(_) => {}
            Self::All(children) | Self::Any(children) => children.iter().for_each(|c| c.for_each_test(visit)),
            Self::Not(child) => child.for_each_test(visit),
            Self::Test(test, label) => visit(test, *label),
        }
    }

    /// Calls `visit` for each test's label, in written order.
    pub(crate) fn for_each_label(&mut self, visit: &mut dyn FnMut(&mut u16)) {
        match self {
            Self::Const(_) => {}
            Self::All(children) | Self::Any(children) => children.iter_mut().for_each(|c| c.for_each_label(visit)),
            Self::Not(child) => child.for_each_label(visit),
            Self::Test(_, label) => visit(label),
        }
    }

    /// Merges neighbouring address tests of one field inside an `||` into one, which looks up in one search instead of many.
    pub(crate) fn merge_addresses(self) -> Self {
        match self {
            Self::All(children) => Self::All(children.into_iter().map(Self::merge_addresses).collect()),
            Self::Not(child) => Self::Not(Box::new(child.merge_addresses())),
            Self::Any(children) => {
                let mut out: Vec<Self> = Vec::with_capacity(children.len());
                let mut run: Vec<ipnet::IpNet> = Vec::new();
                let mut run_of = None;
                for child in children {
                    match child {
                        Self::Test(Test::AddressIn(address, set), label) => {
                            if run_of.is_some_and(|of| of != (address, label)) {
                                close_run(&mut out, &mut run, &mut run_of);
                            }
                            run_of = Some((address, label));
                            run.extend(Vec::from(set));
                        }
                        other => {
                            close_run(&mut out, &mut run, &mut run_of);
                            out.push(other.merge_addresses());
                        }
                    }
                }
                close_run(&mut out, &mut run, &mut run_of);
                match out.pop() {
                    Some(only) if out.is_empty() => only,
                    Some(last) => {
                        out.push(last);
                        Self::Any(out)
                    }
                    None => Self::Any(out),
                }
            }
            leaf @ (Self::Const(_) | Self::Test(..)) => leaf,
        }
    }
}

fn close_run(out: &mut Vec<Node>, run: &mut Vec<ipnet::IpNet>, run_of: &mut Option<(Address, u16)>) {
    if let Some((address, label)) = run_of.take() {
        out.push(Node::Test(Test::AddressIn(address, IpSet::from(std::mem::take(run))), label));
    }
}
