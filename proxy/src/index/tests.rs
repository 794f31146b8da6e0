//! What an index takes over from its predecessor, and what it refuses.

use palisade_model::{
    cluster::Discovery,
    host::HostPattern,
    membership::{Member, Membership},
    policy::PolicySet,
    route::{Fault, HeaderMutations, PathMatch, RouteAction, RouteEntry, RouteMatch, RouteRule, VirtualHost},
    service::{Lookup, Query},
};

use super::*;
use crate::request::testing::{cluster, endpoint, endpoints, settings, snapshot};

fn rule(key: &str, path: PathMatch) -> Resource {
    Resource::Route(RouteRule {
        key: key.into(),
        source: "VirtualService foo/a".into(),
        name: None,
        rule: 0,
        matches: [RouteMatch { path: Some(path), ..RouteMatch::default() }].into(),
        fault: Fault::default(),
        cors: None,
        action: RouteAction::Refuse { message: "".into() },
        response_headers: HeaderMutations::default(),
    })
}

fn host(table: &str, name: &str, domains: &[&str], rule: &str) -> Resource {
    Resource::VirtualHost(VirtualHost {
        table: table.into(),
        name: name.into(),
        domains: domains.iter().map(|d| d.parse::<HostPattern>().unwrap()).collect(),
        https_redirect: false,
        entries: [RouteEntry { rule: rule.into(), alternative: 0 }].into(),
    })
}

fn prefix(value: &str) -> PathMatch {
    PathMatch::Prefix { value: value.into(), ignore_case: false }
}

fn base(addresses: &[&str], path: &str) -> Vec<Resource> {
    let subset = Default::default();
    vec![
        Resource::Settings(settings(palisade_model::settings::ProxyKind::Sidecar)),
        rule("a", prefix(path)),
        rule("b", prefix("/")),
        host("outbound:80", "a", &["a.com", "*.a.com"], "a"),
        host("outbound:80", "b", &["*"], "b"),
        host("outbound:90", "b", &["b.com"], "b"),
        Resource::Cluster(cluster("outbound|80||a", Discovery::Endpoints { key: "a|80".into(), subset })),
        Resource::Endpoints(endpoints("a|80", addresses.iter().map(|a| endpoint(a, 1)).collect())),
        Resource::PolicySet(PolicySet { key: "workload/foo/a".into(), policies: [].into(), ..PolicySet::default() }),
    ]
}

#[test]
fn unchanged_parts_are_taken_over_and_changed_ones_are_not() {
    let first = RuntimeIndex::build(snapshot(base(&["10.0.0.1:80"], "/a")), None).unwrap();
    let second = RuntimeIndex::build(snapshot(base(&["10.0.0.1:80"], "/b")), Some(&first)).unwrap();
    let same = |table: &str| Arc::ptr_eq(first.table(table).unwrap(), second.table(table).unwrap());
    assert!(same("outbound:90"));
    assert!(!same("outbound:80"));
    let untouched = |index: &RuntimeIndex| Arc::clone(index.table("outbound:80").unwrap().find("x").unwrap());
    assert!(Arc::ptr_eq(&untouched(&first), &untouched(&second)));
    let cluster = |index: &RuntimeIndex| Arc::clone(index.cluster("outbound|80||a").unwrap());
    assert!(Arc::ptr_eq(&cluster(&first), &cluster(&second)));
    let engine = |index: &RuntimeIndex| Arc::clone(index.policies().engine("workload/foo/a"));
    assert!(Arc::ptr_eq(&engine(&first), &engine(&second)));
    assert!(Arc::ptr_eq(first.settings(), second.settings()));
}

#[test]
fn requests_in_flight_survive_a_new_index() {
    let first = RuntimeIndex::build(snapshot(base(&["10.0.0.1:80"], "/a")), None).unwrap();
    let live = |index: &RuntimeIndex| Arc::clone(&index.cluster("outbound|80||a").unwrap().endpoints()[0].live);
    let guard = live(&first).begin();
    let second = RuntimeIndex::build(snapshot(base(&["10.0.0.1:80", "10.0.0.2:80"], "/a")), Some(&first)).unwrap();
    assert_eq!(live(&second).in_flight(), 1);
    drop(guard);
    assert_eq!(live(&second).in_flight(), 0);
}

#[test]
fn the_most_specific_host_wins() {
    let index = RuntimeIndex::build(snapshot(base(&[], "/a")), None).unwrap();
    let table = index.table("outbound:80").unwrap();
    for (name, expected) in [("a.com", "a"), ("x.a.com", "a"), ("x.y.a.com", "a"), ("b.com", "b"), (".a.com", "b")] {
        assert_eq!(&*table.find(name).unwrap().host().name, expected, "{name}");
    }
    assert!(index.table("outbound:90").unwrap().find("a.com").is_none());
}

#[test]
fn a_malformed_expression_names_its_rule() {
    let mut resources = base(&[], "/a");
    resources.push(rule("c", PathMatch::Regex { value: "(".into() }));
    let error = RuntimeIndex::build(snapshot(resources), None).unwrap_err();
    assert_eq!(error.key, ResourceKey::new(ResourceKind::Route, "c"));
}

#[test]
fn an_unknown_policy_set_denies() {
    let index = RuntimeIndex::build(snapshot(base(&[], "/a")), None).unwrap();
    assert!(!Arc::ptr_eq(index.policies().engine("nowhere"), index.policies().engine("workload/foo/a")));
}

#[test]
fn known_absent_and_not_yet_known_are_never_mixed_up() {
    let filter = Membership::of([
        Member::Host("known.foo.svc.cluster.local"),
        Member::Host("asked.foo.svc.cluster.local"),
        Member::Host("unasked.foo.svc.cluster.local"),
        Member::Address("10.96.0.9".parse().unwrap()),
    ]);
    let mut resources = base(&[], "/a");
    let lookup = Lookup { query: Query::Host("asked.foo.svc.cluster.local".into()), services: [].into() };
    resources.push(Resource::Lookup(lookup));
    let without = RuntimeIndex::build(snapshot(resources.clone()), None).unwrap();
    resources.push(Resource::Membership(filter));
    let with = RuntimeIndex::build(snapshot(resources), None).unwrap();
    for (host, expected) in [
        ("asked.foo.svc.cluster.local", Known::Absent),
        ("unasked.foo.svc.cluster.local", Known::Unknown),
        ("www.example.com", Known::Absent),
    ] {
        assert_eq!(with.services().by_host(host).map(drop), expected, "{host}");
        assert_eq!(with.services().dns(host).map(drop), expected, "{host}");
    }
    let address = |index: &RuntimeIndex, ip: &str| index.services().by_address(ip.parse().unwrap()).map(drop);
    assert_eq!(address(&with, "10.96.0.9"), Known::Unknown);
    assert_eq!(address(&with, "192.0.2.1"), Known::Absent);
    // Without the filter nothing is known not to exist before somebody asked.
    assert_eq!(without.services().by_host("www.example.com").map(drop), Known::Unknown);
    assert_eq!(address(&without, "192.0.2.1"), Known::Unknown);
}

fn service(host: &str, addresses: &[&str]) -> Resource {
    Resource::Service(palisade_model::service::Service {
        host: host.into(),
        namespace: "foo".into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        is_headless: false,
        names: [].into(),
        ports: [].into(),
        is_external: true,
    })
}

fn wide() -> Vec<Resource> {
    let asked = |query, services: &[&str]| {
        Resource::Lookup(Lookup { query, services: services.iter().map(|host| (*host).into()).collect() })
    };
    let mut resources = base(&[], "/a");
    resources.push(Resource::Membership(Membership::of([
        Member::Host("own.example.com"),
        Member::Pattern("*.example.com".parse().unwrap()),
        Member::Pattern("*.other.com".parse().unwrap()),
        Member::Network("192.0.2.0/24".parse().unwrap()),
    ])));
    resources.push(service("*.example.com", &[]));
    resources.push(service("net.example.org", &[]));
    resources.push(service("idle.foo.svc.cluster.local", &["10.96.0.1"]));
    resources.push(asked(Query::Host("a.example.com".into()), &["*.example.com"]));
    resources.push(asked(Query::Host("hidden.other.com".into()), &[]));
    resources.push(asked(Query::Address("192.0.2.1".parse().unwrap()), &["net.example.org"]));
    resources.push(asked(Query::Host("idle.foo".into()), &["idle.foo.svc.cluster.local"]));
    resources
}

#[test]
fn below_a_held_wildcard_or_network_nobody_is_asked_again() {
    let index = RuntimeIndex::build(snapshot(wide()), None).unwrap();
    let services = index.services();
    let host = |name: &str| services.by_host(name).map(|service| service.host.to_string());
    assert_eq!(host("b.example.com"), Known::Present("*.example.com".into()));
    assert_eq!(host("own.example.com"), Known::Unknown, "a name of its own may be something else");
    assert_eq!(host("b.other.com"), Known::Absent, "what one below it is not, none is");
    let address = |ip: &str| services.by_address(ip.parse().unwrap()).map(|found| found[0].host.to_string());
    assert_eq!(address("192.0.2.77"), Known::Present("net.example.org".into()));
    assert_eq!(address("192.0.3.1"), Known::Absent);
    // A new configuration over the same filter says the same.
    let next = RuntimeIndex::build(snapshot(wide()), Some(&index)).unwrap();
    assert!(matches!(next.services().by_host("c.example.com"), Known::Present(_)));
}

#[test]
fn what_traffic_needs_is_told_by_its_queries() {
    let index = RuntimeIndex::build(snapshot(wide()), None).unwrap();
    assert!(index.services().take_used().is_empty());
    assert!(matches!(index.services().by_host("z.example.com"), Known::Present(_)));
    // A new configuration forgets nothing.
    let next = RuntimeIndex::build(snapshot(wide()), Some(&index)).unwrap();
    assert_eq!(next.services().take_used(), [Query::Host("a.example.com".into())]);
    assert!(next.services().take_used().is_empty(), "told once");
    assert!(matches!(next.services().by_address("10.96.0.1".parse().unwrap()), Known::Present(_)));
    assert_eq!(next.services().take_used(), [Query::Host("idle.foo".into())]);
}
