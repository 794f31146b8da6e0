//! Ejections and what follows from them, with the time in the test's hand.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::{
    cluster::{Closeness, Cluster, Discovery, Failover, LoadBalancer, LocalityPolicy, LocalityShare},
    endpoint::{Endpoint, EndpointHealth},
    resource::Resource,
    settings::ProxyKind,
};

use super::*;
use crate::{
    index::{Clock, LiveState, RuntimeIndex},
    request::testing,
};

struct Bench {
    clock: Clock,
    live: Arc<LiveState>,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::manual();
        Self { live: Arc::new(LiveState::with_clock(clock.clone())), clock }
    }

    fn index(&self, cluster: Cluster, endpoints: Vec<Endpoint>, previous: Option<&RuntimeIndex>) -> RuntimeIndex {
        let resources = vec![
            Resource::Settings(testing::settings(ProxyKind::Sidecar)),
            Resource::Cluster(cluster),
            Resource::Endpoints(testing::endpoints("e", endpoints)),
        ];
        RuntimeIndex::build_with(testing::snapshot(resources), previous, Arc::clone(&self.live)).unwrap()
    }

    fn seconds(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn policy() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 2,
        consecutive_gateway: 0,
        consecutive_local: None,
        error_statuses: BTreeSet::new(),
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection_percent: 100,
        min_health_percent: 0,
    }
}

fn cluster(policy: OutlierDetection) -> Cluster {
    let mut cluster = testing::cluster("c", Discovery::Endpoints { key: "e".into(), subset: Default::default() });
    cluster.load_balancer = LoadBalancer::Random;
    cluster.traffic.outlier = Some(policy);
    cluster
}

fn endpoints(count: u8) -> Vec<Endpoint> {
    (1..=count).map(|n| testing::endpoint(&format!("10.0.0.{n}:1"), 1)).collect()
}

fn at(locality: &str, n: u8) -> Endpoint {
    Endpoint { locality: Some(locality.into()), ..testing::endpoint(&format!("10.0.0.{n}:1"), 1) }
}

/// Positions that take traffic.
fn serving(index: &RuntimeIndex) -> Vec<u32> {
    let mut positions: Vec<u32> = index.cluster("c").unwrap().available().positions().collect();
    positions.sort_unstable();
    positions
}

fn report(index: &RuntimeIndex, at: u32, outcomes: &[Outcome]) -> Option<Cause> {
    let cluster = index.cluster("c").unwrap();
    outcomes.iter().fold(None, |_, outcome| cluster.report(&cluster.at(at).unwrap().live, *outcome))
}

#[test]
fn errors_in_a_row_eject_and_time_brings_back() {
    let bench = Bench::new();
    let index = bench.index(cluster(policy()), endpoints(3), None);
    assert_eq!(report(&index, 0, &[Outcome::Answered(500), Outcome::Answered(200), Outcome::Answered(500)]), None);
    assert_eq!(report(&index, 0, &[Outcome::Answered(503)]), Some(Cause::ServerErrors));
    assert_eq!(serving(&index), [1, 2]);
    bench.seconds(29);
    assert_eq!(serving(&index), [1, 2]);
    bench.seconds(1);
    assert_eq!(serving(&index), [0, 1, 2]);
}

#[test]
fn each_ejection_is_longer_and_calm_makes_it_shorter_again() {
    let bench = Bench::new();
    let index = bench.index(cluster(policy()), endpoints(3), None);
    let length = || {
        assert!(report(&index, 0, &[Outcome::Failed, Outcome::Failed]).is_some());
        let mut seconds = 0;
        while !serving(&index).contains(&0) {
            bench.seconds(1);
            seconds += 1;
        }
        seconds
    };
    assert_eq!([length(), length(), length()], [30, 60, 90]);
    bench.seconds(20);
    assert_eq!(length(), 60);
    for _ in 0..20 {
        length();
    }
    assert_eq!(length(), 300);
}

#[test]
fn no_more_than_the_share_goes_and_one_may_always_go() {
    let bench = Bench::new();
    let index = bench.index(cluster(OutlierDetection { max_ejection_percent: 10, ..policy() }), endpoints(3), None);
    let fail = [Outcome::Failed, Outcome::Failed];
    assert!(report(&index, 0, &fail).is_some());
    assert!(report(&index, 1, &fail).is_none());
    assert_eq!(serving(&index), [1, 2]);
    let bench = Bench::new();
    let index = bench.index(cluster(policy()), endpoints(2), None);
    assert!(report(&index, 0, &fail).is_some() && report(&index, 1, &fail).is_some());
    assert!(index.cluster("c").unwrap().available().is_empty());
}

#[test]
fn gateway_and_local_errors_have_counts_of_their_own() {
    let bench = Bench::new();
    let only = |policy| bench.index(cluster(policy), endpoints(2), None);
    let index = only(OutlierDetection { consecutive_5xx: 0, consecutive_gateway: 2, ..policy() });
    assert_eq!(report(&index, 0, &[Outcome::Answered(503), Outcome::Answered(500), Outcome::Answered(502)]), None);
    assert_eq!(report(&index, 0, &[Outcome::TimedOut]), Some(Cause::GatewayErrors));
    let bench = Bench::new();
    let split = OutlierDetection { consecutive_local: Some(2), ..policy() };
    let index = bench.index(cluster(split), endpoints(2), None);
    assert_eq!(
        report(&index, 0, &[Outcome::Failed, Outcome::Connected, Outcome::Answered(500), Outcome::Failed]),
        None
    );
    assert_eq!(report(&index, 0, &[Outcome::Answered(500)]), Some(Cause::ServerErrors));
    assert_eq!(report(&index, 1, &[Outcome::Failed, Outcome::TimedOut]), Some(Cause::LocalErrors));
}

#[test]
fn listed_statuses_count_instead_of_server_errors() {
    let bench = Bench::new();
    let listed = OutlierDetection { error_statuses: [429].into(), ..policy() };
    let index = bench.index(cluster(listed), endpoints(2), None);
    assert_eq!(report(&index, 0, &[Outcome::Answered(500), Outcome::Answered(500)]), None);
    assert_eq!(report(&index, 0, &[Outcome::Answered(429), Outcome::Answered(429)]), Some(Cause::ServerErrors));
}

#[test]
fn a_new_configuration_forgets_neither_ejections_nor_requests() {
    let bench = Bench::new();
    let first = bench.index(cluster(policy()), endpoints(3), None);
    report(&first, 0, &[Outcome::Failed, Outcome::Failed]);
    let in_flight = first.cluster("c").unwrap().at(1).unwrap().live.begin();
    let mut changed = cluster(policy());
    changed.connect_timeout = Duration::from_secs(1);
    // The endpoint of the request is gone meanwhile, and comes back.
    let without = bench.index(changed.clone(), vec![testing::endpoint("10.0.0.1:1", 1)], Some(&first));
    drop(first);
    assert!(serving(&without).is_empty());
    let second = bench.index(changed, endpoints(3), Some(&without));
    assert_eq!(serving(&second), [1, 2]);
    assert_eq!(second.cluster("c").unwrap().at(1).unwrap().live.in_flight(), 1);
    drop(in_flight);
    assert_eq!(second.cluster("c").unwrap().at(1).unwrap().live.in_flight(), 0);
}

#[test]
fn an_ejected_endpoint_that_leaves_and_returns_is_still_ejected() {
    let bench = Bench::new();
    let first = bench.index(cluster(policy()), endpoints(3), None);
    report(&first, 0, &[Outcome::Failed, Outcome::Failed]);
    let without = bench.index(cluster(policy()), endpoints(3).split_off(1), Some(&first));
    drop(first);
    let back = bench.index(cluster(policy()), endpoints(3), Some(&without));
    assert_eq!(serving(&back), [1, 2]);
}

#[test]
fn others_take_over_as_near_ones_are_ejected() {
    let bench = Bench::new();
    let mut near = cluster(policy());
    near.traffic.locality = LocalityPolicy::Failover(Failover {
        labels: [].into(),
        closeness: Some(Closeness { own: "r1/z1/".into(), next_region: None }),
    });
    let index = bench.index(near, vec![at("r1/z1/", 1), at("r1/z1/", 2), at("r2/z1/", 3)], None);
    assert_eq!(serving(&index), [0, 1]);
    let priorities: Vec<_> = index.cluster("c").unwrap().serving().iter().map(|(e, _)| e.priority).collect();
    assert_eq!(priorities, [Some(0), Some(0), Some(1)]);
    report(&index, 0, &[Outcome::Failed, Outcome::Failed]);
    assert_eq!(serving(&index), [1, 2]);
    report(&index, 1, &[Outcome::Failed, Outcome::Failed]);
    assert_eq!(serving(&index), [2]);
}

#[test]
fn shares_of_localities_hold_and_the_rest_takes_nothing() {
    let bench = Bench::new();
    let mut shared = cluster(policy());
    let share = |locality: &str, weight| LocalityShare { locality: locality.into(), weight };
    shared.traffic.locality = LocalityPolicy::Distribute([share("r1/z1/*", 80), share("r1/z2/*", 20)].into());
    let index = bench.index(shared, vec![at("r1/z1/", 1), at("r1/z1/", 2), at("r1/z2/", 3), at("r2", 4)], None);
    let cluster = index.cluster("c").unwrap();
    let weights: Vec<(u32, Option<u32>)> = cluster.serving().iter().map(|(e, weight)| (*weight, e.priority)).collect();
    assert_eq!(weights, [(40, Some(0)), (40, Some(0)), (20, Some(0))]);
    let of = |draw: f64| cluster.available().group(|| draw).unwrap().endpoints().len();
    assert_eq!([of(0.0), of(0.79), of(0.81)], [2, 2, 1]);
}

#[test]
fn panic_ignores_ejections_and_never_takes_what_is_not_ready() {
    let bench = Bench::new();
    let mut all = endpoints(3);
    all[2].health = EndpointHealth::Unhealthy;
    let index = bench.index(cluster(OutlierDetection { min_health_percent: 60, ..policy() }), all, None);
    report(&index, 0, &[Outcome::Failed, Outcome::Failed]);
    assert_eq!(serving(&index), [0, 1]);
}
