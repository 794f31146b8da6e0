//! The route section of a result: rule, backends, and what they are reached by.

use std::{sync::Arc, time::Duration};

use palisade_model::{
    cluster::Discovery,
    endpoint::Address,
    reason::Reason,
    route::{HeaderMutations, RetryOn, RetryPolicy, RouteAction},
};
use palisade_proxy::{
    index::{IndexedCluster, IndexedEndpoint, IndexedEntry, RuntimeIndex},
    request::{
        authority::Authority,
        connection::Admitted,
        upstream::{PlannedTls, tls_towards},
        verdict::{Action, Route, Verdict},
    },
};

use super::answer::{BackendAnswer, Bytes, EndpointAnswer, FaultAnswer, HeadersAnswer, RetriesAnswer, RouteAnswer};

/// The route of a verdict. With `is_fixed` the chosen backend comes first.
pub(super) fn answer(
    index: &RuntimeIndex,
    admitted: &Admitted,
    verdict: &Verdict,
    is_fixed: bool,
) -> Option<RouteAnswer> {
    let mut answer = match &verdict.route {
        Route::Rule(entry) => rule(index, admitted, verdict, entry, is_fixed),
        Route::L4(route) => RouteAnswer {
            source: Some(route.source.to_string()),
            rule: Some(route.rule),
            matched: Some(route.alternative),
            backends: route
                .backends
                .iter()
                .map(|backend| self::backend(index, admitted, verdict, &backend.cluster, backend.weight))
                .collect(),
            ..RouteAnswer::default()
        },
        // A plaintext listener's redirect to https belongs to no rule.
        Route::None if verdict.reason == Reason::Redirect => RouteAnswer::default(),
        Route::None => {
            let cluster = verdict.cluster.as_ref()?;
            RouteAnswer { backends: vec![backend(index, admitted, verdict, cluster, 1)], ..RouteAnswer::default() }
        }
    };
    if let Some(chosen) = verdict.cluster.as_ref().filter(|_| is_fixed)
        && let Some(position) = answer.backends.iter().position(|backend| *backend.cluster == **chosen)
    {
        answer.backends.get_mut(..=position)?.rotate_right(1);
    }
    if let (Reason::Redirect, Action::Respond(response)) = (verdict.reason, &verdict.action) {
        let location = response.headers.iter().find(|(name, _)| *name == http::header::LOCATION);
        answer.redirect = location.map(|(_, value)| Bytes(value.as_bytes().to_vec()));
    }
    let fault = &verdict.fault;
    if fault.delay.is_some() || fault.abort.is_some() {
        answer.fault = Some(FaultAnswer { delay_ms: fault.delay.map(milliseconds), abort: fault.abort });
    }
    Some(answer)
}

fn rule(
    index: &RuntimeIndex,
    admitted: &Admitted,
    verdict: &Verdict,
    entry: &IndexedEntry,
    is_fixed: bool,
) -> RouteAnswer {
    let rule = entry.rule.rule();
    let mut answer = RouteAnswer {
        source: Some(rule.source.to_string()),
        name: rule.name.as_deref().map(str::to_owned),
        rule: Some(rule.rule),
        matched: entry.rule.source_match(entry.alternative).map(|condition| condition.source_index),
        ..RouteAnswer::default()
    };
    if let RouteAction::Forward(forward) = &rule.action {
        answer.backends = forward
            .backends
            .iter()
            .map(|backend| self::backend(index, admitted, verdict, &backend.cluster, backend.weight))
            .collect();
        answer.mirrors = match &verdict.action {
            // The draw is fixed: those that get a copy of this very request.
            Action::Forward(plan) if is_fixed => plan.mirrors.iter().map(ToString::to_string).collect(),
            _ => forward.mirrors.iter().map(|mirror| mirror.cluster.to_string()).collect(),
        };
        answer.timeout_ms = forward.timeout.map(milliseconds);
        answer.retries = forward.retries.as_ref().map(retries);
        answer.headers = headers(&forward.request_headers);
    }
    answer
}

fn backend(
    index: &RuntimeIndex,
    admitted: &Admitted,
    verdict: &Verdict,
    name: &Arc<str>,
    weight: u32,
) -> BackendAnswer {
    // Where no server name is written, the request's host is sent (Istio `auto_sni`).
    let authority = match &verdict.action {
        Action::Forward(plan) => {
            Authority::parse(&plan.head.authority).ok().map(|authority| authority.host.into_owned())
        }
        _ => None,
    };
    let sni = admitted.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    let named = authority.as_deref().or(sni);
    let Some(cluster) = index.cluster(name) else {
        let tls = "none";
        return BackendAnswer {
            cluster: name.to_string(),
            weight,
            endpoints: Vec::new(),
            tls,
            sni: None,
            sans: Vec::new(),
        };
    };
    let passes_mesh_tls = admitted.entry.is_auto_passthrough();
    let tls_towards = |endpoint: Option<&IndexedEndpoint>| match passes_mesh_tls {
        true => PlannedTls::Off,
        false => tls_towards(cluster, endpoint),
    };
    let serving = cluster.serving().into_iter().filter(|(endpoint, _)| !passes_mesh_tls || endpoint.is_mesh());
    let serving: Vec<(&IndexedEndpoint, u32)> = serving.collect();
    let endpoints = endpoints(admitted, cluster, &serving, tls_towards);
    // Auto-mTLS is an endpoint's affair. Of several kinds the backend shows the weakest, and each endpoint its own.
    let usable = || serving.iter().map(|(endpoint, _)| *endpoint);
    let is_protected = |endpoint: &&_| !matches!(tls_towards(Some(*endpoint)), PlannedTls::Off | PlannedTls::Refuse(_));
    let weakest = usable().find(|endpoint| !is_protected(endpoint)).or_else(|| usable().next());
    let (tls, sni, sans) = match tls_towards(weakest.or(cluster.endpoints().first())) {
        PlannedTls::Off | PlannedTls::Refuse(_) => ("none", None, Vec::new()),
        PlannedTls::Mesh { sni, sans } => {
            ("mesh", Some(sni.to_string()), sans.iter().map(ToString::to_string).collect())
        }
        PlannedTls::Originate(originate) => (
            if originate.client_certificate.is_some() { "mutual" } else { "simple" },
            originate.sni.as_deref().or(named).map(str::to_owned),
            originate.subject_alt_names.iter().map(ToString::to_string).collect(),
        ),
    };
    BackendAnswer { cluster: name.to_string(), weight, endpoints, tls, sni, sans }
}

fn endpoints(
    admitted: &Admitted,
    cluster: &IndexedCluster,
    serving: &[(&IndexedEndpoint, u32)],
    tls_towards: impl Fn(Option<&IndexedEndpoint>) -> PlannedTls,
) -> Vec<EndpointAnswer> {
    let destination = admitted.facts.destination;
    let only = |address: String| vec![EndpointAnswer { address, priority: 0, weight: 1, tls: None }];
    let word = |endpoint| match tls_towards(Some(endpoint)) {
        PlannedTls::Off | PlannedTls::Refuse(_) => "none",
        PlannedTls::Mesh { .. } => "mesh",
        PlannedTls::Originate(originate) if originate.client_certificate.is_some() => "mutual",
        PlannedTls::Originate(_) => "simple",
    };
    let mut words: Vec<&str> = serving.iter().map(|(indexed, _)| word(*indexed)).collect();
    words.dedup();
    let is_mixed = words.len() > 1;
    match &cluster.cluster().discovery {
        Discovery::Endpoints { key: _, subset: _ } => serving
            .iter()
            .map(|(indexed, weight)| EndpointAnswer {
                address: match &indexed.endpoint.address {
                    Address::Socket(address) => address.to_string(),
                    Address::Unix(path) => format!("unix://{path}"),
                    Address::Name(name, port) | Address::LogicalName(name, port) => format!("{name}:{port}"),
                },
                priority: indexed.priority.unwrap_or(0),
                weight: *weight,
                tls: is_mixed.then(|| word(*indexed)),
            })
            .collect(),
        Discovery::OriginalDestination => only(destination.to_string()),
        Discovery::OriginalAddress { port } => only(std::net::SocketAddr::new(destination.ip(), *port).to_string()),
        Discovery::Workload { port } => {
            let mut address = destination;
            address.set_port(port.unwrap_or(destination.port()));
            only(address.to_string())
        }
        // The request names it.
        Discovery::DynamicName { port: _ } | Discovery::BlackHole => Vec::new(),
    }
}

fn retries(policy: &RetryPolicy) -> RetriesAnswer {
    let RetryPolicy {
        attempts,
        per_try,
        on,
        statuses,
        backoff: _,
        max_backoff: _,
        avoid_previous: _,
        leaves_locality: _,
    } = policy;
    let mut conditions: Vec<String> = on.iter().map(condition).collect();
    conditions.extend(statuses.iter().map(ToString::to_string));
    RetriesAnswer { attempts: *attempts, per_try_ms: per_try.map(milliseconds), on: conditions }
}

/// Envoy's name of a condition, which is how the model writes it.
fn condition(on: &RetryOn) -> String {
    match serde_json::to_value(on) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => format!("{on:?}"),
    }
}

fn headers(mutations: &HeaderMutations) -> Option<HeadersAnswer> {
    if mutations.is_empty() {
        return None;
    }
    let HeaderMutations { remove, set, add } = mutations;
    let pairs = |pairs: &[(Arc<str>, Arc<str>)]| {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    Some(HeadersAnswer { set: pairs(set), add: pairs(add), remove: remove.iter().map(ToString::to_string).collect() })
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
