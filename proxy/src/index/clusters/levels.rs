//! Which endpoints take traffic now: levels of priority, shares of localities, panic. As Envoy computes them.

use palisade_model::{
    cluster::{LoadBalancer, LocalityPolicy, TrafficPolicy},
    endpoint::EndpointHealth,
};

use super::{
    IndexedEndpoint,
    hashing::{Entry, Table},
};

/// A level is as good as whole while it has this many percent of what it needs (Envoy's overprovisioning factor).
const OVERPROVISIONING: u64 = 140;

/// The endpoints of one priority, whatever their state.
#[derive(Debug)]
pub(super) struct Level {
    /// Positions among the cluster's endpoints.
    members: Box<[u32]>,
    /// From hashes to members, where the cluster hashes.
    table: Option<Table>,
}

/// What takes traffic, until something changes.
#[derive(Debug)]
pub struct Available {
    /// The ejections that it reflects.
    pub(super) epoch: u64,
    /// When the first of them ends, in milliseconds of the cluster's clock; `u64::MAX` = there is none.
    pub(super) until: u64,
    levels: Box<[Loaded]>,
    is_available: Box<[bool]>,
}

/// A level that takes traffic.
#[derive(Debug)]
struct Loaded {
    /// Its position among the cluster's levels.
    level: usize,
    /// Cumulative percentage of the traffic.
    upto: u64,
    groups: Box<[Group]>,
    /// Health is ignored.
    is_panicking: bool,
}

/// Endpoints among which one is chosen by its own weight.
#[derive(Debug)]
pub struct Group {
    /// Cumulative share of the level's traffic.
    share_upto: u64,
    /// Positions among the cluster's endpoints with cumulative weights.
    endpoints: Box<[(u32, u64)]>,
    has_equal_weights: bool,
}

/// The levels of a cluster, best first, and the priority of each endpoint counted without gaps; `None` = it takes no traffic
/// whatever happens.
pub(super) fn levels(
    endpoints: &[IndexedEndpoint],
    traffic: &TrafficPolicy,
    load_balancer: &LoadBalancer,
) -> (Box<[Level]>, Box<[Option<u32>]>) {
    // Istio leaves unready endpoints out where panic might send to them.
    let may_panic = traffic.outlier.as_ref().is_some_and(|outlier| outlier.min_health_percent > 0);
    let raw: Vec<Option<u32>> = endpoints
        .iter()
        .map(|indexed| {
            let is_left_out = may_panic && indexed.endpoint.health != EndpointHealth::Healthy;
            traffic.locality.priority(&indexed.endpoint).filter(|_| !is_left_out)
        })
        .collect();
    let mut steps: Vec<u32> = raw.iter().flatten().copied().collect();
    steps.sort_unstable();
    steps.dedup();
    let compact: Box<[Option<u32>]> = raw
        .iter()
        .map(|priority| priority.and_then(|p| steps.binary_search(&p).ok()).and_then(|at| u32::try_from(at).ok()))
        .collect();
    let levels = (0..)
        .take(steps.len())
        .map(|step: u32| {
            let members: Box<[u32]> =
                (0..).zip(&compact).filter(|(_, priority)| **priority == Some(step)).map(|(at, _)| at).collect();
            let table = match load_balancer {
                LoadBalancer::ConsistentHash { key: _, table } => {
                    Some(Table::build(*table, &entries(endpoints, &members, &traffic.locality)))
                }
                _ => None,
            };
            Level { members, table }
        })
        .collect();
    (levels, compact)
}

/// What a hash table is built over: members that are ready, by their share of the level's traffic.
fn entries(endpoints: &[IndexedEndpoint], members: &[u32], locality: &LocalityPolicy) -> Vec<Entry> {
    let ready = |at: &&u32| get(endpoints, **at).is_some_and(|e| e.endpoint.health == EndpointHealth::Healthy);
    let members: Vec<u32> = members.iter().filter(ready).copied().collect();
    grouped(endpoints, &members, locality)
        .into_iter()
        .flat_map(|(share, members)| {
            let total: f64 = members.iter().filter_map(|at| get(endpoints, *at)).map(weight).map(f64::from).sum();
            members
                .into_iter()
                .filter_map(|at| {
                    let indexed = get(endpoints, at)?;
                    let own = f64::from(weight(indexed));
                    let weight = share.map_or(own, |share| f64::from(share) * own / total);
                    Some(Entry { at, key: address_of(indexed), weight })
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

fn address_of(indexed: &IndexedEndpoint) -> String {
    use palisade_model::endpoint::Address;
    match &indexed.endpoint.address {
        Address::Socket(address) => address.to_string(),
        Address::Unix(path) => path.to_string(),
        Address::Name(name, port) | Address::LogicalName(name, port) => format!("{name}:{port}"),
    }
}

/// Members by the share that they belong to, with its weight; one group without weight where nothing is shared out.
fn grouped(endpoints: &[IndexedEndpoint], members: &[u32], locality: &LocalityPolicy) -> Vec<(Option<u32>, Vec<u32>)> {
    match locality {
        LocalityPolicy::Any | LocalityPolicy::Failover(_) => vec![(None, members.to_vec())],
        LocalityPolicy::Distribute(shares) => (0..shares.len())
            .filter_map(|position| {
                let is_in =
                    |at: &&u32| get(endpoints, **at).is_some_and(|e| locality.share(&e.endpoint) == Some(position));
                let members: Vec<u32> = members.iter().filter(is_in).copied().collect();
                let share = shares.get(position)?.weight;
                (!members.is_empty()).then_some((Some(share), members))
            })
            .collect(),
    }
}

fn get(endpoints: &[IndexedEndpoint], at: u32) -> Option<&IndexedEndpoint> {
    endpoints.get(usize::try_from(at).ok()?)
}

fn weight(indexed: &IndexedEndpoint) -> u32 {
    indexed.endpoint.weight.max(1)
}

impl Available {
    /// What takes traffic at a time. O(endpoints): once for each change of health.
    pub(super) fn new(
        levels: &[Level],
        endpoints: &[IndexedEndpoint],
        traffic: &TrafficPolicy,
        epoch: u64,
        now: u64,
    ) -> Self {
        let is_available: Box<[bool]> = endpoints
            .iter()
            .map(|indexed| indexed.endpoint.health == EndpointHealth::Healthy && !indexed.live.is_ejected(now))
            .collect();
        let ends = endpoints.iter().map(|indexed| indexed.live.ejected_until()).filter(|until| *until > now);
        let until = ends.min().unwrap_or(u64::MAX);
        let panic_below = traffic.outlier.as_ref().map_or(0, |outlier| u64::from(outlier.min_health_percent));
        let is_up = |at: &u32| usize::try_from(*at).ok().and_then(|at| is_available.get(at)).copied().unwrap_or(false);
        let counts: Vec<(u64, u64)> = levels
            .iter()
            .map(|level| {
                let up = level.members.iter().filter(|at| is_up(at)).count();
                (count(up), count(level.members.len()))
            })
            .collect();
        let mut upto = 0;
        let loaded = loads(&counts, panic_below)
            .into_iter()
            .enumerate()
            .zip(levels)
            .filter(|((_, load), _)| load.percent > 0)
            .map(|((position, load), level)| {
                upto += load.percent;
                let takes = |at: &u32| load.is_panicking || is_up(at);
                let groups = groups(endpoints, &level.members, &traffic.locality, takes);
                Loaded { level: position, upto, groups, is_panicking: load.is_panicking }
            })
            .filter(|loaded| !loaded.groups.is_empty())
            .collect();
        Self { epoch, until, levels: loaded, is_available }
    }

    /// Whether anything takes traffic.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The endpoints from which one draw of a level and one of a share lead to one choice.
    pub fn group(&self, mut draw: impl FnMut() -> f64) -> Option<&Group> {
        let level = match &*self.levels {
            [only] => only,
            several => several.get(below(several, draw(), |level| level.upto)?)?,
        };
        match &*level.groups {
            [only] => Some(only),
            several => several.get(below(several, draw(), |group| group.share_upto)?),
        }
    }

    /// The position of the endpoint that a hash leads to.
    pub(super) fn by_hash(&self, levels: &[Level], hash: u64) -> Option<u32> {
        let total = self.levels.last()?.upto;
        let point = hash % total.max(1);
        let loaded = self.levels.iter().find(|level| level.upto > point)?;
        let is_up = |at: u32| {
            loaded.is_panicking
                || usize::try_from(at).ok().and_then(|at| self.is_available.get(at)).copied().unwrap_or(false)
        };
        levels.get(loaded.level)?.table.as_ref()?.find(hash, is_up)
    }

    /// Positions of all endpoints that take traffic.
    pub fn positions(&self) -> impl Iterator<Item = u32> {
        self.levels.iter().flat_map(|level| &level.groups).flat_map(|group| &group.endpoints).map(|(at, _)| *at)
    }
}

impl Group {
    /// Positions among the cluster's endpoints with cumulative weights, never empty.
    pub fn endpoints(&self) -> &[(u32, u64)] {
        &self.endpoints
    }

    /// Whether all weigh the same.
    pub fn has_equal_weights(&self) -> bool {
        self.has_equal_weights
    }
}

/// The first item whose cumulative number exceeds `draw` × the last one's.
pub(crate) fn below<T>(items: &[T], draw: f64, upto: impl Fn(&T) -> u64) -> Option<usize> {
    let total = items.last().map(&upto)?;
    #[expect(clippy::cast_precision_loss, reason = "weights are sums of 32-bit numbers, far below 2^53")]
    let point = draw * total as f64;
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    let at = items.partition_point(|item| upto(item) as f64 <= point);
    Some(at.min(items.len().saturating_sub(1)))
}

fn groups(
    endpoints: &[IndexedEndpoint],
    members: &[u32],
    locality: &LocalityPolicy,
    takes: impl Fn(&u32) -> bool,
) -> Box<[Group]> {
    let mut share_upto = 0;
    grouped(endpoints, members, locality)
        .into_iter()
        .filter_map(|(share, members)| {
            let taking: Vec<u32> = members.iter().filter(|at| takes(at)).copied().collect();
            if taking.is_empty() {
                return None;
            }
            // A locality whose endpoints fail gives of its share to the others.
            let health = (count(taking.len()) * OVERPROVISIONING / count(members.len()).max(1)).min(100);
            share_upto += share.map_or(1, |share| u64::from(share) * health.max(1));
            let mut total = 0;
            let weighted: Box<[(u32, u64)]> = taking
                .into_iter()
                .filter_map(|at| {
                    total += u64::from(weight(get(endpoints, at)?));
                    Some((at, total))
                })
                .collect();
            let mut weights = weighted.iter().filter_map(|(at, _)| get(endpoints, *at)).map(weight);
            let first = weights.next();
            let has_equal_weights = weights.all(|weight| Some(weight) == first);
            Some(Group { share_upto, endpoints: weighted, has_equal_weights })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    percent: u64,
    is_panicking: bool,
}

/// The traffic of each level by its available and its known endpoints (Envoy's `LoadBalancerBase`): a level takes what it can
/// and leaves the rest to the next. `panic_below` in percent, 0 = never.
fn loads(levels: &[(u64, u64)], panic_below: u64) -> Vec<Load> {
    let health: Vec<u64> =
        levels.iter().map(|(up, known)| (up * OVERPROVISIONING).checked_div(*known).unwrap_or(0).min(100)).collect();
    let whole = health.iter().sum::<u64>().min(100);
    if whole == 0 {
        // Nothing is available: with panic, everything takes traffic by number; without, nothing does.
        let known: u64 = levels.iter().map(|(_, known)| known).sum();
        let percent = |known_here: u64| if panic_below > 0 { (known_here * 100).div_ceil(known.max(1)) } else { 0 };
        return levels.iter().map(|(_, known)| Load { percent: percent(*known), is_panicking: true }).collect();
    }
    let mut left = 100;
    let mut loads: Vec<Load> = health
        .iter()
        .zip(levels)
        .map(|(health, (up, known))| {
            let percent = (health * 100 / whole).min(left);
            left -= percent;
            let is_panicking = whole < 100 && up * 100 < panic_below * known;
            Load { percent, is_panicking }
        })
        .collect();
    // What rounding left over.
    if let Some(first) = loads.iter_mut().find(|load| load.percent > 0) {
        first.percent += left;
    }
    loads
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percents(levels: &[(u64, u64)], panic_below: u64) -> Vec<(u64, bool)> {
        loads(levels, panic_below).into_iter().map(|load| (load.percent, load.is_panicking)).collect()
    }

    #[test]
    fn the_first_level_takes_everything_while_it_is_nearly_whole() {
        assert_eq!(percents(&[(10, 10), (10, 10)], 0), [(100, false), (0, false)]);
        assert_eq!(percents(&[(8, 10), (10, 10)], 0), [(100, false), (0, false)]);
        assert_eq!(percents(&[(5, 10), (10, 10)], 0), [(70, false), (30, false)]);
        assert_eq!(percents(&[(0, 10), (10, 10)], 0), [(0, false), (100, false)]);
        assert_eq!(percents(&[(0, 10), (1, 10), (10, 10)], 0), [(0, false), (14, false), (86, false)]);
    }

    #[test]
    fn levels_that_are_all_weak_share_by_health() {
        assert_eq!(percents(&[(2, 10), (1, 10)], 0), [(67, false), (33, false)]);
        assert_eq!(percents(&[(1, 10)], 0), [(100, false)]);
        assert_eq!(percents(&[(0, 10)], 0), [(0, true)]);
        assert_eq!(percents(&[], 0), []);
    }

    #[test]
    fn below_the_threshold_health_is_ignored() {
        assert_eq!(percents(&[(1, 10)], 20), [(100, true)]);
        assert_eq!(percents(&[(2, 10)], 20), [(100, false)]);
        assert_eq!(percents(&[(0, 10)], 20), [(100, true)]);
        // One level that is whole keeps the other out of it.
        assert_eq!(percents(&[(1, 10), (10, 10)], 50), [(14, false), (86, false)]);
    }
}
