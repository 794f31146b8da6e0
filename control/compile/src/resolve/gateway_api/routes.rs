//! Routes of all kinds in one shape: parents, hosts, and rules whose conditions are the model's.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::gateway_api::{
    GrpcMethodMatchType, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, HttpBackendRef, HttpHeaderMatch, HttpRoute,
    HttpRouteFilter, HttpRouteMatch, HttpRouteRetry, HttpRouteRule, HttpRouteTimeouts, L4RouteRule, ParentReference,
    PathMatchType, SessionPersistence, TcpRoute, TlsRoute, UdpRoute, ValueMatchType,
};
use palisade_model::route::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};

use super::ListenerProtocol;
use crate::{
    inputs::{Inputs, Objects},
    lower::{cors::quote, http::number},
    object::{self, Head, Object, ObjectKey},
};

/// A route.
#[derive(Debug)]
pub(crate) struct Route {
    /// Metadata.
    pub(crate) head: Head,
    /// Its kind.
    pub(crate) kind: RouteKind,
    /// What it attaches to.
    pub(crate) parent_refs: Vec<ParentReference>,
    /// Its hosts; empty = those of the listener.
    pub(crate) hostnames: Vec<String>,
    /// Its rules.
    pub(crate) rules: Vec<Rule>,
}

/// Kinds of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute.
    Udp,
}

/// One rule. Of opaque bytes only the name and the backends say anything.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    /// Its own name.
    pub(crate) name: Option<String>,
    /// Alternatives, expressions still in RE2 syntax; empty = everything.
    pub(crate) matches: Vec<RouteMatch>,
    /// Filters.
    pub(crate) filters: Vec<HttpRouteFilter>,
    /// Backends.
    pub(crate) backend_refs: Vec<HttpBackendRef>,
    /// Limits of time.
    pub(crate) timeouts: Option<HttpRouteTimeouts>,
    /// Retries.
    pub(crate) retry: Option<HttpRouteRetry>,
    /// How requests of one client are kept together.
    pub(crate) session: Option<SessionPersistence>,
}

impl RouteKind {
    /// The kind as documents write it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }

    /// Whether requests, not bytes, are routed.
    pub(crate) const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }

    /// Whether a listener of a protocol takes routes of this kind.
    pub(crate) const fn suits(self, protocol: ListenerProtocol) -> bool {
        matches!(
            (self, protocol),
            (Self::Http | Self::Grpc, ListenerProtocol::Http | ListenerProtocol::Https)
                | (Self::Tls, ListenerProtocol::TlsPassthrough | ListenerProtocol::TlsTerminate)
                | (Self::Tcp, ListenerProtocol::Tcp | ListenerProtocol::TlsTerminate)
                | (Self::Udp, ListenerProtocol::Udp)
        )
    }
}

/// All routes of all kinds, oldest first.
pub(super) fn all(inputs: &Inputs, before: Option<&Made>) -> (Vec<Arc<Route>>, Made) {
    let made = Made {
        http: take_over(&inputs.http_routes, before.map(|made| &made.http), |head, route| Route {
            head,
            kind: RouteKind::Http,
            parent_refs: route.parent_refs.clone(),
            hostnames: route.hostnames.clone(),
            rules: route.rules.iter().map(http_rule).collect(),
        }),
        grpc: take_over(&inputs.grpc_routes, before.map(|made| &made.grpc), |head, route| Route {
            head,
            kind: RouteKind::Grpc,
            parent_refs: route.parent_refs.clone(),
            hostnames: route.hostnames.clone(),
            rules: route.rules.iter().map(grpc_rule).collect(),
        }),
        tls: take_over(&inputs.tls_routes, before.map(|made| &made.tls), |head, route| Route {
            head,
            kind: RouteKind::Tls,
            parent_refs: route.parent_refs.clone(),
            hostnames: route.hostnames.clone(),
            rules: route.rules.iter().map(l4_rule).collect(),
        }),
        tcp: take_over(&inputs.tcp_routes, before.map(|made| &made.tcp), |head, route| Route {
            head,
            kind: RouteKind::Tcp,
            parent_refs: route.parent_refs.clone(),
            hostnames: Vec::new(),
            rules: route.rules.iter().map(l4_rule).collect(),
        }),
        udp: take_over(&inputs.udp_routes, before.map(|made| &made.udp), |head, route| Route {
            head,
            kind: RouteKind::Udp,
            parent_refs: route.parent_refs.clone(),
            hostnames: Vec::new(),
            rules: route.rules.iter().map(l4_rule).collect(),
        }),
    };
    let Made { http, grpc, tls, tcp, udp } = &made;
    let mut routes: Vec<Arc<Route>> = (http.values().map(|(_, route)| route))
        .chain(grpc.values().map(|(_, route)| route))
        .chain(tls.values().map(|(_, route)| route))
        .chain(tcp.values().map(|(_, route)| route))
        .chain(udp.values().map(|(_, route)| route))
        .cloned()
        .collect();
    // Of equals of different kinds the HTTPRoute comes first: the sort is stable.
    routes.sort_by(|a, b| object::cmp_age(&a.head, &b.head));
    (routes, made)
}

/// Routes by the documents that they were made from.
#[derive(Debug, Default)]
pub(super) struct Made {
    http: MadeOf<HttpRoute>,
    grpc: MadeOf<GrpcRoute>,
    tls: MadeOf<TlsRoute>,
    tcp: MadeOf<TcpRoute>,
    udp: MadeOf<UdpRoute>,
}

type MadeOf<T> = BTreeMap<ObjectKey, (Arc<Object<T>>, Arc<Route>)>;

/// The routes of one kind: those made before where the document is the same.
fn take_over<T: PartialEq>(
    documents: &Objects<T>,
    before: Option<&MadeOf<T>>,
    make: impl Fn(Head, &T) -> Route,
) -> MadeOf<T> {
    let of_document = |(key, document): (&ObjectKey, &Arc<Object<T>>)| {
        let held = before.and_then(|before| before.get(key));
        let held = held.filter(|(held, _)| Arc::ptr_eq(held, document) || held == document);
        let route = match held {
            Some((_, route)) => Arc::clone(route),
            None => Arc::new(make(document.head.clone(), &document.spec)),
        };
        (key.clone(), (Arc::clone(document), route))
    };
    documents.shared().map(of_document).collect()
}

fn http_rule(written: &HttpRouteRule) -> Rule {
    let HttpRouteRule { name, matches, filters, backend_refs, timeouts, retry, session_persistence } = written;
    Rule {
        name: name.clone(),
        matches: matches.iter().enumerate().map(|(index, written)| http_match(written, number(index))).collect(),
        filters: filters.clone(),
        backend_refs: backend_refs.clone(),
        timeouts: timeouts.clone(),
        retry: retry.clone(),
        session: session_persistence.clone(),
    }
}

fn grpc_rule(written: &GrpcRouteRule) -> Rule {
    let GrpcRouteRule { name, matches, filters, backend_refs, session_persistence } = written;
    Rule {
        name: name.clone(),
        matches: matches.iter().enumerate().map(|(index, written)| grpc_match(written, number(index))).collect(),
        filters: filters.iter().map(palisade_crds::gateway_api::GrpcRouteFilter::as_http).collect(),
        backend_refs: backend_refs.iter().map(palisade_crds::gateway_api::GrpcBackendRef::as_http).collect(),
        timeouts: None,
        retry: None,
        session: session_persistence.clone(),
    }
}

fn l4_rule(written: &L4RouteRule) -> Rule {
    let L4RouteRule { name, backend_refs } = written;
    Rule {
        name: name.clone(),
        backend_refs: backend_refs.iter().map(palisade_crds::gateway_api::BackendRef::as_http).collect(),
        ..Rule::default()
    }
}

fn text(kind: ValueMatchType, value: &str) -> StringMatch {
    match kind {
        ValueMatchType::Exact => StringMatch::Exact(value.into()),
        ValueMatchType::RegularExpression => StringMatch::Regex(value.into()),
    }
}

/// Of entries with one name the first counts (Gateway API, `HTTPHeaderMatch.name`).
fn headers(written: &[HttpHeaderMatch]) -> Vec<HeaderMatch> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for header in written {
        let name: Arc<str> = header.name.to_ascii_lowercase().into();
        if !headers.iter().any(|earlier| earlier.name == name) {
            let value = Some(text(header.match_type, &header.value));
            headers.push(HeaderMatch { name, value, is_inverted: false });
        }
    }
    headers
}

fn http_match(written: &HttpRouteMatch, source_index: u32) -> RouteMatch {
    let HttpRouteMatch { path, headers: header_matches, query_params, method } = written;
    let path = match path.match_type {
        PathMatchType::Exact => PathMatch::Exact { value: path.value.as_str().into(), ignore_case: false },
        PathMatchType::PathPrefix => {
            let trimmed = path.value.trim_end_matches('/');
            PathMatch::SegmentPrefix { value: if trimmed.is_empty() { "/" } else { trimmed }.into() }
        }
        PathMatchType::RegularExpression => PathMatch::Regex { value: path.value.as_str().into() },
    };
    let mut query: Vec<QueryMatch> = Vec::new();
    for parameter in query_params {
        if !query.iter().any(|earlier| *earlier.name == *parameter.name) {
            let value = Some(text(parameter.match_type, &parameter.value));
            query.push(QueryMatch { name: parameter.name.as_str().into(), value });
        }
    }
    RouteMatch {
        source_index,
        path: Some(path),
        method: method.as_ref().map(|method| StringMatch::Exact(method.as_str().into())),
        headers: headers(header_matches).into(),
        query: query.into(),
        ..RouteMatch::default()
    }
}

/// A call's path is `/SERVICE/METHOD`.
fn grpc_match(written: &GrpcRouteMatch, source_index: u32) -> RouteMatch {
    let GrpcRouteMatch { method, headers: header_matches } = written;
    let path = method.as_ref().map(|written| {
        let service = written.service.as_deref().filter(|service| !service.is_empty());
        let method = written.method.as_deref().filter(|method| !method.is_empty());
        match (written.match_type, service, method) {
            (GrpcMethodMatchType::Exact, Some(service), Some(method)) => {
                PathMatch::Exact { value: format!("/{service}/{method}").into(), ignore_case: false }
            }
            (GrpcMethodMatchType::Exact, Some(service), None) => {
                PathMatch::Prefix { value: format!("/{service}/").into(), ignore_case: false }
            }
            (GrpcMethodMatchType::Exact, None, method) => {
                let method = method.map_or_else(|| "[^/]+".to_owned(), quote);
                PathMatch::Regex { value: format!("/[^/]+/{method}").into() }
            }
            (GrpcMethodMatchType::RegularExpression, service, method) => {
                let (service, method) = (service.unwrap_or("[^/]+"), method.unwrap_or("[^/]+"));
                PathMatch::Regex { value: format!("/(?:{service})/(?:{method})").into() }
            }
        }
    });
    RouteMatch { source_index, path, headers: headers(header_matches).into(), ..RouteMatch::default() }
}

#[cfg(test)]
mod tests {
    use palisade_crds::gateway_api::GrpcMethodMatch;

    use super::*;

    #[test]
    fn service_and_method_are_the_path() {
        let path = |match_type, service: Option<&str>, method: Option<&str>| {
            let method =
                GrpcMethodMatch { match_type, service: service.map(str::to_owned), method: method.map(str::to_owned) };
            grpc_match(&GrpcRouteMatch { method: Some(method), headers: Vec::new() }, 0).path.unwrap()
        };
        use GrpcMethodMatchType::{Exact, RegularExpression};
        let exact = |value: &str| PathMatch::Exact { value: value.into(), ignore_case: false };
        let regex = |value: &str| PathMatch::Regex { value: value.into() };
        assert_eq!(path(Exact, Some("a.B"), Some("C")), exact("/a.B/C"));
        let prefix = PathMatch::Prefix { value: "/a.B/".into(), ignore_case: false };
        assert_eq!(path(Exact, Some("a.B"), None), prefix);
        assert_eq!(path(Exact, None, Some("C")), regex("/[^/]+/C"));
        assert_eq!(path(RegularExpression, Some("a|b"), Some("C.*")), regex("/(?:a|b)/(?:C.*)"));
    }
}
