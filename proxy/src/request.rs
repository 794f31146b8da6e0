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
pub mod egress;
pub mod external;
pub mod facts;
mod gate;
pub mod hash;
pub mod hygiene;
mod injected;
pub mod normalize;
mod outgoing;
mod permitted;
pub mod redirect;
pub(crate) mod remembered;
pub mod route;
pub mod session;
mod shown;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
mod underscores;
pub mod upstream;
pub mod verdict;
pub mod view;

use std::sync::Arc;

use http::{HeaderValue, header};
use palisade_model::reason::Reason;
use palisade_policy::Decision;

use self::{
    authority::Authority,
    authorize::Depth,
    connection::{Admitted, Entry},
    external::Testimony,
    facts::{Chance, HttpVersion, Request},
    normalize::{PathRules, Target},
    permitted::{Permitted, is_passthrough, usable_cluster},
    route::FoundL4,
    underscores::Underscored,
    upstream::is_grpc,
    verdict::{Action, Answer, ForwardPlan, Route, UpstreamHead, Verdict},
    view::HeaderView,
};
use crate::index::{MatchFacts, RuntimeIndex};

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
    let target = normalize::normalize(&addressed.target, PathRules::of(settings));
    let (Some(authority), Ok(target)) = (authority, target) else { return refuse(is_grpc) };
    if target.path == "*" && request.method != "OPTIONS" {
        return refuse(is_grpc);
    }
    let Ok(underscored) = underscores::judge(settings, request.headers) else { return refuse(is_grpc) };
    let headers = underscored.as_ref().map_or(request.headers, |dropped| &dropped.headers);
    let request = &Request { scheme: address::scheme(settings, admitted, request), headers, ..*request };
    if target.is_elsewhere {
        return if is_grpc { refuse(true) } else { normalized(request, &authority, &target) };
    }
    let remote_ip = address::remote_ip(settings, admitted.facts.source.ip().to_canonical(), request.headers);
    let mut hop = upstream::hop_changes(index, admitted, request, remote_ip, chance);
    // First, so that what this hop, providers and tokens set stays.
    hop.splice(0..0, underscored.iter().flat_map(Underscored::removals));
    let passed = gate::pass(admitted, request, &hop, &authority, &target, remote_ip, is_grpc, testimony, chance.now);
    let gate::Passed { passing, jwt } = match passed {
        Ok(passed) => passed,
        Err(verdict) => return *verdict,
    };
    let query = passing.query.as_deref().or(target.query);
    // A query of which a token was all goes whole.
    let query = query.filter(|query| passing.query.is_none() || !query.is_empty());
    let target = Target { query, ..target };
    let seen = Request { headers: &passing.headers, jwt: jwt.as_deref(), ..*request };
    let shown = passing.view();
    let routed = if passing.reroutes { shown } else { HeaderView::new(request.headers, &hop) };
    let (request, changes) = (&seen, [hop.as_slice(), &passing.changes]);
    let facts = authorize::facts(request, &authority, &target, &shown, remote_ip, chance.now);
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
        let mut hosts = match egress::hosts_of(index, admitted, &authority.host, &found) {
            Ok(hosts) => hosts,
            Err(query) => return Verdict::early(Reason::ConfigUnavailable, Action::Ask(query)),
        };
        if let Some(underway) = &testimony.underway {
            egress::add_underway(index, admitted, underway, &mut hosts);
        }
        authorize::egress_request(index, admitted, &facts, &hosts, chance.depth)
    } else {
        authorize::request(admitted, &facts, chance.depth)
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

/// The answer to a path that is to be asked for in its normalised form (Envoy's `UNESCAPE_AND_REDIRECT`). It tells nothing but
/// what the client wrote, so it may come before authorization.
fn normalized(request: &Request<'_>, authority: &Authority<'_>, target: &Target<'_>) -> Verdict {
    let mut answer = Answer::configured(307, None, "");
    let location = HeaderValue::from_bytes(&redirect::normalized_location(request.scheme, authority, target));
    let reason = match location {
        Ok(location) => {
            answer.headers.push((header::LOCATION, location));
            Reason::Redirect
        }
        Err(_) => {
            answer = Answer::refusal(Reason::BadRequest, false, None);
            Reason::BadRequest
        }
    };
    Verdict::early(reason, Action::Respond(answer))
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
    let passes_mesh_tls = admitted.entry.is_auto_passthrough();
    match usable_cluster(index, &name) {
        Ok(cluster) if passes_mesh_tls && !cluster.serving().iter().any(|(endpoint, _)| endpoint.is_mesh()) => {
            verdict.reason = Reason::NoEndpoints;
        }
        Ok(cluster) => {
            match egress::is_registered(index, admitted, &cluster) {
                Ok(true) => {}
                Ok(false) => {
                    verdict.reason = Reason::EgressUnknownHost;
                    verdict.cluster = Some(route::BLACK_HOLE.into());
                    return verdict;
                }
                Err(query) => {
                    verdict.reason = Reason::ConfigUnavailable;
                    verdict.action = Action::Ask(query);
                    return verdict;
                }
            }
            verdict.action = Action::Forward(Box::new(ForwardPlan {
                session: None,
                permit,
                is_passthrough: is_passthrough(&name),
                passes_mesh_tls,
                // A hash could lead to one that speaks no mesh TLS.
                hash: hash::of_connection(cluster.cluster(), &admitted.facts).filter(|_| !passes_mesh_tls),
                cluster,
                head: UpstreamHead::default(),
                response: Vec::new(),
                timeout: None,
                retries: None,
                mirrors: Vec::new(),
                unsent_mirrors: 0,
            }));
        }
        Err(reason) => verdict.reason = reason,
    }
    verdict
}

/// Whether a configuration lets an opaque connection in progress go on where it goes: authorization, not routing.
///
/// # Errors
/// The reason for which it ends.
pub fn recheck_tcp(index: &RuntimeIndex, admitted: &Admitted, testimony: &Testimony) -> Result<(), Reason> {
    // A provider that has not been asked has not allowed it; nobody waits for its answer here.
    external::connection(admitted, testimony).map_err(|verdict| verdict.reason)?;
    let (_, said) = if egress::is_restricted(index.settings(), admitted) {
        let mut hosts = Vec::new();
        if let Some(underway) = &testimony.underway {
            egress::add_underway(index, admitted, underway, &mut hosts);
        }
        authorize::egress_connection(index, admitted, &hosts, Depth::Recheck)
    } else {
        authorize::connection(admitted, Depth::Recheck)
    };
    if said.is_allowed { Ok(()) } else { Err(denial_reason(&admitted.entry)) }
}

const fn denial_reason(entry: &Entry) -> Reason {
    match entry {
        Entry::Inbound(_) | Entry::Gateway(_, _) => Reason::AuthzDenied,
        Entry::Outbound(_) => Reason::EgressDenied,
    }
}

#[cfg(test)]
mod tests;
