//! Evaluation of a compiled condition over borrowed facts, without allocating.

use std::{net::IpAddr, ops::ControlFlow};

use crate::{
    ConnectionFacts, JwtFacts, RequestFacts,
    facts::canonical_ip,
    index::MAX_SEGMENTS,
    ir::{Actions, Address, Entity, Kind, Node, Number, Optional, Sorted, Test, Text},
    pattern::{Pattern, PatternLevel},
    peer::Principal,
};

/// What evaluating a node came to. Cedar's rule: an error in an operand that is evaluated is an error of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    True,
    False,
    /// Something absent was read.
    Error,
    /// It depends on the request, which is not there yet.
    Unknown,
}

/// What a policy set protects, by its key `workload/NAMESPACE/NAME` or `gateway/NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The workload itself, its gateway (if it is one), its namespace.
    pub entities: Vec<Entity>,
}

/// The connection side of the facts, prepared once.
#[derive(Debug)]
pub(crate) struct ConnectionView {
    pub source_ip: IpAddr,
    pub source_port: u16,
    pub destination_ip: IpAddr,
    pub destination_port: u16,
    pub principal: Principal,
    pub is_tls: bool,
    /// Lower case.
    pub sni: Option<Box<str>>,
    pub alpn: Option<Box<str>>,
    pub tls_version: Box<str>,
}

/// The request side of the facts, prepared once per decision.
#[derive(Clone, Copy)]
pub(crate) struct RequestView<'a> {
    pub facts: &'a RequestFacts<'a>,
    /// Lower case.
    pub authority: &'a [u8],
    pub path: &'a [u8],
    /// The path's first segments, each with those before it and the slash behind it: `/a/b/c` has `/a/` and `/a/b/`.
    pub leading: [Option<&'a [u8]>; MAX_SEGMENTS],
    pub query: Option<&'a [u8]>,
    pub remote_ip: IpAddr,
}

/// Whether there is a request to look at.
#[derive(Clone, Copy)]
pub(crate) enum RequestState<'a> {
    /// An opaque connection: there is none.
    Opaque,
    /// There will be one; what depends on it is not known.
    Pending,
    /// There is one.
    Known(&'a RequestView<'a>),
}

/// All that a condition can look at.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub action: Actions,
    pub target: &'a Target,
    pub connection: &'a ConnectionView,
    pub request: RequestState<'a>,
}

impl Target {
    /// A host outside the mesh: its name in lower case, or its address.
    pub(crate) fn external(host: &str) -> Self {
        Self { entities: vec![Entity { kind: Kind::ExternalHost, id: host.to_ascii_lowercase().into() }] }
    }

    pub(crate) fn of_key(key: &str) -> Self {
        let (kind, name) = key.split_once('/').unwrap_or(("workload", key));
        let mut entities = vec![Entity { kind: Kind::Workload, id: name.into() }];
        if kind == "gateway" {
            entities.push(Entity { kind: Kind::Gateway, id: name.into() });
        }
        if let Some((namespace, _)) = name.split_once('/') {
            entities.push(Entity { kind: Kind::Namespace, id: namespace.into() });
        }
        Self { entities }
    }
}

impl ConnectionView {
    pub(crate) fn of(facts: &ConnectionFacts) -> Self {
        let ConnectionFacts { source_ip, source_port, destination_ip, destination_port, peer, tls } = facts;
        Self {
            source_ip: canonical_ip(*source_ip),
            source_port: *source_port,
            destination_ip: canonical_ip(*destination_ip),
            destination_port: *destination_port,
            principal: Principal::of(peer),
            is_tls: tls.is_some(),
            sni: tls.as_ref().and_then(|t| t.sni.as_deref()).map(|sni| sni.to_ascii_lowercase().into()),
            alpn: tls.as_ref().and_then(|t| t.alpn.as_deref()).map(Into::into),
            tls_version: tls.as_ref().map_or("", |t| &t.version).into(),
        }
    }
}

impl<'a> RequestView<'a> {
    /// Prepares a request. `lowered` is where an authority with upper-case letters is rewritten; it is not touched otherwise.
    pub(crate) fn of(facts: &'a RequestFacts<'a>, lowered: &'a mut Vec<u8>) -> Self {
        let authority = if facts.authority.iter().any(u8::is_ascii_uppercase) {
            lowered.extend(facts.authority.iter().map(u8::to_ascii_lowercase));
            lowered
        } else {
            facts.authority
        };
        let end = memchr::memchr2(b'?', b'#', facts.path).unwrap_or(facts.path.len());
        let (path, rest) = facts.path.split_at_checked(end).unwrap_or((facts.path, &[]));
        let mut leading = [None; MAX_SEGMENTS];
        let behind_the_first = memchr::memchr_iter(b'/', path.get(1..).unwrap_or_default());
        for (slot, at) in leading.iter_mut().zip(behind_the_first) {
            *slot = path.get(..at + 2);
        }
        let query = rest.strip_prefix(b"?").map(|q| q.split(|b| *b == b'#').next().unwrap_or_default());
        let query = facts.query.or(query);
        Self { facts, authority, path, leading, query, remote_ip: canonical_ip(facts.remote_ip) }
    }

    /// Calls `visit` with each line of a header, until it breaks. Pseudo-headers and `host` are the request's own parts.
    pub(crate) fn visit_lines(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) {
        let whole;
        let own = match name {
            ":method" => self.facts.method.as_bytes(),
            ":path" => match self.facts.query {
                Some(query) => {
                    whole = [self.path, b"?", query].concat();
                    &whole
                }
                None => self.facts.path,
            },
            ":scheme" => self.facts.scheme.as_bytes(),
            ":authority" | "host" => self.facts.authority,
            _ => return self.facts.headers.visit_lines(name, visit),
        };
        if !own.is_empty() {
            // One line: there is nothing to stop.
            let _ = visit(own);
        }
    }

    /// The authority without its port; an IPv6 literal keeps its brackets.
    pub(crate) fn host(&self) -> &'a [u8] {
        let authority = self.authority;
        match authority.iter().rposition(|b| *b == b':') {
            Some(colon) if authority.get(colon..).is_some_and(|port| !port.contains(&b']')) => {
                authority.get(..colon).unwrap_or_default()
            }
            _ => authority,
        }
    }

    pub(crate) fn depth(&self) -> i64 {
        i64::try_from(self.path.iter().filter(|b| **b == b'/').count()).unwrap_or(i64::MAX)
    }

    /// Whether the request is a gRPC call, which makes its action `grpc`.
    pub(crate) fn is_grpc(&self) -> bool {
        let mut is_grpc = false;
        self.facts.headers.visit_lines("content-type", &mut |line| {
            let rest = line.strip_prefix(b"application/grpc");
            is_grpc |= rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
            ControlFlow::Continue(())
        });
        is_grpc
    }
}

impl<'a> View<'a> {
    fn request(&self) -> Result<&'a RequestView<'a>, Outcome> {
        match self.request {
            RequestState::Known(request) => Ok(request),
            RequestState::Pending => Err(Outcome::Unknown),
            RequestState::Opaque => Err(Outcome::Error),
        }
    }

    fn jwt(&self) -> Result<&'a JwtFacts, Outcome> {
        self.request()?.facts.jwt.ok_or(Outcome::Error)
    }

    /// A text; an error where it is absent.
    pub(crate) fn text(&self, text: Text) -> Result<&'a [u8], Outcome> {
        let present = |text: Option<&'a str>| text.map(str::as_bytes).ok_or(Outcome::Error);
        let account = || self.connection.principal.account.as_ref();
        match text {
            Text::Method => Ok(self.request()?.facts.method.as_bytes()),
            Text::Scheme => Ok(self.request()?.facts.scheme.as_bytes()),
            Text::Authority => Ok(self.request()?.authority),
            Text::Host => Ok(self.request()?.host()),
            Text::Path => Ok(self.request()?.path),
            Text::Query => self.request()?.query.ok_or(Outcome::Error),
            Text::Sni => present(self.connection.sni.as_deref()),
            Text::Alpn => present(self.connection.alpn.as_deref()),
            Text::TlsVersion => present(self.connection.is_tls.then_some(&*self.connection.tls_version)),
            Text::JwtIssuer => Ok(self.jwt()?.issuer.as_bytes()),
            Text::JwtSubject => Ok(self.jwt()?.subject.as_bytes()),
            Text::PrincipalName => present(account().map(|a| &*a.name)),
            Text::PrincipalNamespace => present(account().map(|a| &*a.namespace)),
            Text::PrincipalTrustDomain => present(account().map(|a| &*a.trust_domain)),
            Text::ResourceHost => {
                present(self.target.entities.first().filter(|e| e.kind == Kind::ExternalHost).map(|e| &*e.id))
            }
            Text::ExternalPeerId => {
                present(self.connection.principal.itself().filter(|e| e.kind == Kind::ExternalPeer).map(|e| &*e.id))
            }
        }
    }

    pub(crate) fn number(&self, number: Number) -> Result<i64, Outcome> {
        match number {
            Number::SourcePort => Ok(i64::from(self.connection.source_port)),
            Number::DestinationPort => Ok(i64::from(self.connection.destination_port)),
            Number::Depth => Ok(self.request()?.depth()),
        }
    }

    pub(crate) fn address(&self, address: Address) -> Result<IpAddr, Outcome> {
        match address {
            Address::Source => Ok(self.connection.source_ip),
            Address::Destination => Ok(self.connection.destination_ip),
            Address::Remote => match self.request {
                RequestState::Known(request) => Ok(request.remote_ip),
                RequestState::Pending => Err(Outcome::Unknown),
                // Nobody else speaks for an opaque connection.
                RequestState::Opaque => Ok(self.connection.source_ip),
            },
        }
    }
}

impl Node {
    /// Evaluates, with Cedar's order and errors. `is_infallible`: no error can occur, so an operand behind an unknown one may decide.
    pub(crate) fn eval(&self, view: &View<'_>, is_infallible: bool) -> Outcome {
        match self {
            Self::Const(value) => Outcome::from(*value),
            Self::Test(test, _) => test.eval(view),
            Self::Not(child) => match child.eval(view, is_infallible) {
                Outcome::True => Outcome::False,
                Outcome::False => Outcome::True,
                other => other,
            },
            Self::All(children) => fold(children, view, is_infallible, Outcome::False, Outcome::True),
            Self::Any(children) => fold(children, view, is_infallible, Outcome::True, Outcome::False),
        }
    }
}

fn fold(children: &[Node], view: &View<'_>, is_infallible: bool, deciding: Outcome, neutral: Outcome) -> Outcome {
    let mut is_unknown = false;
    for child in children {
        match child.eval(view, is_infallible) {
            outcome if outcome == neutral => {}
            Outcome::Unknown => is_unknown = true,
            outcome if !is_unknown || (is_infallible && outcome == deciding) => return outcome,
            _ => return Outcome::Unknown,
        }
    }
    if is_unknown { Outcome::Unknown } else { neutral }
}

impl Test {
    pub(crate) fn eval(&self, view: &View<'_>) -> Outcome {
        self.try_eval(view).map_or_else(|outcome| outcome, Outcome::from)
    }

    fn try_eval(&self, view: &View<'_>) -> Result<bool, Outcome> {
        let principal = &view.connection.principal;
        Ok(match self {
            Self::PrincipalIs(entity) => principal.itself() == Some(entity),
            Self::PrincipalIn(entities) => is_in(&principal.entities, entities),
            Self::PrincipalKind(kind) => principal.itself().is_some_and(|e| e.kind == *kind),
            Self::Action(actions) => actions.intersects(view.action),
            Self::ResourceIs(entity) => view.target.entities.first() == Some(entity),
            Self::ResourceIn(entities) => is_in(&view.target.entities, entities),
            Self::ResourceKind(kind) => view.target.entities.first().is_some_and(|e| e.kind == *kind),
            Self::Has(optional) => match optional {
                Optional::Tls => view.connection.is_tls,
                Optional::Sni => view.connection.sni.is_some(),
                Optional::Alpn => view.connection.alpn.is_some(),
                // An opaque connection has neither; a policy may ask.
                Optional::Jwt => match view.request {
                    RequestState::Opaque => false,
                    _ => view.request()?.facts.jwt.is_some(),
                },
                Optional::Query => view.request()?.query.is_some(),
            },
            Self::HasInTls(optional) => {
                if !view.connection.is_tls {
                    return Err(Outcome::Error);
                }
                match optional {
                    Optional::Sni => view.connection.sni.is_some(),
                    Optional::Alpn => view.connection.alpn.is_some(),
                    Optional::Tls | Optional::Jwt | Optional::Query => return Err(Outcome::Error),
                }
            }
            Self::TextIn(text, values) => values.has(view.text(*text)?),
            Self::TextLike(text, glob) => glob.is_match(view.text(*text)?),
            Self::NumberIn(number, ranges) => {
                let value = view.number(*number)?;
                ranges.iter().any(|(first, last)| *first <= value && value <= *last)
            }
            Self::AddressIn(address, set) => set.contains(view.address(*address)?),
            Self::HasHeader(name) => has_line(view.request()?, name, &mut |_| true).1,
            Self::HeaderIn(name, values) => match has_line(view.request()?, name, &mut |line| values.has(line)) {
                (false, _) => return Err(Outcome::Error),
                (true, is_match) => is_match,
            },
            Self::HasClaim(key) => view.jwt()?.claims.at(key).is_some(),
            Self::ClaimIn(key, values) => {
                let texts = view.jwt()?.claims.at(key).ok_or(Outcome::Error)?;
                texts.iter().any(|text| values.has(text.as_bytes()))
            }
            Self::AudienceIn(values) => {
                view.jwt()?.claims.at("aud").is_some_and(|texts| texts.iter().any(|text| values.has(text.as_bytes())))
            }
            Self::Matched(patterns) => {
                for pattern in patterns {
                    if is_match(pattern, view)? {
                        return Ok(true);
                    }
                }
                false
            }
        })
    }
}

/// Whether a pattern is a member of its `matched` set.
pub(crate) fn is_match(pattern: &Pattern, view: &View<'_>) -> Result<bool, Outcome> {
    if pattern.level() == PatternLevel::Connection {
        return Ok(view.connection.principal.names.iter().any(|name| pattern.is_match_name(name)));
    }
    let request = view.request()?;
    Ok(match pattern {
        Pattern::Header { name, .. } => has_line(request, name, &mut |line| pattern.is_match_text(line)).1,
        Pattern::Claim { key, .. } => {
            let texts = request.facts.jwt.and_then(|jwt| jwt.claims.at(key));
            texts.is_some_and(|texts| texts.iter().any(|text| pattern.is_match_text(text.as_bytes())))
        }
        _ => pattern.is_match_text(request.path),
    })
}

/// Whether there is a line of that name, and one that satisfies the test.
fn has_line(request: &RequestView<'_>, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> (bool, bool) {
    let (mut is_present, mut is_match) = (false, false);
    request.visit_lines(name, &mut |line| {
        is_present = true;
        is_match = test(line);
        if is_match { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (is_present, is_match)
}

fn is_in(entities: &[Entity], groups: &Sorted<Entity>) -> bool {
    entities.iter().any(|e| groups.as_slice().binary_search(e).is_ok())
}

impl From<bool> for Outcome {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}
