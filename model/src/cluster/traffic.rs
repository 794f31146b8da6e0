//! What a client observes towards a cluster beside choosing an endpoint: limits, ejection, warm-up, localities.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{endpoint::Endpoint, route::Percent};

/// Limits, health and preferences of one client towards one cluster. The default is Istio's: no limit, no ejection, no
/// preference.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// Circuit breakers.
    pub limits: Limits,
    /// Ejection of failing endpoints; `None` = off.
    pub outlier: Option<OutlierDetection>,
    /// Gradual increase for new endpoints; `None` = off.
    pub warmup: Option<Warmup>,
    /// Which endpoints are preferred by where they are.
    pub locality: LocalityPolicy,
    /// Retries as a share of the requests; replaces [`Limits::max_retries`]. `None` = no such share.
    pub retry_budget: Option<RetryBudget>,
    /// Settings of single connections.
    pub connection: ConnectionPolicy,
}

/// Circuit breakers of one proxy towards one cluster; `None` = no limit. Beyond a limit the answer is `overflow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Connections in use; requests beyond wait. An endpoint without any may always have one (Envoy).
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Requests running.
    pub max_requests: Option<u32>,
    /// Retries running.
    pub max_retries: Option<u32>,
}

/// When endpoints are ejected, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierDetection {
    /// Server errors in a row; 0 = off.
    pub consecutive_5xx: u32,
    /// 502, 503 or 504 in a row; 0 = off.
    pub consecutive_gateway: u32,
    /// Failures to connect, resets and timeouts in a row, counted apart from answers; `None` = they count as answers with
    /// 503 and 504.
    pub consecutive_local: Option<u32>,
    /// Answers that count as server errors instead of 500 to 599; empty = those.
    pub error_statuses: BTreeSet<u16>,
    /// For each of these without ejection an endpoint's next ejection is one step shorter.
    pub interval: Duration,
    /// The first ejection's length; the n-th takes n times as long, up to the longer of this and 300 s.
    pub base_ejection: Duration,
    /// Largest share of endpoints ejected, in percent; one may always go.
    pub max_ejection_percent: u8,
    /// With fewer available endpoints than this, in percent, health is ignored (panic); 0 = never.
    pub min_health_percent: u8,
}

/// Gradual increase of a new endpoint's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmup {
    /// How long it takes.
    pub duration: Duration,
    /// Share at the start.
    pub minimum: Percent,
    /// Shape of the curve in thousandths, at least 1: the share grows with the `1000/aggression`-th power of time.
    pub aggression: u32,
}

/// Which endpoints are preferred by where they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalityPolicy {
    /// None.
    #[default]
    Any,
    /// The nearest first, others as these fail.
    Failover(Failover),
    /// Explicit shares; endpoints that no share names take nothing.
    Distribute(Arc<[LocalityShare]>),
}

/// An order of preference; what comes first decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// Labels, each with the value that is preferred: the more of them an endpoint carries from the front, the better.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
    /// By closeness; `None` = locality does not count.
    pub closeness: Option<Closeness>,
}

/// Closeness to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closeness {
    /// The client's `REGION/ZONE/SUBZONE`; missing parts are empty.
    pub own: Arc<str>,
    /// The region that takes over when the client's fails; `None` = all others alike.
    pub next_region: Option<Arc<str>>,
}

/// A share of traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalityShare {
    /// `REGION/ZONE/SUBZONE`; parts that are `*` match anything, missing ones too.
    pub locality: Arc<str>,
    /// Weight against the other shares.
    pub weight: u32,
}

/// Retries as a share of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    /// The share.
    pub percent: Percent,
    /// So many may always run.
    pub min_concurrency: u32,
    /// Requests that began in this time count; `None` = those that run.
    pub interval: Option<Duration>,
}

/// Settings of single connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConnectionPolicy {
    /// Longest life; `None` = no limit.
    pub max_duration: Option<Duration>,
    /// Without a byte either way for this long an opaque connection is closed; zero = never, `None` = one hour.
    pub relay_idle: Option<Duration>,
    /// Streams on one HTTP/2 connection; `None` = the transport's default.
    pub max_streams: Option<u32>,
    /// HTTP/2 keepalive pings; `None` = none.
    pub ping: Option<Ping>,
    /// A PROXY protocol header comes first; `None` = none.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// HTTP/2 keepalive pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Time between two.
    pub interval: Duration,
    /// Time to the answer.
    pub timeout: Duration,
}

/// Versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// The label of an endpoint's network.
const NETWORK: &str = "topology.istio.io/network";
/// Priorities that closeness tells apart.
const STEPS: u32 = 5;

impl LocalityPolicy {
    /// The priority of an endpoint, 0 first; numbers may be skipped. `None`: it takes no traffic at all.
    pub fn priority(&self, endpoint: &Endpoint) -> Option<u32> {
        match self {
            Self::Any => Some(endpoint.priority),
            Self::Failover(failover) => Some(failover.priority(endpoint)),
            Self::Distribute(_) => self.share(endpoint).map(|_| endpoint.priority),
        }
    }

    /// The position of the share that an endpoint belongs to, the first that takes it.
    pub fn share(&self, endpoint: &Endpoint) -> Option<usize> {
        let Self::Distribute(shares) = self else { return None };
        let locality = parts(endpoint.locality.as_deref().unwrap_or_default());
        shares.iter().position(|share| share.weight > 0 && takes(&share.locality, locality))
    }
}

impl Failover {
    fn priority(&self, endpoint: &Endpoint) -> u32 {
        let carries = |(label, value): &(Arc<str>, Arc<str>)| {
            endpoint.labels.get(label).map(|written| &**written).unwrap_or_default() == &**value
        };
        let missing_from = |labels: &[(Arc<str>, Arc<str>)]| {
            labels.len().saturating_sub(labels.iter().take_while(|label| carries(label)).count())
        };
        // Another network comes after all of the own one, and is told apart by the further labels as well.
        let missing = match self.labels.split_first() {
            Some((network, rest)) if &*network.0 == NETWORK && !carries(network) => {
                self.labels.len().saturating_add(missing_from(rest))
            }
            _ => missing_from(&self.labels),
        };
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let closeness = self.closeness.as_ref().map_or(0, |closeness| closeness.priority(endpoint));
        missing.saturating_mul(STEPS).saturating_add(closeness)
    }
}

impl Closeness {
    /// Same subzone 0, zone 1, region 2; another region 3, or 4 where one is named to take over and it is not that one.
    fn priority(&self, endpoint: &Endpoint) -> u32 {
        let (own, its) = (parts(&self.own), parts(endpoint.locality.as_deref().unwrap_or_default()));
        match (own[0] == its[0], own[1] == its[1], own[2] == its[2]) {
            (true, true, true) => 0,
            (true, true, false) => 1,
            (true, false, _) => 2,
            (false, _, _) => match &self.next_region {
                Some(next) if **next != *its[0] => 4,
                Some(_) | None => 3,
            },
        }
    }
}

/// Whether a pattern takes a locality (Istio's `LocalityMatch`).
pub fn locality_matches(pattern: &str, locality: &str) -> bool {
    takes(pattern, parts(locality))
}

fn takes(pattern: &str, locality: [&str; 3]) -> bool {
    let wanted = parts(pattern);
    (wanted[0] == "*" || wanted[0] == locality[0])
        && wanted.iter().zip(locality).skip(1).all(|(want, is)| matches!(*want, "*" | "") || *want == is)
}

fn parts(locality: &str) -> [&str; 3] {
    let mut parts = locality.splitn(3, '/');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Address, EndpointHealth, PeerProxy};

    fn endpoint(locality: &str, labels: &[(&str, &str)]) -> Endpoint {
        Endpoint {
            address: Address::Unix("/x".into()),
            weight: 1,
            priority: 0,
            health: EndpointHealth::Healthy,
            labels: labels.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect(),
            locality: Some(locality.into()),
            peer: PeerProxy::None,
            workload: None,
        }
    }

    fn failover(labels: &[(&str, &str)], next: Option<&str>) -> LocalityPolicy {
        LocalityPolicy::Failover(Failover {
            labels: labels.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect(),
            closeness: Some(Closeness { own: "r1/z1/s1".into(), next_region: next.map(Arc::from) }),
        })
    }

    #[test]
    fn another_network_comes_last_and_in_the_order_of_the_other_labels() {
        let LocalityPolicy::Failover(policy) = failover(&[(NETWORK, "n1"), ("region", "r2"), ("zone", "z2")], None)
        else {
            unreachable!()
        };
        let policy = LocalityPolicy::Failover(Failover { closeness: None, ..policy });
        let priority = |network, region, zone| {
            policy.priority(&endpoint("", &[(NETWORK, network), ("region", region), ("zone", zone)]))
        };
        let found = [
            priority("n1", "r2", "z2"),
            priority("n1", "r2", "z1"),
            priority("n1", "r3", "z2"),
            priority("n2", "r2", "z2"),
            priority("n2", "r2", "z1"),
            priority("n2", "r1", "z1"),
        ];
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    }

    #[test]
    fn the_closer_the_better() {
        let policy = failover(&[], None);
        for (locality, expected) in
            [("r1/z1/s1", 0), ("r1/z1/s2", 1), ("r1/z1", 1), ("r1/z2/s1", 2), ("r2/z1/s1", 3), ("", 3)]
        {
            assert_eq!(policy.priority(&endpoint(locality, &[])), Some(expected), "{locality}");
        }
        let policy = failover(&[], Some("r3"));
        assert_eq!(policy.priority(&endpoint("r3/a/b", &[])), Some(3));
        assert_eq!(policy.priority(&endpoint("r2/a/b", &[])), Some(4));
    }

    #[test]
    fn labels_count_from_the_front_and_before_closeness() {
        let policy = failover(&[("a", "1"), ("b", "2")], None);
        assert_eq!(policy.priority(&endpoint("r9", &[("a", "1"), ("b", "2")])), Some(3));
        assert_eq!(policy.priority(&endpoint("r1/z1/s1", &[("a", "1")])), Some(5));
        assert_eq!(policy.priority(&endpoint("r1/z1/s1", &[("b", "2")])), Some(10));
    }

    #[test]
    fn shares_take_by_pattern_and_leave_the_rest_out() {
        let share = |locality: &str| LocalityShare { locality: locality.into(), weight: 1 };
        let policy = LocalityPolicy::Distribute([share("r1/z1/*"), share("r2")].into());
        assert_eq!(policy.share(&endpoint("r1/z1/s9", &[])), Some(0));
        assert_eq!(policy.share(&endpoint("r2/x/y", &[])), Some(1));
        assert_eq!(policy.priority(&endpoint("r1/z2", &[])), None);
        assert!(locality_matches("*", "r7/z") && !locality_matches("r7/*/s", "r7/z/t"));
    }
}
