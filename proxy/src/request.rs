//! The request pipeline as pure functions: no sockets, no clock, no chance that is not handed in.
//!
//! `eval` and the live proxy call the same two: [`decide_http`] and [`decide_tcp`], on a connection that
//! [`connection::admit`] took. The order is Istio's: normalise, authorize, and only then anything that configuration
//! makes (fault, redirect, 404, upstream).

pub mod address;
pub mod authority;
pub mod authorize;
pub mod balance;
pub mod changes;
pub mod connection;
pub mod cors;
mod deadline;
pub mod dynamic;
mod egress;
pub mod external;
pub mod facts;
mod gate;
pub mod hash;
pub mod hygiene;
mod injected;
pub mod normalize;
mod outgoing;
pub mod redirect;
pub mod route;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
pub mod upstream;
pub mod verdict;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use palisade_model::{
    cluster::{Discovery, LoadBalancer, UpstreamTls},
    reason::Reason,
    route::{Forward, RouteAction},
};
use palisade_policy::{Decision, Permit};

use self::{
    authority::Authority,
    changes::{CompiledChanges, HeaderChange},
    connection::{Admitted, Entry},
    cors::CrossOrigin,
    external::{External, Testimony},
    facts::{Chance, HttpVersion, Request},
    injected::{added, inject, lines_of},
    normalize::Target,
    outgoing::with_query,
    redirect::Redirected,
    route::{Found, FoundL4, INBOUND_PASSTHROUGH, PASSTHROUGH},
    upstream::{hop_changes, is_grpc},
    verdict::{Action, Answer, Authorization, ForwardPlan, Injected, Route, UpstreamHead, Verdict},
};
use crate::{
    index::{IndexedCluster, IndexedEntry, MatchFacts, RuntimeIndex},
    transport::MAX_TARGET,
};

/// A permitted request on its way through its route.
struct Permitted<'a> {
    index: &'a RuntimeIndex,
    admitted: &'a Admitted,
    request: &'a Request<'a>,
    authority: &'a Authority<'a>,
    target: &'a Target<'a>,
    remote_ip: std::net::IpAddr,
    is_grpc: bool,
    authorization: Authorization,
    permit: Permit,
    /// What providers and tokens changed, before any other change.
    changes: &'a [HeaderChange],
    /// The headers that routes see.
    routed: &'a HeaderMap,
}

/// Decides an HTTP request on a connection that carries HTTP. `None` for `request`: its bytes are not HTTP.
pub fn decide_http(
    index: &RuntimeIndex,
    admitted: &Admitted,
    request: Option<&Request<'_>>,
    chance: &mut Chance,
) -> Verdict {
    decide_http_with(index, admitted, request, &Testimony::default(), chance)
}

/// As [`decide_http`], for a request about which more is known than it says itself.
pub fn decide_http_with(
    index: &RuntimeIndex,
    admitted: &Admitted,
    request: Option<&Request<'_>>,
    testimony: &Testimony,
    chance: &mut Chance,
) -> Verdict {
    let refuse = |is_grpc| {
        let answer = Answer::refusal(Reason::BadRequest, is_grpc, None);
        Verdict::early(Reason::BadRequest, Action::Respond(answer))
    };
    let Some(request) = request else { return refuse(false) };
    let is_grpc = is_grpc(request);
    let settings = index.settings();
    let Ok(addressed) = hygiene::check(request) else { return refuse(is_grpc) };
    let is_unnamed = addressed.authority.is_empty() && request.version == HttpVersion::Http10;
    let sent_to = is_unnamed.then(|| admitted.facts.destination.to_string());
    let named = sent_to.as_ref().map_or(addressed.authority, |destination| destination.as_bytes());
    let authority = std::str::from_utf8(named).ok().and_then(|text| Authority::parse(text).ok());
    let target = normalize::normalize(&addressed.target, settings.path_normalization, settings.reject_path_parameters);
    let (Some(authority), Ok(target)) = (authority, target) else { return refuse(is_grpc) };
    if target.path == "*" && request.method != "OPTIONS" {
        return refuse(is_grpc);
    }
    let request = &Request { scheme: address::scheme(settings, admitted, request), ..*request };
    let remote_ip = address::remote_ip(settings, admitted.facts.source.ip().to_canonical(), request.headers);
    let passed = gate::pass(admitted, request, &authority, &target, remote_ip, is_grpc, testimony, chance.now);
    let gate::Passed { passing, jwt } = match passed {
        Ok(passed) => passed,
        Err(verdict) => return *verdict,
    };
    let target = Target { path: target.path, query: passing.query.as_deref().or(target.query) };
    let seen = Request { headers: &passing.headers, jwt: jwt.as_deref(), ..*request };
    let routed = if passing.reroutes { &*passing.headers } else { request.headers };
    let (request, changes) = (&seen, passing.changes.as_slice());
    let (decision, authorization) = if egress::is_restricted(settings, admitted) {
        let wanted = MatchFacts {
            path: target.path.as_bytes(),
            query: target.query,
            scheme: request.scheme,
            method: request.method,
            authority: authority.text,
            headers: routed,
            jwt: request.jwt,
        };
        let found = route::find(index, admitted, &authority, &wanted);
        let hosts = match egress::hosts_of(index, admitted, &authority.host, &found) {
            Ok(hosts) => hosts,
            Err(query) => return Verdict::early(Reason::ConfigUnavailable, Action::Ask(query)),
        };
        let lines = authorize::Lines(request.headers);
        let facts = authorize::facts(request, &authority, &target, &lines, remote_ip, chance.now);
        authorize::egress_request(index, admitted, &facts, &hosts, chance.depth)
    } else {
        authorize::request(admitted, request, &authority, &target, remote_ip, chance.now, chance.depth)
    };
    match decision {
        Decision::Deny(_) => {
            let reason = denial_reason(&admitted.entry);
            let action = Action::Respond(Answer::refusal(reason, is_grpc, None));
            let verdict = Verdict::early(reason, action);
            Verdict { authorization: Some(authorization), external: passing.external, ..verdict }
        }
        Decision::Allow(permit) => {
            let (authority, target) = (&authority, &target);
            let permitted = Permitted {
                index,
                admitted,
                request,
                authority,
                target,
                remote_ip,
                is_grpc,
                authorization,
                permit,
                changes,
                routed,
            };
            let verdict = permitted.decide(chance);
            passing.external.onto(verdict)
        }
    }
}

/// Decides a connection that carries opaque bytes.
pub fn decide_tcp(index: &RuntimeIndex, admitted: &Admitted, chance: &mut Chance) -> Verdict {
    decide_tcp_with(index, admitted, &Testimony::default(), chance)
}

/// As [`decide_tcp`], for a connection that providers have spoken about.
pub fn decide_tcp_with(
    index: &RuntimeIndex,
    admitted: &Admitted,
    testimony: &Testimony,
    chance: &mut Chance,
) -> Verdict {
    let external = match external::connection(admitted, testimony) {
        Ok(external) => external,
        Err(verdict) => return *verdict,
    };
    let found = route::find_l4(index, admitted, chance);
    let (decision, authorization) = if egress::is_restricted(index.settings(), admitted) {
        match egress::hosts_of_bytes(index, admitted, &found) {
            Ok(hosts) => authorize::egress_connection(index, admitted, &hosts, chance.depth),
            Err(query) => return Verdict::early(Reason::ConfigUnavailable, Action::Ask(query)),
        }
    } else {
        authorize::connection(admitted, chance.depth)
    };
    let permit = match decision {
        Decision::Deny(_) => {
            let verdict = Verdict::early(denial_reason(&admitted.entry), Action::Close);
            return Verdict { authorization: Some(authorization), ..verdict };
        }
        Decision::Allow(permit) => permit,
    };
    let mut verdict = Verdict::early(Reason::Ok, Action::Close);
    verdict.authorization = Some(authorization);
    verdict.external = external;
    let name = match found {
        FoundL4::Route(route, at) => {
            let backend = route.backends.get(at).map(|backend| Arc::clone(&backend.cluster));
            verdict.route = Route::L4(route);
            backend
        }
        FoundL4::Cluster(cluster) => Some(cluster),
        FoundL4::Nothing(reason) => {
            verdict.reason = reason;
            verdict.cluster = (reason == Reason::EgressUnknownHost).then(|| route::BLACK_HOLE.into());
            None
        }
        FoundL4::Ask(query) => {
            verdict.reason = Reason::ConfigUnavailable;
            verdict.action = Action::Ask(query);
            None
        }
    };
    let Some(name) = name else { return verdict };
    verdict.cluster = Some(Arc::clone(&name));
    match usable_cluster(index, &name) {
        Ok(cluster) => {
            verdict.action = Action::Forward(Box::new(ForwardPlan {
                permit,
                is_passthrough: is_passthrough(&name),
                hash: hash::of_connection(cluster.cluster(), &admitted.facts),
                cluster,
                head: UpstreamHead::default(),
                response: Vec::new(),
                timeout: None,
                retries: None,
                mirrors: Vec::new(),
            }));
        }
        Err(reason) => verdict.reason = reason,
    }
    verdict
}

const fn denial_reason(entry: &Entry) -> Reason {
    match entry {
        Entry::Inbound(_) | Entry::Gateway(_, _) => Reason::AuthzDenied,
        Entry::Outbound(_) => Reason::EgressDenied,
    }
}

fn is_passthrough(cluster: &str) -> bool {
    matches!(cluster, PASSTHROUGH | INBOUND_PASSTHROUGH)
}

/// Whether clients choose the endpoint by its address.
fn is_passed_through(cluster: &IndexedCluster) -> bool {
    cluster.cluster().load_balancer == LoadBalancer::Passthrough
}

/// The cluster of a name, if something can be sent to it.
fn usable_cluster(index: &RuntimeIndex, name: &str) -> Result<Arc<IndexedCluster>, Reason> {
    let cluster = index.cluster(name).ok_or(Reason::NoCluster)?;
    // The document asks for TLS that cannot be built; plaintext would weaken it.
    if let UpstreamTls::Refuse { message: _ } = &cluster.cluster().tls {
        return Err(Reason::UpstreamConnect);
    }
    match &cluster.cluster().discovery {
        Discovery::Endpoints { key: _, subset: _ } if cluster.available().is_empty() && !is_passed_through(cluster) => {
            Err(Reason::NoEndpoints)
        }
        Discovery::BlackHole => Err(Reason::EgressUnknownHost),
        Discovery::Endpoints { key: _, subset: _ }
        | Discovery::OriginalDestination
        | Discovery::DynamicName { port: _ }
        | Discovery::Workload { port: _ } => Ok(Arc::clone(cluster)),
    }
}

impl Permitted<'_> {
    fn decide(self, chance: &mut Chance) -> Verdict {
        let facts = MatchFacts {
            path: self.target.path.as_bytes(),
            query: self.target.query,
            scheme: self.request.scheme,
            method: self.request.method,
            authority: self.authority.text,
            headers: self.routed,
            jwt: self.request.jwt,
        };
        match route::find(self.index, self.admitted, self.authority, &facts) {
            Found::HttpsRedirect => {
                let location = redirect::https_location(&self.redirected());
                self.redirect(301, location, Route::None, &CompiledChanges::default())
            }
            Found::Rule(entry) => self.rule(entry, chance),
            Found::Cluster(name) => {
                let head = self.head(None, None, None, chance);
                self.forward(&name, head, Route::None, None, Injected::default(), chance)
            }
            Found::Nothing(reason) => {
                let mut verdict = self.respond(reason, Route::None, None);
                verdict.cluster = (reason == Reason::EgressUnknownHost).then(|| route::BLACK_HOLE.into());
                verdict
            }
            Found::Ask(query) => {
                let verdict = Verdict::early(Reason::ConfigUnavailable, Action::Ask(query));
                Verdict { authorization: Some(self.authorization), ..verdict }
            }
        }
    }

    fn rule(self, entry: IndexedEntry, chance: &mut Chance) -> Verdict {
        let rule = Arc::clone(&entry.rule);
        let (fault, grpc) = inject(&rule.rule().fault, self.is_grpc, chance);
        if let Some(status) = fault.abort {
            let answer = Answer::configured(status, grpc, "fault filter abort");
            return Verdict { fault, ..self.answered(Reason::FaultAbort, answer, Route::Rule(entry)) };
        }
        let (request, cors) = (self.request, rule.cors());
        let cross_origin = cors.map_or(CrossOrigin::Nothing, |cors| cors::judge(cors, request.method, request.headers));
        match cross_origin {
            CrossOrigin::Nothing => self.act(entry, fault, chance),
            CrossOrigin::Preflight(lines) => {
                let answer = Answer { headers: lines, ..Answer::configured(200, None, "") };
                Verdict { fault, ..self.answered(Reason::CorsPreflight, answer, Route::Rule(entry)) }
            }
            CrossOrigin::Headers(changes) => {
                let mut verdict = self.act(entry, fault, chance);
                match &mut verdict.action {
                    Action::Forward(plan) => plan.response.extend(changes),
                    Action::Respond(answer) => answer.headers.extend(lines_of(&changes)),
                    Action::Close | Action::Ask(_) | Action::Check(_) => {}
                }
                verdict
            }
        }
    }

    /// What the rule's action makes of the request.
    fn act(self, entry: IndexedEntry, fault: Injected, chance: &mut Chance) -> Verdict {
        let rule = Arc::clone(&entry.rule);
        match &rule.rule().action {
            RouteAction::Forward(forward) => self.rule_forward(entry, forward, fault, chance),
            RouteAction::Redirect(redirect) => {
                let path = self.target.path.as_bytes();
                let rewritten = |rewrite: &_| rule.rewritten(entry.alternative, rewrite, path).into_owned();
                let location = redirect::location(&self.redirected(), redirect, rewritten);
                let changes = rule.response_changes();
                Verdict { fault, ..self.redirect(redirect.status, location, Route::Rule(entry), changes) }
            }
            RouteAction::DirectResponse { status, body, content_type } => {
                let mut answer = Answer::configured(*status, None, "");
                answer.body = body.clone();
                answer.content_type = content_type.clone().or((!body.is_empty()).then(|| "text/plain".into()));
                answer.headers = added(rule.response_changes());
                Verdict { fault, ..self.answered(Reason::DirectResponse, answer, Route::Rule(entry)) }
            }
            RouteAction::Refuse { message: _ } => {
                Verdict { fault, ..self.respond(Reason::ConfigUnavailable, Route::Rule(entry), None) }
            }
        }
    }

    fn rule_forward(self, entry: IndexedEntry, forward: &Forward, fault: Injected, chance: &mut Chance) -> Verdict {
        // Gateway API: a rule without any backend answers 500.
        let Some((at, backend)) = route::choose(&entry, forward, chance) else {
            return Verdict { fault, ..self.respond(Reason::NoCluster, Route::Rule(entry), Some(500)) };
        };
        if let Some(status) = backend.missing {
            let verdict = self.respond(Reason::NoCluster, Route::Rule(entry), Some(status));
            return Verdict { fault, cluster: Some(Arc::clone(&backend.cluster)), ..verdict };
        }
        let head = self.head(Some(&entry), Some(forward), Some(at), chance);
        let name = Arc::clone(&backend.cluster);
        self.forward(&name, head, Route::Rule(entry), Some((forward, at)), fault, chance)
    }

    fn forward(
        self,
        name: &Arc<str>,
        head: UpstreamHead,
        route: Route,
        chosen: Option<(&Forward, usize)>,
        fault: Injected,
        chance: &mut Chance,
    ) -> Verdict {
        let cluster = match usable_cluster(self.index, name) {
            Ok(cluster) => cluster,
            Err(reason) => {
                return Verdict { fault, cluster: Some(Arc::clone(name)), ..self.respond(reason, route, None) };
            }
        };
        let mut response = Vec::new();
        if let (Route::Rule(entry), Some((_, at))) = (&route, chosen) {
            // Route level comes last, so that it wins.
            let backend = entry.rule.backend_changes(at).map(|backend| backend.response.changes.as_slice());
            response.extend_from_slice(backend.unwrap_or_default());
            response.extend_from_slice(&entry.rule.response_changes().changes);
        }
        if head.target.len() > MAX_TARGET {
            return Verdict { fault, ..self.respond(Reason::HeadersTooLarge, route, None) };
        }
        let mirrors = chosen.into_iter().flat_map(|(forward, _)| forward.mirrors.iter());
        let mirrors = mirrors
            .filter(|mirror| mirror.share.happens(chance.draw()))
            .map(|mirror| Arc::clone(&mirror.cluster))
            .collect();
        let connection = &self.admitted.facts;
        let query = self.target.query;
        let hashed = hash::of_request(cluster.cluster(), self.request.headers, query, self.remote_ip, connection);
        response.extend(hashed.set_cookie.map(|cookie| HeaderChange::Append(header::SET_COOKIE, cookie)));
        let plan = ForwardPlan {
            permit: self.permit,
            hash: hashed.hash,
            cluster,
            is_passthrough: is_passthrough(name),
            head,
            response,
            timeout: deadline::limit(
                chosen.and_then(|(forward, _)| forward.timeout),
                self.is_grpc,
                self.request.headers,
            ),
            retries: chosen.and_then(|(forward, _)| forward.retries.clone()),
            mirrors,
        };
        Verdict {
            reason: Reason::Ok,
            authorization: Some(self.authorization),
            route,
            cluster: Some(Arc::clone(name)),
            fault,
            external: External::default(),
            action: Action::Forward(Box::new(plan)),
        }
    }

    /// The request as it goes upstream: what every hop does, then the backend's changes, then the rule's, which win.
    fn head(
        &self,
        entry: Option<&IndexedEntry>,
        forward: Option<&Forward>,
        backend: Option<usize>,
        chance: &mut Chance,
    ) -> UpstreamHead {
        let mut changes = self.changes.to_vec();
        changes.extend(hop_changes(self.index, self.admitted, self.request, self.remote_ip, chance));
        let mut authority = self.authority.text;
        let mut path = std::borrow::Cow::Borrowed(self.target.path.as_bytes());
        if let (Some(entry), Some(forward)) = (entry, forward) {
            let own = backend.and_then(|at| forward.backends.get(at)).and_then(|backend| backend.path.as_ref());
            if let Some(rewrite) = own.or(forward.rewrite.path.as_ref()) {
                path = std::borrow::Cow::Owned(entry.rule.rewritten(entry.alternative, rewrite, &path).into_owned());
                if let Ok(value) = HeaderValue::from_bytes(&with_query(self.target.path.as_bytes(), self.target.query))
                {
                    changes.push(HeaderChange::Set(header::HeaderName::from_static("x-envoy-original-path"), value));
                }
            }
            authority = forward.rewrite.authority.as_deref().unwrap_or(authority);
            let backend = backend.and_then(|at| entry.rule.backend_changes(at)).map(|backend| &backend.request);
            for level in backend.into_iter().chain([entry.rule.request_changes()]) {
                changes.extend_from_slice(&level.changes);
                authority = level.authority.as_deref().unwrap_or(authority);
            }
            let target = with_query(&path, self.target.query);
            return UpstreamHead { authority: authority.to_owned(), target, changes };
        }
        UpstreamHead { authority: authority.to_owned(), target: with_query(&path, self.target.query), changes }
    }

    fn redirected(&self) -> Redirected<'_> {
        let listener_port = match &self.admitted.entry {
            Entry::Gateway(listener, _) => listener.declared_port,
            Entry::Inbound(_) | Entry::Outbound(_) => self.admitted.facts.destination.port(),
        };
        Redirected { scheme: self.request.scheme, authority: self.authority, target: self.target, listener_port }
    }

    fn redirect(self, status: u16, location: Vec<u8>, route: Route, changes: &CompiledChanges) -> Verdict {
        // A location made of a checked authority and a normalised path is always a header value.
        let Ok(location) = HeaderValue::from_bytes(&location) else {
            return self.respond(Reason::BadRequest, route, None);
        };
        let mut answer = Answer::configured(status, None, "");
        answer.headers.push((header::LOCATION, location));
        answer.headers.extend(added(changes));
        self.answered(Reason::Redirect, answer, route)
    }

    fn respond(self, reason: Reason, route: Route, http: Option<u16>) -> Verdict {
        let answer = Answer::refusal(reason, self.is_grpc, http);
        self.answered(reason, answer, route)
    }

    fn answered(self, reason: Reason, answer: Answer, route: Route) -> Verdict {
        Verdict {
            reason,
            authorization: Some(self.authorization),
            route,
            cluster: None,
            fault: Injected::default(),
            external: External::default(),
            action: Action::Respond(answer),
        }
    }
}

#[cfg(test)]
mod tests;
