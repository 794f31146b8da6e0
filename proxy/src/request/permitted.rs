//! What becomes of a permitted request: its route, and what the route's rule makes of it.

use std::sync::Arc;

use http::{HeaderValue, header};
use palisade_model::{
    cluster::{Discovery, LoadBalancer, UpstreamTls},
    reason::Reason,
    route::{Forward, RouteAction},
    service::Query,
};
use palisade_policy::Permit;

use super::{
    authority::Authority,
    changes::{CompiledChanges, HeaderChange},
    connection::{Admitted, Entry},
    cors::{self, CrossOrigin},
    deadline, egress,
    external::External,
    facts::{Chance, Request},
    hash,
    injected::{added, inject, lines_of},
    normalize::Target,
    outgoing::with_query,
    redirect::{self, Redirected},
    route::{self, Found, INBOUND_PASSTHROUGH, PASSTHROUGH},
    session::Held,
    upstream::ATTEMPT_COUNT,
    verdict::{Action, Answer, Authorization, ForwardPlan, Injected, Route, UpstreamHead, Verdict},
    view::HeaderView,
};
use crate::{
    index::{IndexedCluster, IndexedEntry, MatchFacts, RuntimeIndex},
    transport::MAX_TARGET,
};

/// A permitted request on its way through its route.
pub(super) struct Permitted<'a> {
    pub(super) index: &'a RuntimeIndex,
    pub(super) admitted: &'a Admitted,
    pub(super) request: &'a Request<'a>,
    pub(super) authority: &'a Authority<'a>,
    pub(super) target: &'a Target<'a>,
    pub(super) remote_ip: std::net::IpAddr,
    pub(super) is_grpc: bool,
    pub(super) authorization: Authorization,
    pub(super) permit: Permit,
    /// What this hop changes, then what providers and tokens did, before any other change.
    pub(super) changes: [&'a [HeaderChange]; 2],
    /// The headers that routes see.
    pub(super) routed: HeaderView<'a>,
}

impl Permitted<'_> {
    pub(super) fn decide(self, chance: &mut Chance) -> Verdict {
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
                let head = self.head(None, None, None);
                self.forward(&name, head, Route::None, None, Injected::default(), chance)
            }
            Found::Nothing(reason) => {
                let mut verdict = self.respond(reason, Route::None, None);
                verdict.cluster = (reason == Reason::EgressUnknownHost).then(|| route::BLACK_HOLE.into());
                verdict
            }
            Found::Ask(query) => self.ask(query),
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
        let held = forward
            .session
            .as_ref()
            .map(|session| Held::of(session, self.request.headers, self.request.scheme == "https", chance.now));
        let kept = held.as_ref().and_then(|held| held.backend(self.index, forward));
        let chosen = kept.and_then(|at| Some((at, forward.backends.get(at)?)));
        // Gateway API: a rule without any backend answers 500.
        let Some((at, backend)) = chosen.or_else(|| route::choose(&entry, forward, chance)) else {
            return Verdict { fault, ..self.respond(Reason::NoCluster, Route::Rule(entry), Some(500)) };
        };
        if let Some(status) = backend.missing {
            let verdict = self.respond(Reason::NoCluster, Route::Rule(entry), Some(status));
            return Verdict { fault, cluster: Some(Arc::clone(&backend.cluster)), ..verdict };
        }
        let head = self.head(Some(&entry), Some(forward), Some(at));
        let name = Arc::clone(&backend.cluster);
        let mut verdict = self.forward(&name, head, Route::Rule(entry), Some((forward, at)), fault, chance);
        if let Action::Forward(plan) = &mut verdict.action {
            plan.session = held;
        }
        verdict
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
        match egress::is_registered(self.index, self.admitted, &cluster) {
            Ok(true) => {}
            Ok(false) => {
                let verdict = self.respond(Reason::EgressUnknownHost, route, None);
                return Verdict { fault, cluster: Some(route::BLACK_HOLE.into()), ..verdict };
            }
            Err(query) => return self.ask(query),
        }
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
        let (mirrors, unsent): (Vec<_>, Vec<_>) = mirrors
            .filter(|mirror| mirror.share.happens(chance.draw()))
            .map(|mirror| Arc::clone(&mirror.cluster))
            .partition(|name| self.may_copy_to(name));
        let connection = &self.admitted.facts;
        let query = self.target.query;
        let hashed = hash::of_request(cluster.cluster(), self.request.headers, query, self.remote_ip, connection);
        response.extend(hashed.set_cookie.map(|cookie| HeaderChange::Append(header::SET_COOKIE, cookie)));
        let plan = ForwardPlan {
            permit: self.permit,
            hash: hashed.hash,
            cluster,
            session: None,
            is_passthrough: is_passthrough(name),
            passes_mesh_tls: false,
            head,
            response,
            timeout: deadline::limit(
                chosen.and_then(|(forward, _)| forward.timeout),
                self.is_grpc,
                self.request.headers,
            ),
            retries: chosen.and_then(|(forward, _)| forward.retries.clone()),
            mirrors,
            unsent_mirrors: unsent.len(),
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

    /// Whether a copy may go where the request itself could: a mirror opens no way that a backend has not.
    fn may_copy_to(&self, name: &str) -> bool {
        let cluster = usable_cluster(self.index, name);
        cluster.is_ok_and(|cluster| egress::is_registered(self.index, self.admitted, &cluster) == Ok(true))
    }

    /// The request as it goes upstream: what every hop does, then the backend's changes, then the rule's, which win.
    fn head(&self, entry: Option<&IndexedEntry>, forward: Option<&Forward>, backend: Option<usize>) -> UpstreamHead {
        let [hop, others] = self.changes;
        let mut changes = Vec::with_capacity(hop.len() + others.len() + 4);
        changes.extend_from_slice(hop);
        changes.extend_from_slice(others);
        changes.push(HeaderChange::Set(ATTEMPT_COUNT, HeaderValue::from_static("1")));
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
            authority = backend.and_then(|at| authority_of(entry, forward, at)).unwrap_or(authority);
            let backend = backend.and_then(|at| entry.rule.backend_changes(at)).map(|backend| &backend.request);
            for level in backend.into_iter().chain([entry.rule.request_changes()]) {
                changes.extend_from_slice(&level.changes);
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

    fn ask(self, query: Query) -> Verdict {
        let verdict = Verdict::early(Reason::ConfigUnavailable, Action::Ask(query));
        Verdict { authorization: Some(self.authorization), ..verdict }
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

/// The authority that a rule gives to requests for one of its backends: of all levels that name one the last, which is the rule's own.
pub(super) fn authority_of<'a>(entry: &'a IndexedEntry, forward: &'a Forward, backend: usize) -> Option<&'a str> {
    let own = entry.rule.backend_changes(backend).and_then(|backend| backend.request.authority.as_deref());
    entry.rule.request_changes().authority.as_deref().or(own).or(forward.rewrite.authority.as_deref())
}

pub(super) fn is_passthrough(cluster: &str) -> bool {
    matches!(cluster, PASSTHROUGH | INBOUND_PASSTHROUGH)
}

/// Whether clients choose the endpoint by its address.
fn is_passed_through(cluster: &IndexedCluster) -> bool {
    cluster.cluster().load_balancer == LoadBalancer::Passthrough
}

/// The cluster of a name, if something can be sent to it.
pub(super) fn usable_cluster(index: &RuntimeIndex, name: &str) -> Result<Arc<IndexedCluster>, Reason> {
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
        | Discovery::OriginalAddress { port: _ }
        | Discovery::DynamicName { port: _ }
        | Discovery::Workload { port: _ } => Ok(Arc::clone(cluster)),
    }
}
