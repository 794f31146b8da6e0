//! Picks by injected draws.

use std::collections::BTreeMap;

use palisade_model::resource::Resource;
use palisade_policy::{ConnectionFacts, Decision, Peer, PolicyEngine, Unrestricted};

use super::*;
use crate::request::testing;

fn permit() -> Option<Permit> {
    let engine = PolicyEngine::unrestricted(Unrestricted::Egress);
    let connection = engine.connect(&ConnectionFacts {
        source_ip: Ipv4Addr::LOCALHOST.into(),
        source_port: 1,
        destination_ip: Ipv4Addr::LOCALHOST.into(),
        destination_port: 1,
        peer: Peer::Anonymous,
        tls: None,
    });
    match engine.decide_tcp(&connection) {
        Decision::Allow(permit) => Some(permit),
        Decision::Deny(_) => None,
    }
}

fn index(
    load_balancer: LoadBalancer,
    endpoints: Vec<palisade_model::endpoint::Endpoint>,
) -> crate::index::RuntimeIndex {
    let discovery = Discovery::Endpoints { key: "e".into(), subset: BTreeMap::new() };
    let mut cluster = testing::cluster("c", discovery);
    cluster.load_balancer = load_balancer;
    testing::index(vec![
        Resource::Settings(testing::settings(palisade_model::settings::ProxyKind::Sidecar)),
        Resource::Cluster(cluster),
        Resource::Endpoints(testing::endpoints("e", endpoints)),
    ])
}

fn counts(index: &crate::index::RuntimeIndex, rounds: u32) -> BTreeMap<String, u32> {
    let permit = permit().expect("egress is unrestricted");
    let mut chance = Chance::random(std::time::SystemTime::UNIX_EPOCH, fastrand::Rng::with_seed(7));
    let mut counts = BTreeMap::new();
    for _ in 0..rounds {
        let dialled = "10.9.9.9:1".parse().unwrap();
        let picked = pick(&permit, index.cluster("c").unwrap(), dialled, None, &[], &mut chance).unwrap();
        *counts.entry(format!("{:?}", picked.address)).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_is_even_and_weights_count() {
    let even = vec![testing::endpoint("10.0.0.1:1", 1), testing::endpoint("10.0.0.2:1", 1)];
    assert!(counts(&index(LoadBalancer::RoundRobin, even), 1000).values().all(|n| *n == 500));
    let weighted = vec![testing::endpoint("10.0.0.1:1", 3), testing::endpoint("10.0.0.2:1", 1)];
    let counted: Vec<u32> = counts(&index(LoadBalancer::RoundRobin, weighted), 1000).into_values().collect();
    assert!((745..=755).contains(&counted[0]), "{counted:?}");
}

#[test]
fn least_request_avoids_the_busy_one() {
    let index = index(
        LoadBalancer::LeastRequest { choices: 2 },
        vec![testing::endpoint("10.0.0.1:1", 1), testing::endpoint("10.0.0.2:1", 1)],
    );
    let busy = index.cluster("c").unwrap().endpoints()[0].live.begin();
    let counted: Vec<u32> = counts(&index, 1000).into_values().collect();
    assert!(counted[1] > 650, "{counted:?}");
    drop(busy);
}

#[test]
fn lower_priorities_are_used_when_the_higher_are_gone_and_unhealthy_ones_never() {
    use palisade_model::endpoint::EndpointHealth;
    let mut first = testing::endpoint("10.0.0.1:1", 1);
    first.health = EndpointHealth::Unhealthy;
    let mut second = testing::endpoint("10.0.0.2:1", 1);
    second.priority = 1;
    let mut third = testing::endpoint("10.0.0.3:1", 1);
    third.priority = 2;
    let counted = counts(&index(LoadBalancer::Random, vec![first.clone(), second, third]), 50);
    assert_eq!(counted.into_keys().collect::<Vec<_>>(), ["Socket(10.0.0.2:1)"]);
    let none = index(LoadBalancer::Random, vec![first]);
    let mut chance = Chance::fixed(std::time::SystemTime::UNIX_EPOCH, 0.5);
    let picked =
        pick(&permit().unwrap(), none.cluster("c").unwrap(), "10.9.9.9:1".parse().unwrap(), None, &[], &mut chance);
    assert_eq!(picked.unwrap_err(), Reason::NoEndpoints);
}

#[test]
fn a_retry_goes_elsewhere_if_it_can() {
    let index =
        index(LoadBalancer::Random, vec![testing::endpoint("10.0.0.1:1", 1000), testing::endpoint("10.0.0.2:1", 1)]);
    let mut chance = Chance::fixed(std::time::SystemTime::UNIX_EPOCH, 0.0);
    let tried = [Address::Socket("10.0.0.1:1".parse().unwrap())];
    let dialled = "10.9.9.9:1".parse().unwrap();
    let picked = pick(&permit().unwrap(), index.cluster("c").unwrap(), dialled, None, &tried, &mut chance).unwrap();
    assert_eq!(picked.address, Address::Socket("10.0.0.2:1".parse().unwrap()));
}

#[test]
fn a_draw_falls_on_the_first_cumulative_weight_that_exceeds_it() {
    for (draw, expected) in [(0.0, 0), (0.79, 0), (0.8, 1), (0.999, 1)] {
        assert_eq!(first_exceeding(&[80, 100], draw), Some(expected), "{draw}");
    }
    assert_eq!(first_exceeding(&[], 0.5), None);
}
