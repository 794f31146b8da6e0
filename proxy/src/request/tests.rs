//! The pipeline as a whole, on hand-made snapshots.

mod client_certificates;

use std::{collections::BTreeMap, time::SystemTime};

use http::HeaderMap;
use palisade_model::{
    cluster::Discovery,
    listener::{Chain, ChainHandler, InboundPort, Listener, MtlsMode, Protocol},
    policy::{PolicyId, PolicySet},
    resource::Resource,
    route::{
        Backend, Fault, FaultAbort, Forward, HeaderMutations, PathMatch, Percent, Rewrite, RouteAction, RouteEntry,
        RouteMatch, RouteRule, VirtualHost,
    },
    settings::ProxyKind,
};
use palisade_policy::default_permit;

use super::{
    connection::{Seen, admit},
    facts::{Connection, Direction, HttpVersion},
    *,
};

mod sessions;

fn backend(cluster: &str, weight: u32, missing: Option<u16>) -> Backend {
    Backend {
        cluster: cluster.into(),
        missing,
        weight,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        path: None,
    }
}

fn rule(key: &str, prefix: Option<&str>, action: RouteAction) -> RouteRule {
    let matched = |prefix: &str| RouteMatch {
        path: Some(PathMatch::Prefix { value: prefix.into(), ignore_case: false }),
        ..RouteMatch::default()
    };
    RouteRule {
        key: key.into(),
        source: "VirtualService foo/a".into(),
        name: Some(key.into()),
        rule: 0,
        matches: prefix.map(matched).into_iter().collect(),
        fault: Fault::default(),
        cors: None,
        action,
        response_headers: HeaderMutations::default(),
    }
}

fn forward(backends: Vec<Backend>) -> RouteAction {
    RouteAction::Forward(Forward {
        backends: backends.into(),
        request_headers: HeaderMutations::default(),
        rewrite: Rewrite::default(),
        timeout: None,
        retries: None,
        mirrors: [].into(),
        session: None,
    })
}

/// A gateway on port 80 for `a.com`; `permits` says whether anything is let in.
fn gateway(rules: Vec<RouteRule>, permits: bool) -> RuntimeIndex {
    gateway_with(rules, permits, &["10.0.0.1:9080"])
}

/// The same, with these endpoints behind both of its clusters.
fn gateway_with(rules: Vec<RouteRule>, permits: bool, endpoints: &[&str]) -> RuntimeIndex {
    let policies: Vec<PolicyId> = if permits { vec![default_permit().id] } else { vec![] };
    let endpoints = endpoints.iter().map(|address| testing::endpoint(address, 1)).collect();
    let cluster = |name: &str, key: &str| {
        let discovery = Discovery::Endpoints { key: key.into(), subset: BTreeMap::new() };
        Resource::Cluster(testing::cluster(name, discovery))
    };
    let mut resources = vec![
        Resource::Settings(testing::settings(ProxyKind::Gateway)),
        Resource::PolicySet(PolicySet { key: "p".into(), policies: policies.into(), ..PolicySet::default() }),
        Resource::Policy(default_permit()),
        Resource::Listener(Listener {
            key: "0.0.0.0:80".into(),
            address: None,
            port: 80,
            declared_port: 80,
            chains: [Chain {
                name: "http".into(),
                sni: [].into(),
                tls: None,
                handler: ChainHandler::Http { tables: [("*".parse().unwrap(), "gateway".into())].into() },
            }]
            .into(),
            policies: "p".into(),
            detects_misdirected: false,
            is_udp: false,
        }),
        Resource::VirtualHost(VirtualHost {
            table: "gateway".into(),
            name: "a".into(),
            domains: ["a.com".parse().unwrap()].into(),
            https_redirect: false,
            entries: rules.iter().map(|r| RouteEntry { rule: r.key.clone(), alternative: 0 }).collect(),
        }),
        cluster("one", "e"),
        cluster("two", "e"),
        cluster("empty", "none"),
        Resource::Endpoints(testing::endpoints("e", endpoints)),
        Resource::Endpoints(testing::endpoints("none", vec![])),
    ];
    resources.extend(rules.into_iter().map(Resource::Route));
    testing::index(resources)
}

fn client() -> Connection {
    Connection {
        direction: Direction::Inbound,
        source: "203.0.113.7:40000".parse().unwrap(),
        destination: "10.0.0.9:80".parse().unwrap(),
        tls: None,
    }
}

fn judge(index: &RuntimeIndex, target: &str, authority: &str, headers: &HeaderMap, draw: f64) -> Verdict {
    let admitted = admit(index, client(), Seen::Http).unwrap();
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: authority.as_bytes(),
        target: target.as_bytes(),
        version: HttpVersion::Http11,
        headers,
        jwt: None,
    };
    decide_http(index, &admitted, Some(&request), &mut Chance::fixed(SystemTime::UNIX_EPOCH, draw))
}

fn get(index: &RuntimeIndex, target: &str, draw: f64) -> Verdict {
    judge(index, target, "a.com", &HeaderMap::new(), draw)
}

fn plan(verdict: &Verdict) -> &ForwardPlan {
    match &verdict.action {
        Action::Forward(plan) => plan,
        other => panic!("not forwarded: {other:?}"),
    }
}

#[test]
fn a_denied_request_learns_nothing_about_routes() {
    let mut aborting = rule("a", None, forward(vec![backend("one", 1, None)]));
    aborting.fault.abort = Some((FaultAbort::Http(555), Percent::ALWAYS));
    let index = gateway(vec![aborting], false);
    for (target, authority) in [("/", "a.com"), ("/", "unknown.com")] {
        let verdict = judge(&index, target, authority, &HeaderMap::new(), 0.0);
        assert_eq!((verdict.reason, verdict.status()), (Reason::AuthzDenied, Some((403, None))));
        assert!(verdict.authorization.is_some_and(|said| !said.is_allowed && said.captured.is_some()));
    }
}

#[test]
fn weights_divide_the_draw() {
    let index = gateway(vec![rule("a", None, forward(vec![backend("one", 80, None), backend("two", 20, None)]))], true);
    for (draw, expected) in [(0.0, "one"), (0.79, "one"), (0.8, "two"), (0.99, "two")] {
        assert_eq!(get(&index, "/", draw).cluster.as_deref(), Some(expected), "{draw}");
    }
}

#[test]
fn what_cannot_be_forwarded_is_answered_by_the_table() {
    for (name, action, authority, reason, status) in [
        ("no host", forward(vec![backend("one", 1, None)]), "b.com", Reason::NoRoute, 404),
        ("missing cluster", forward(vec![backend("none", 1, Some(503))]), "a.com", Reason::NoCluster, 503),
        ("invalid backendRef", forward(vec![backend("none", 1, Some(500))]), "a.com", Reason::NoCluster, 500),
        ("no backend", forward(vec![]), "a.com", Reason::NoCluster, 500),
        ("no endpoint", forward(vec![backend("empty", 1, None)]), "a.com", Reason::NoEndpoints, 503),
        ("malformed authority", forward(vec![backend("one", 1, None)]), "a@b", Reason::BadRequest, 400),
    ] {
        let index = gateway(vec![rule("a", None, action)], true);
        let verdict = judge(&index, "/", authority, &HeaderMap::new(), 0.0);
        assert_eq!((verdict.reason, verdict.status()), (reason, Some((status, None))), "{name}");
    }
}

#[test]
fn grpc_callers_get_grpc_refusals() {
    let index = gateway(vec![], true);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/grpc+proto".parse().unwrap());
    let verdict = judge(&index, "/pkg.Service/Method", "a.com", &headers, 0.0);
    assert_eq!((verdict.reason, verdict.status()), (Reason::NoRoute, Some((200, Some(12)))));
}

#[test]
fn the_edge_asserts_what_clients_may_not_say() {
    let index = gateway(vec![rule("a", None, forward(vec![backend("one", 1, None)]))], true);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-client-cert", "By=spiffe://evil"),
        ("x-palisade-version", "1.0"),
        ("x-request-id", "mine"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    let verdict = judge(&index, "/x?y=1", "a.com", &headers, 0.5);
    let head = &plan(&verdict).head;
    changes::apply(&mut headers, &head.changes);
    let line = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(line("x-forwarded-for").as_deref(), Some("1.1.1.1,203.0.113.7"));
    assert_eq!(line("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(line("x-envoy-external-address").as_deref(), Some("203.0.113.7"));
    assert_ne!(line("x-request-id").as_deref(), Some("mine"));
    for gone in ["x-envoy-internal", "x-forwarded-client-cert", "x-palisade-version"] {
        assert_eq!(line(gone), None, "{gone}");
    }
    assert_eq!((head.authority.as_str(), head.target.as_slice()), ("a.com", &b"/x?y=1"[..]));
}

#[test]
fn cve_2024_45806_and_2023_27487_envoys_headers_stop_at_the_edge() {
    let index = gateway(vec![rule("a", None, forward(vec![backend("one", 1, None)]))], true);
    let names = [
        "x-envoy-original-path",
        "x-envoy-internal",
        "x-envoy-retry-on",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-external-address",
        "x-envoy-anything",
    ];
    let mut headers = HeaderMap::new();
    for name in names {
        headers.append(name, "forged".parse().unwrap());
        headers.append(name, "twice".parse().unwrap());
    }
    let verdict = judge(&index, "/x", "a.com", &headers, 0.5);
    changes::apply(&mut headers, &plan(&verdict).head.changes);
    let left: Vec<_> = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-envoy-")).collect();
    // Of these, the two that the proxy itself says.
    assert!(left.iter().all(|(_, value)| *value != "forged" && *value != "twice"), "{left:?}");
}

#[test]
fn rewrites_and_header_changes_reach_the_upstream_and_the_rule_wins() {
    let mut action = forward(vec![Backend {
        request_headers: HeaderMutations {
            set: [("x-a".into(), "backend".into()), ("x-b".into(), "backend".into())].into(),
            ..HeaderMutations::default()
        },
        ..backend("one", 1, None)
    }]);
    if let RouteAction::Forward(forward) = &mut action {
        forward.rewrite.path = Some(palisade_model::route::PathRewrite::Prefix("/".into()));
        forward.request_headers.set = [("x-a".into(), "rule".into()), ("host".into(), "inner".into())].into();
    }
    let index = gateway(vec![rule("a", Some("/foo"), action)], true);
    let verdict = get(&index, "/foo/x?q", 0.0);
    let head = &plan(&verdict).head;
    let mut headers = HeaderMap::new();
    changes::apply(&mut headers, &head.changes);
    assert_eq!(head.target, b"//x?q");
    assert_eq!(head.authority, "inner");
    assert_eq!(headers["x-a"], "rule");
    assert_eq!(headers["x-b"], "backend");
    assert_eq!(headers["x-envoy-original-path"], "/foo/x?q");
}

#[test]
fn faults_happen_for_their_share() {
    let mut faulty = rule("a", None, forward(vec![backend("one", 1, None)]));
    faulty.fault.delay = Some((std::time::Duration::from_secs(7), Percent(500_000)));
    faulty.fault.abort = Some((FaultAbort::Http(500), Percent(100_000)));
    let index = gateway(vec![faulty], true);
    for (draw, delay, abort, reason) in
        [(0.05, true, Some(500), Reason::FaultAbort), (0.3, true, None, Reason::Ok), (0.7, false, None, Reason::Ok)]
    {
        let verdict = get(&index, "/", draw);
        assert_eq!((verdict.fault.delay.is_some(), verdict.fault.abort, verdict.reason), (delay, abort, reason));
    }
}

#[test]
fn an_inbound_port_names_its_cluster_and_undeclared_ones_pass_through() {
    let inbound = |port, cluster: &str| {
        Resource::Inbound(InboundPort {
            port,
            protocol: Protocol::Http,
            mtls: MtlsMode::Permissive,
            cluster: cluster.into(),
            service: None,
            policies: "p".into(),
        })
    };
    let index = testing::index(vec![
        Resource::Settings(testing::settings(ProxyKind::Sidecar)),
        inbound(Some(80), "inbound|80||"),
        inbound(None, "InboundPassthroughCluster"),
        Resource::Cluster(testing::cluster("inbound|80||", Discovery::Workload { port: None })),
        Resource::Cluster(testing::cluster("InboundPassthroughCluster", Discovery::Workload { port: None })),
        Resource::PolicySet(PolicySet {
            key: "p".into(),
            policies: [default_permit().id].into(),
            ..PolicySet::default()
        }),
        Resource::Policy(default_permit()),
    ]);
    for (port, cluster, is_passthrough) in [(80, "inbound|80||", false), (81, "InboundPassthroughCluster", true)] {
        let facts = Connection { destination: ([10, 0, 0, 9], port).into(), ..client() };
        let admitted = admit(&index, facts, Seen::Http).unwrap();
        let headers = HeaderMap::new();
        let request = Request {
            method: "GET",
            scheme: "http",
            authority: b"b",
            target: b"/",
            version: HttpVersion::Http11,
            headers: &headers,
            jwt: None,
        };
        let mut chance = Chance::fixed(SystemTime::UNIX_EPOCH, 0.0);
        let verdict = decide_http(&index, &admitted, Some(&request), &mut chance);
        assert_eq!((verdict.cluster.as_deref(), plan(&verdict).is_passthrough), (Some(cluster), is_passthrough));
        let verdict = decide_http(&index, &admitted, None, &mut chance);
        assert_eq!(verdict.reason, Reason::BadRequest, "bytes that are not HTTP");
    }
}
