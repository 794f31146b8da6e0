//! HTTP rules of VirtualServices as route rules: conditions evaluated as far as they are static, actions resolved.

use std::sync::Arc;

use palisade_crds::istio::{HttpMatchRequest, HttpRoute, RedirectPortSelection, StringMatch as WrittenMatch};
use palisade_model::route::{
    Backend, ClaimMatch, Forward, HeaderMatch, HeaderMutations, PathMatch, PathRewrite, QueryMatch, Redirect,
    RedirectPort, Rewrite, RouteAction, RouteMatch, RouteRule, StringMatch,
};

use crate::{
    lower::{claims, client::Client, clusters::Destination, cors, fault, headers, mirrors, regexes, retries},
    object,
    resolve::virtual_services::{Bound, HttpRule},
};

/// Where a rule is to be served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The port that `match.port` and redirects mean: the Service's, or the one a Gateway declares.
    pub(crate) port: u16,
    /// The gateways served: `mesh`, or those of one server.
    pub(crate) gateways: &'a [String],
    /// TLS is terminated here.
    pub(crate) is_tls: bool,
    /// Suffix that tells apart the lowered forms of one rule.
    pub(crate) suffix: &'a str,
}

/// A rule as lowered, with the destinations that it needs.
#[derive(Debug, Clone)]
pub(crate) struct Lowered {
    /// The route rule; its backends are not yet checked for existence.
    pub(crate) rule: RouteRule,
    /// Destinations of the backends, in the same order.
    pub(crate) destinations: Vec<Destination>,
    /// Destinations of the mirrors.
    pub(crate) mirrors: Vec<Destination>,
    /// How many alternatives there are, at least one.
    pub(crate) alternatives: u32,
    /// Whether the last alternative takes every request: later rules are dead.
    pub(crate) is_catch_all: bool,
}

/// Lowers all rules of a VirtualService for a place, up to the first that takes everything.
pub(crate) fn rules(client: Client<'_>, bound: &Bound, place: Place<'_>) -> Vec<Lowered> {
    let mut lowered = Vec::new();
    for rule in &bound.http {
        let Some(one) = lower(client, bound, rule, place) else { continue };
        let is_last = one.is_catch_all;
        lowered.push(one);
        if is_last {
            break;
        }
    }
    lowered
}

fn lower(client: Client<'_>, bound: &Bound, rule: &HttpRule, place: Place<'_>) -> Option<Lowered> {
    let HttpRule { index, delegated, delegate: _, route } = rule;
    let mut matches = Vec::new();
    let mut is_catch_all = route.r#match.is_empty();
    for (position, alternative) in route.r#match.iter().enumerate() {
        if !applies_here(client, alternative, place) {
            continue;
        }
        let condition = regexes::translated(condition(alternative, number(position)));
        let Some(condition) = condition else { continue };
        is_catch_all = is_catch_all_condition(&condition);
        matches.push(condition);
        if is_catch_all {
            break;
        }
    }
    if !route.r#match.is_empty() && matches.is_empty() {
        return None;
    }
    let (mut action, response_headers, destinations) = action(client, route, place);
    let mut mirrored = Vec::new();
    if let RouteAction::Forward(forward) = &mut action {
        let (mirrors, destinations) =
            mirrors::of_virtual_service(client, route, place).into_iter().unzip::<_, _, Vec<_>, _>();
        forward.mirrors = mirrors.into();
        mirrored = destinations;
    }
    let key = match delegated {
        None => format!("VirtualService/{}/http/{index}{}", bound.head.key, place.suffix),
        Some(inner) => format!("VirtualService/{}/http/{index}/{inner}{}", bound.head.key, place.suffix),
    };
    let alternatives = number(matches.len().max(1));
    let name = match route.r#match.as_slice() {
        [only] if !only.name.is_empty() => format!("{}.{}", route.name, only.name),
        _ => route.name.clone(),
    };
    Some(Lowered {
        rule: RouteRule {
            key: key.into(),
            source: bound.head.source(),
            name: (!name.is_empty()).then(|| name.into()),
            rule: number(*index),
            matches: matches.into(),
            fault: route.fault.as_ref().map(fault::lower).unwrap_or_default(),
            cors: route.cors_policy.as_ref().map(cors::of_virtual_service),
            action,
            response_headers,
        },
        destinations,
        mirrors: mirrored,
        alternatives,
        is_catch_all,
    })
}

/// The static part of an alternative: port, gateways, and (only where the alternative names no gateways) the labels and
/// namespace of the proxy that holds the route (istio-semantics 4.2).
fn applies_here(client: Client<'_>, alternative: &HttpMatchRequest, place: Place<'_>) -> bool {
    if alternative.port.is_some_and(|port| port != 0 && port != u32::from(place.port)) {
        return false;
    }
    if !alternative.gateways.is_empty() {
        return alternative.gateways.iter().any(|gateway| place.gateways.contains(gateway));
    }
    (alternative.source_labels.is_empty() || object::selects(&alternative.source_labels, client.labels()))
        && (alternative.source_namespace.is_empty() || *alternative.source_namespace == *client.namespace())
}

/// The conditions that are left for requests.
fn condition(alternative: &HttpMatchRequest, source_index: u32) -> RouteMatch {
    let HttpMatchRequest {
        name: _,
        uri,
        scheme,
        method,
        authority,
        headers,
        port: _,
        source_labels: _,
        gateways: _,
        query_params,
        ignore_uri_case,
        without_headers,
        source_namespace: _,
        stat_prefix: _,
    } = alternative;
    let positive = headers.iter().map(|(name, value)| (name, value, false));
    let negative = without_headers.iter().map(|(name, value)| (name, value, true));
    let mut headers: Vec<HeaderMatch> = Vec::new();
    let mut claimed = Vec::new();
    for (name, value, is_inverted) in positive.chain(negative) {
        match claims::path(name) {
            Some(path) => claimed.push(ClaimMatch { path, value: text(value), is_inverted }),
            None => headers.push(header(name, value, is_inverted)),
        }
    }
    headers.sort_by(|a, b| (&a.name, a.is_inverted).cmp(&(&b.name, b.is_inverted)));
    RouteMatch {
        source_index,
        path: uri.as_ref().and_then(|uri| path(uri, *ignore_uri_case)),
        scheme: scheme.as_ref().and_then(text),
        method: method.as_ref().and_then(text),
        authority: authority.as_ref().and_then(text),
        headers: headers.into(),
        query: query_params
            .iter()
            .map(|(name, value)| QueryMatch { name: name.as_str().into(), value: text(value) })
            .collect(),
        claims: claimed.into(),
    }
}

fn header(name: &str, value: &WrittenMatch, is_inverted: bool) -> HeaderMatch {
    HeaderMatch { name: name.to_ascii_lowercase().into(), value: text(value), is_inverted }
}

/// A text condition; `None` = present. The expression `*` means that, it is no expression.
fn text(value: &WrittenMatch) -> Option<StringMatch> {
    match value {
        WrittenMatch::Exact(value) => Some(StringMatch::Exact(value.as_str().into())),
        WrittenMatch::Prefix(value) => Some(StringMatch::Prefix(value.as_str().into())),
        WrittenMatch::Regex(value) if value == "*" => None,
        WrittenMatch::Regex(value) => Some(StringMatch::Regex(value.as_str().into())),
        WrittenMatch::Present => None,
    }
}

fn path(uri: &WrittenMatch, ignore_case: bool) -> Option<PathMatch> {
    match uri {
        WrittenMatch::Exact(value) => Some(PathMatch::Exact { value: value.as_str().into(), ignore_case }),
        WrittenMatch::Prefix(value) => Some(PathMatch::Prefix { value: value.as_str().into(), ignore_case }),
        // Case is never ignored in expressions.
        WrittenMatch::Regex(value) => Some(PathMatch::Regex { value: value.as_str().into() }),
        WrittenMatch::Present => None,
    }
}

/// Whether a condition takes every request, in Istio's reading: no path, the prefix `/` or the expression `.*`, and nothing else.
pub(crate) fn is_catch_all_condition(condition: &RouteMatch) -> bool {
    let RouteMatch { source_index: _, path, scheme, method, authority, headers, query, claims } = condition;
    let takes_every_path = match path {
        None => true,
        Some(PathMatch::Prefix { value, ignore_case: _ }) => &**value == "/",
        Some(PathMatch::Regex { value }) => &**value == ".*",
        Some(PathMatch::SegmentPrefix { value }) => &**value == "/",
        Some(PathMatch::Exact { value: _, ignore_case: _ }) => false,
    };
    takes_every_path
        && scheme.is_none()
        && method.is_none()
        && authority.is_none()
        && headers.is_empty()
        && query.is_empty()
        && claims.is_empty()
}

fn action(client: Client<'_>, route: &HttpRoute, place: Place<'_>) -> (RouteAction, HeaderMutations, Vec<Destination>) {
    let written = route.headers.as_ref();
    let (request_headers, header_authority) = headers::request(written.and_then(|headers| headers.request.as_ref()));
    let response_headers = headers::response(written.and_then(|headers| headers.response.as_ref()));
    if let Some(redirect) = &route.redirect {
        return (redirect_action(redirect, place), response_headers, Vec::new());
    }
    if let Some(direct) = &route.direct_response {
        let body = match &direct.body {
            Some(palisade_crds::istio::HttpBody::String(text)) => bytes::Bytes::from(text.clone().into_bytes()),
            Some(palisade_crds::istio::HttpBody::Bytes(bytes)) => bytes::Bytes::copy_from_slice(&bytes.0),
            Some(palisade_crds::istio::HttpBody::Empty) | None => bytes::Bytes::new(),
        };
        let Ok(status) = u16::try_from(direct.status) else {
            return (
                RouteAction::Refuse { message: "directResponse with an impossible status".into() },
                response_headers,
                Vec::new(),
            );
        };
        return (RouteAction::DirectResponse { status, body, content_type: None }, response_headers, Vec::new());
    }
    let mut rewrite = Rewrite { path: None, authority: header_authority };
    if let Some(written) = &route.rewrite {
        rewrite.path = match &written.uri_regex_rewrite {
            Some(regex) => {
                let Some(pattern) = regexes::expression(&regex.r#match) else {
                    let message = "`uriRegexRewrite.match` is no regular expression";
                    return (RouteAction::Refuse { message: message.into() }, response_headers, Vec::new());
                };
                Some(PathRewrite::Regex { pattern, substitution: regex.rewrite.as_str().into() })
            }
            None if written.uri.is_empty() => None,
            None => Some(PathRewrite::Prefix(written.uri.as_str().into())),
        };
        if !written.authority.is_empty() {
            rewrite.authority = Some(written.authority.as_str().into());
        }
    }
    let is_single = route.route.len() == 1;
    let mut backends = Vec::new();
    let mut destinations = Vec::new();
    for weighted in &route.route {
        let weight = if is_single { 1 } else { u32::try_from(weighted.weight).unwrap_or(0) };
        if weight == 0 {
            continue;
        }
        let destination = destination(client, &weighted.destination, place);
        let written = weighted.headers.as_ref();
        let (mut request, authority) = headers::request(written.and_then(|headers| headers.request.as_ref()));
        // The rule's authority wins over a backend's.
        if let (Some(authority), None) = (authority, &rewrite.authority) {
            request.set = request.set.iter().cloned().chain([(Arc::from("host"), authority)]).collect();
        }
        backends.push(Backend {
            cluster: destination.cluster_name(),
            missing: None,
            weight,
            request_headers: request,
            response_headers: headers::response(written.and_then(|headers| headers.response.as_ref())),
            path: None,
        });
        destinations.push(destination);
    }
    if backends.is_empty() {
        // Refused at admission: a rule without destinations does nothing in Istio but answer 503.
        return (
            RouteAction::Refuse { message: "the rule has no destination with a weight".into() },
            response_headers,
            Vec::new(),
        );
    }
    let timeout = route.timeout.and_then(crate::time::positive);
    let retries = retries::lower(route.retries.as_ref().or(client.resolved.settings.default_retries.as_ref()));
    let forward = Forward {
        backends: backends.into(),
        request_headers,
        rewrite,
        timeout,
        retries,
        mirrors: [].into(),
        session: None,
    };
    (RouteAction::Forward(forward), response_headers, destinations)
}

/// The destination of a backend. Without a port: at a gateway the service's only port; else the port of the place, at which
/// a sidecar's registry holds the service (`GetDestinationCluster`).
pub(crate) fn destination(
    client: Client<'_>,
    written: &palisade_crds::istio::Destination,
    place: Place<'_>,
) -> Destination {
    let services = &client.resolved.services;
    let host: Arc<str> = services.alias_target(&written.host).unwrap_or_else(|| Arc::from(written.host.as_str()));
    let service = services.get(&host);
    let port = match (&written.port, service) {
        (Some(port), _) => u16::try_from(port.number).unwrap_or(0),
        (None, Some(service)) if !client.is_sidecar() => match service.ports.as_slice() {
            [only] => only.number,
            _ => place.port,
        },
        (None, _) => place.port,
    };
    Destination { host, port, subset: written.subset.as_str().into() }
}

fn redirect_action(redirect: &palisade_crds::istio::HttpRedirect, place: Place<'_>) -> RouteAction {
    let palisade_crds::istio::HttpRedirect { uri, prefix_rewrite, authority, port, derive_port, scheme, redirect_code } =
        redirect;
    let status = match redirect_code {
        None | Some(0 | 301) => 301,
        Some(302) => 302,
        Some(303) => 303,
        Some(307) => 307,
        Some(308) => 308,
        Some(other) => {
            return RouteAction::Refuse { message: format!("redirect with code {other}").into() };
        }
    };
    let port = match (port, derive_port) {
        (Some(port), _) => u16::try_from(*port).ok(),
        (None, Some(RedirectPortSelection::FromRequestPort)) => Some(place.port),
        (None, Some(RedirectPortSelection::FromProtocolDefault) | None) => None,
    };
    let default_scheme = if place.is_tls { "https" } else { "http" };
    let effective_scheme = if scheme.is_empty() { default_scheme } else { scheme.as_str() };
    let port = match (port, effective_scheme) {
        (None, _) | (Some(80), "http") | (Some(443), "https") => RedirectPort::ProtocolDefault,
        (Some(port), _) => RedirectPort::Explicit(port),
    };
    let path = if !prefix_rewrite.is_empty() {
        Some(PathRewrite::Prefix(prefix_rewrite.as_str().into()))
    } else if !uri.is_empty() {
        Some(PathRewrite::Full(uri.as_str().into()))
    } else {
        None
    };
    RouteAction::Redirect(Redirect {
        scheme: (!scheme.is_empty()).then(|| scheme.as_str().into()),
        authority: (!authority.is_empty()).then(|| authority.as_str().into()),
        port,
        path,
        status,
    })
}

/// A list position as the model counts; documents are far too small to overflow it.
pub(crate) fn number(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
