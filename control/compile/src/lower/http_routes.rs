//! Rules of HTTPRoutes and GRPCRoutes as route rules, and the order in which their alternatives are tried.

use std::{cmp::Reverse, sync::Arc};

use palisade_crds::gateway_api::{
    BackendObjectReference, CookieLifetimeType, HttpBackendRef, HttpRouteRetry, SessionPersistence,
    SessionPersistenceType,
};
use palisade_model::{
    hash::{ContentHash, HashError},
    resource::{Resource, ResourceKind},
    route::{
        Backend, Fault, Forward, HeaderMutations, Mirror, PathMatch, Percent, Redirect, RetryPolicy, RouteAction,
        RouteEntry, RouteMatch, RouteRule, Session,
    },
};

use crate::{
    hosts,
    lower::{
        assembly::Assembly,
        clusters::{self, Destination},
        http::number,
        regexes, retries,
    },
    memo::{PartValue, What},
    object::Head,
    resolve::gateway_api::{GROUP, ISTIO_GROUP, Referrer, Route, routes::Rule},
    time,
};

mod filters;

/// Adds the rules of routes that share a host, and gives their alternatives in the order of precedence
/// (Gateway API, `HTTPRouteRule.matches`).
pub(crate) fn add(assembly: &mut Assembly<'_>, routes: &[&Arc<Route>]) -> Result<Vec<RouteEntry>, HashError> {
    let mut parts = Vec::new();
    for route in routes {
        let what = What::Route(route.kind, route.head.key.clone());
        let part = assembly.part(what, Some(route), |assembly| add_route(assembly, route).map(PartValue::Ranked))?;
        parts.push((*route, part));
    }
    // Among equals the oldest route wins, then the first by namespace and name, then the first rule of the document.
    let mut ranked: Vec<(&Rank, &Head, &Place, &RouteEntry)> = Vec::new();
    for (route, part) in &parts {
        if let PartValue::Ranked(entries) = &part.value {
            ranked.extend(entries.iter().map(|RankedEntry { rank, place, entry }| (rank, &route.head, place, entry)));
        }
    }
    ranked.sort_by(|(rank, head, place, _), (other, other_head, other_place, _)| {
        (rank, head.created)
            .cmp(&(other, other_head.created))
            .then_with(|| head.key.cmp(&other_head.key))
            .then_with(|| place.cmp(other_place))
    });
    Ok(ranked.into_iter().map(|(.., entry)| entry.clone()).collect())
}

/// Adds the rules of one route, and gives their alternatives.
fn add_route(assembly: &mut Assembly<'_>, route: &Route) -> Result<Vec<RankedEntry>, HashError> {
    let mut ranked = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let lowered = lower(assembly, route, index, rule)?;
        // None of the written alternatives can ever hold.
        if lowered.matches.is_empty() && !rule.matches.is_empty() {
            continue;
        }
        let mut rank = |condition: &RouteMatch, alternative: usize| {
            let entry = RouteEntry { rule: Arc::clone(&lowered.key), alternative: number(alternative) };
            let place = Place { rule: index, alternative };
            ranked.push(RankedEntry { rank: Rank::of(condition), place, entry });
        };
        for (alternative, condition) in lowered.matches.iter().enumerate() {
            rank(condition, alternative);
        }
        if lowered.matches.is_empty() {
            rank(&RouteMatch::default(), 0);
        }
        if !assembly.has(ResourceKind::Route, &lowered.key) {
            assembly.add(Resource::Route(lowered), [route.head.origin()])?;
        }
    }
    Ok(ranked)
}

/// An alternative of a route's rule.
#[derive(Debug)]
pub(crate) struct RankedEntry {
    rank: Rank,
    place: Place,
    entry: RouteEntry,
}

/// Where an alternative stands in its document.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rule: usize,
    alternative: usize,
}

/// Precedence of an alternative by what it asks for; smaller is tried first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    path_type: u8,
    path_length: Reverse<usize>,
    has_method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
}

impl Rank {
    fn of(condition: &RouteMatch) -> Self {
        let (path_type, length) = match &condition.path {
            Some(PathMatch::Exact { value, ignore_case: _ }) => (0, value.len()),
            Some(PathMatch::SegmentPrefix { value } | PathMatch::Prefix { value, ignore_case: _ }) => (1, value.len()),
            Some(PathMatch::Regex { value }) => (2, value.len()),
            None => (3, 0),
        };
        Self {
            path_type,
            path_length: Reverse(length),
            has_method: Reverse(condition.method.is_some()),
            headers: Reverse(condition.headers.len()),
            query: Reverse(condition.query.len()),
        }
    }
}

fn lower(assembly: &mut Assembly<'_>, route: &Route, index: usize, rule: &Rule) -> Result<RouteRule, HashError> {
    let Rule { name, matches, filters: written, backend_refs, timeouts: _, retry: _, session: _ } = rule;
    let key: Arc<str> = format!("{}/{}/rules/{index}", route.kind.as_str(), route.head.key).into();
    let mut effects = filters::read(written);
    let response_headers = effects.response_headers.clone();
    let cors = effects.cors.take();
    let session = rule.session.as_ref().map(|written| session(written, &key));
    let action = if let Some(Err(message)) = &session {
        RouteAction::Refuse { message: Arc::clone(message) }
    } else if let Some(message) = &effects.refusal {
        RouteAction::Refuse { message: Arc::clone(message) }
    } else if let Some(redirect) = effects.redirect {
        RouteAction::Redirect(redirect)
    } else if let Some(redirect) = only_backend_redirects(backend_refs) {
        RouteAction::Redirect(redirect)
    } else {
        // Without backends: an answer of 500 (Gateway API).
        let forward = forward(assembly, route, rule, effects)?;
        RouteAction::Forward(Forward { session: session.and_then(Result::ok), ..forward })
    };
    Ok(RouteRule {
        key,
        source: route.head.source(),
        name: name.as_deref().map(Arc::from),
        rule: number(index),
        matches: matches.iter().cloned().filter_map(regexes::translated).collect(),
        fault: Fault::default(),
        cors,
        action,
        response_headers,
    })
}

/// The redirect of a rule whose only backend has one.
fn only_backend_redirects(backends: &[HttpBackendRef]) -> Option<Redirect> {
    let mut used = backends.iter().filter(|backend| backend.weight > 0);
    let effects = filters::read(&used.next()?.filters);
    effects.redirect.filter(|_| effects.refusal.is_none() && used.next().is_none())
}

fn forward(
    assembly: &mut Assembly<'_>,
    route: &Route,
    rule: &Rule,
    effects: filters::Effects,
) -> Result<Forward, HashError> {
    let mut backends = Vec::new();
    for written in &rule.backend_refs {
        let Some(weight) = u32::try_from(written.weight).ok().filter(|weight| *weight > 0) else { continue };
        backends.push(backend(assembly, route, written, weight)?);
    }
    let mut mirrors = Vec::new();
    for (reference, share) in effects.mirrors {
        let resolved = resolve(assembly, route, &reference)?;
        if share > Percent(0) && resolved.is_present {
            mirrors.push(Mirror { cluster: resolved.destination.cluster_name(), share });
        }
    }
    let mut timeout = rule.timeouts.as_ref().and_then(|limits| limits.request).and_then(time::positive);
    let per_try = rule.timeouts.as_ref().and_then(|limits| limits.backend_request).and_then(time::positive);
    let mut retries = match &rule.retry {
        None => retries::lower(assembly.client.resolved.settings.default_retries.as_ref()),
        Some(written) => Some(retry(written)),
    };
    match &mut retries {
        Some(policy) => policy.per_try = per_try.or(policy.per_try),
        // Without retries there is one try: its limit is the request's.
        None => timeout = [timeout, per_try].into_iter().flatten().min(),
    }
    Ok(Forward {
        backends: backends.into(),
        request_headers: effects.request_headers,
        rewrite: effects.rewrite,
        timeout,
        retries,
        mirrors: mirrors.into(),
        session: None,
    })
}

/// A rule's session. Without a name of its own it is told apart from those of other rules by the rule's key.
///
/// # Errors
/// The name cannot be that of a cookie or header.
fn session(written: &SessionPersistence, key: &str) -> Result<Session, Arc<str>> {
    let SessionPersistence { session_name, absolute_timeout, persistence_type, cookie_config } = written;
    let is_header = *persistence_type == SessionPersistenceType::Header;
    let name = match session_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) if is_header => name.to_ascii_lowercase(),
        Some(name) => name.to_owned(),
        None => format!("palisade-session-{}", ContentHash::of_bytes(key.as_bytes()).to_string().split_at(12).0),
    };
    if !is_token(&name) {
        return Err(format!("`sessionPersistence.sessionName` is no name of a cookie or header: `{name}`").into());
    }
    let is_permanent = cookie_config.as_ref().is_some_and(|own| own.lifetime_type == CookieLifetimeType::Permanent);
    Ok(Session {
        name: name.into(),
        is_header,
        is_permanent: is_permanent && !is_header,
        timeout: absolute_timeout.and_then(time::positive),
    })
}

/// RFC 9110, `token`: what cookies and headers may be called.
fn is_token(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Retries of a rule: the default conditions, and the status codes that it names.
fn retry(written: &HttpRouteRetry) -> RetryPolicy {
    let HttpRouteRetry { codes, attempts, backoff } = written;
    let mut policy = retries::default();
    if let Some(attempts) = attempts.filter(|attempts| *attempts > 0) {
        policy.attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    }
    policy.statuses = codes.iter().copied().collect();
    if let Some(base) = backoff.and_then(time::positive) {
        policy.backoff = base;
        policy.max_backoff = base.saturating_mul(10);
    }
    policy
}

/// A backend. One that does not exist or may not be used answers 500 for its share (Gateway API, `HTTPBackendRef`).
fn backend(
    assembly: &mut Assembly<'_>,
    route: &Route,
    written: &HttpBackendRef,
    weight: u32,
) -> Result<Backend, HashError> {
    let effects = filters::read(&written.filters);
    let is_usable = effects.refusal.is_none() && effects.redirect.is_none();
    let Resolved { destination, is_present } = resolve(assembly, route, &written.object())?;
    let mut request_headers = effects.request_headers;
    if let Some(authority) = effects.rewrite.authority {
        request_headers.set = request_headers.set.iter().cloned().chain([(Arc::from("host"), authority)]).collect();
    }
    Ok(Backend {
        cluster: destination.cluster_name(),
        missing: (!(is_usable && is_present)).then_some(500),
        weight,
        request_headers,
        response_headers: effects.response_headers,
        path: effects.rewrite.path,
    })
}

/// What a reference to a backend leads to.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) destination: Destination,
    /// It exists and may be used.
    pub(super) is_present: bool,
}

/// What a UDPRoute's reference to a backend leads to: the cluster's name, and whether it exists and may be used.
pub(super) fn resolve_datagrams(
    assembly: &mut Assembly<'_>,
    route: &Route,
    written: &BackendObjectReference,
) -> Result<(Arc<str>, bool), HashError> {
    let resolved = &assembly.client.resolved;
    let own = &route.head.key.namespace;
    let namespace = written.namespace.as_deref().unwrap_or(own);
    let from = Referrer { group: GROUP, kind: route.kind.as_str(), namespace: own };
    let is_service = matches!(written.group.as_str(), "" | "core") && written.kind == "Service";
    let is_permitted = resolved.gateway_api.grants().permits(from, namespace, "", "Service", &written.name);
    let host = hosts::service_host(&written.name, namespace, &resolved.settings.cluster_domain);
    let port = written.port.unwrap_or(0);
    let is_present = is_service && is_permitted && assembly.add_datagram_destination(&host, port)?;
    Ok((clusters::datagram_cluster_name(&host, port), is_present))
}

pub(super) fn resolve(
    assembly: &mut Assembly<'_>,
    route: &Route,
    written: &BackendObjectReference,
) -> Result<Resolved, HashError> {
    let client = assembly.client;
    let own = &route.head.key.namespace;
    let namespace = written.namespace.as_deref().unwrap_or(own);
    let from = Referrer { group: GROUP, kind: route.kind.as_str(), namespace: own };
    if written.group == ISTIO_GROUP && written.kind == "Hostname" {
        // The host of a service as this client sees it: exports decide, as for every host name (Istio).
        let host = written.name.to_ascii_lowercase().into();
        let destination = Destination { host, port: written.port.unwrap_or(0), subset: "".into() };
        let is_present = assembly.add_destination(&destination)?;
        return Ok(Resolved { destination, is_present });
    }
    let is_service = matches!(written.group.as_str(), "" | "core") && written.kind == "Service";
    // A route in the mesh gives no access that its clients do not have anyway: only Gateways ask for permission (Istio).
    let is_permitted = client.is_sidecar()
        || client.resolved.gateway_api.grants().permits(from, namespace, "", "Service", &written.name);
    let host = hosts::service_host(&written.name, namespace, &client.resolved.settings.cluster_domain);
    let services = &client.resolved.services;
    let destination = Destination {
        host: services.alias_target(&host).unwrap_or(host),
        port: written.port.unwrap_or(0),
        subset: "".into(),
    };
    let is_present = is_service && is_permitted && assembly.add_destination(&destination)?;
    Ok(Resolved { destination, is_present })
}

/// Header changes of a filter.
fn mutations(filter: &palisade_crds::gateway_api::HttpHeaderFilter) -> HeaderMutations {
    let palisade_crds::gateway_api::HttpHeaderFilter { set, add, remove } = filter;
    let pairs = |headers: &[palisade_crds::gateway_api::HttpHeader]| -> Arc<[(Arc<str>, Arc<str>)]> {
        headers
            .iter()
            .map(|header| (Arc::from(header.name.to_ascii_lowercase()), Arc::from(header.value.as_str())))
            .collect()
    };
    HeaderMutations {
        remove: remove.iter().map(|name| Arc::from(name.to_ascii_lowercase())).collect(),
        set: pairs(set),
        add: pairs(add),
    }
}
