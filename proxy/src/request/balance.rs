//! Picking an endpoint: weighted, least-request, in turn, or the one that was dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use palisade_model::{
    cluster::{Discovery, LoadBalancer},
    endpoint::{Address, EndpointHealth},
    reason::Reason,
};
use palisade_policy::Permit;

use super::facts::Chance;
use crate::index::{Group, IndexedCluster, IndexedEndpoint, below};

/// How often an endpoint that was tried already is drawn again before it is taken anyway (Envoy: host re-selections).
const RESELECTIONS: u32 = 5;
/// How often an endpoint that has not warmed up is drawn again before it is taken anyway.
const REDRAWS: u32 = 16;
/// Bits of the fraction that weighted turns are made of.
const TURN_BITS: u32 = 32;
/// 2³² divided by the golden ratio: successive multiples spread evenly over the circle.
const GOLDEN: u64 = 2_654_435_769;

/// An endpoint that was picked.
#[derive(Debug, Clone)]
pub struct Picked {
    /// Where to connect.
    pub address: Address,
    /// The endpoint, where the cluster lists them.
    pub endpoint: Option<IndexedEndpoint>,
    /// Source address to connect from; `None` = the system's choice.
    pub source: Option<IpAddr>,
}

/// Picks where a permitted request or connection goes. `hash` counts where the cluster hashes; `None` = any endpoint.
///
/// # Errors
/// `no-endpoints` when nothing healthy is there, `egress-unknown-host` for a black hole.
pub fn pick(
    _permit: &Permit,
    cluster: &IndexedCluster,
    dialled: SocketAddr,
    hash: Option<u64>,
    tried: &[Address],
    chance: &mut Chance,
) -> Result<Picked, Reason> {
    match &cluster.cluster().discovery {
        Discovery::OriginalDestination => {
            Ok(Picked { address: Address::Socket(dialled), endpoint: None, source: None })
        }
        Discovery::OriginalAddress { port } => {
            let address = Address::Socket(SocketAddr::new(dialled.ip(), *port));
            Ok(Picked { address, endpoint: None, source: None })
        }
        Discovery::Workload { port } => {
            let address = SocketAddr::new(dialled.ip(), port.unwrap_or(dialled.port()));
            Ok(Picked { address: Address::Socket(address), endpoint: None, source: Some(inbound_source(dialled.ip())) })
        }
        // Its name comes from the request: `dynamic::pick`.
        Discovery::DynamicName { port: _ } => Err(Reason::NoEndpoints),
        Discovery::BlackHole => Err(Reason::EgressUnknownHost),
        Discovery::Endpoints { key: _, subset: _ } => {
            if cluster.cluster().load_balancer == LoadBalancer::Passthrough {
                return passed_through(cluster, dialled);
            }
            let endpoint = balance(cluster, hash, tried, chance).ok_or(Reason::NoEndpoints)?;
            let address = endpoint.endpoint.address.clone();
            Ok(Picked { address, endpoint: Some(endpoint.clone()), source: None })
        }
    }
}

/// The address that the application sees callers come from: redirection rules know it and let it pass.
fn inbound_source(destination: IpAddr) -> IpAddr {
    match destination {
        IpAddr::V4(_) => Ipv4Addr::new(127, 0, 0, 6).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
    }
}

/// Where the client dialled, if nothing says that it is not ready: an address that the registry does not list (yet) is dialled
/// as well (Envoy: `ORIGINAL_DST`), but nothing is taken for granted about who answers there.
fn passed_through(cluster: &IndexedCluster, dialled: SocketAddr) -> Result<Picked, Reason> {
    let address = Address::Socket(dialled);
    let endpoint = cluster.endpoint_at(&address).cloned();
    if endpoint.as_ref().is_some_and(|known| known.endpoint.health != EndpointHealth::Healthy) {
        return Err(Reason::NoEndpoints);
    }
    Ok(Picked { address, endpoint, source: None })
}

fn balance<'a>(
    cluster: &'a IndexedCluster,
    hash: Option<u64>,
    tried: &[Address],
    chance: &mut Chance,
) -> Option<&'a IndexedEndpoint> {
    let available = cluster.available();
    let mut pick = || match &cluster.cluster().load_balancer {
        LoadBalancer::ConsistentHash { key: _, table: _ } => {
            let hash = hash.unwrap_or_else(|| chance.draw().to_bits().wrapping_mul(GOLDEN));
            cluster.by_hash(hash)
        }
        LoadBalancer::Random => weighted(cluster, available.group(|| chance.draw())?, chance.draw()),
        LoadBalancer::RoundRobin => {
            let group = available.group(|| chance.draw())?;
            match chance.is_fixed() {
                true => weighted(cluster, group, chance.draw()),
                false => warmed(cluster, chance, |_| in_turn(cluster, group)),
            }
        }
        // Passed through before; here only for completeness of the match.
        LoadBalancer::LeastRequest { choices: _ } | LoadBalancer::Passthrough => {
            let group = available.group(|| chance.draw())?;
            least_request(cluster, group, chance)
        }
    };
    let first = pick()?;
    // A hash leads to one endpoint, also when that has just failed (Istio leaves the others out of it).
    if tried.is_empty() || hash.is_some() || !tried.contains(&first.endpoint.address) {
        return Some(first);
    }
    let again = (0..RESELECTIONS).find_map(|_| pick().filter(|e| !tried.contains(&e.endpoint.address)));
    // Draws may miss the untried ones; a scan does not.
    let untried =
        || available.positions().filter_map(|at| cluster.at(at)).find(|e| !tried.contains(&e.endpoint.address));
    again.or_else(untried).or(Some(first))
}

/// Draws again, a few times, what has not warmed up: it takes traffic in proportion to its warmth.
fn warmed<'a>(
    cluster: &'a IndexedCluster,
    chance: &mut Chance,
    mut draw: impl FnMut(&mut Chance) -> Option<&'a IndexedEndpoint>,
) -> Option<&'a IndexedEndpoint> {
    let drawn = draw(chance)?;
    let Some(now) = cluster.warming_now().filter(|_| !chance.is_fixed()) else { return Some(drawn) };
    let mut drawn = drawn;
    for _ in 0..REDRAWS {
        if chance.draw() < cluster.warmth(drawn, now) {
            break;
        }
        drawn = draw(chance)?;
    }
    Some(drawn)
}

/// The first endpoint whose cumulative weight exceeds `draw` × total.
fn weighted<'a>(cluster: &'a IndexedCluster, group: &Group, draw: f64) -> Option<&'a IndexedEndpoint> {
    let at = below(group.endpoints(), draw, |(_, upto)| *upto)?;
    cluster.at(group.endpoints().get(at)?.0)
}

/// Index of the first cumulative weight that exceeds `draw` × the last one.
pub(crate) fn first_exceeding(upto: &[u64], draw: f64) -> Option<usize> {
    below(upto, draw, |cumulative| *cumulative)
}

fn in_turn<'a>(cluster: &'a IndexedCluster, group: &Group) -> Option<&'a IndexedEndpoint> {
    let turn = cluster.live().next_turn();
    let endpoints = group.endpoints();
    if group.has_equal_weights() {
        return cluster.at(endpoints.get(turn.checked_rem(endpoints.len())?)?.0);
    }
    let fraction = u64::try_from(turn).unwrap_or(0).wrapping_mul(GOLDEN) & ((1 << TURN_BITS) - 1);
    let total = endpoints.last()?.1;
    let point = (u128::from(fraction) * u128::from(total)) >> TURN_BITS;
    let at = endpoints.partition_point(|(_, upto)| u128::from(*upto) <= point);
    cluster.at(endpoints.get(at)?.0)
}

/// Of several weighted draws the one with the fewest requests in flight; the first drawn among equals.
fn least_request<'a>(cluster: &'a IndexedCluster, group: &Group, chance: &mut Chance) -> Option<&'a IndexedEndpoint> {
    let choices = match cluster.cluster().load_balancer {
        LoadBalancer::LeastRequest { choices } => choices.max(2),
        _ => 2,
    };
    let draws = if chance.is_fixed() { 1 } else { choices };
    let mut best: Option<&IndexedEndpoint> = None;
    for _ in 0..draws {
        let drawn = warmed(cluster, chance, |chance| weighted(cluster, group, chance.draw()))?;
        best = match best {
            Some(best) if best.live.in_flight() <= drawn.live.in_flight() => Some(best),
            _ => Some(drawn),
        };
    }
    best
}

#[cfg(test)]
mod tests;
