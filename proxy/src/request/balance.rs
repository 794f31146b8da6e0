//! Picking an endpoint: weighted, least-request, in turn, or the one that was dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use palisade_model::{
    cluster::{Discovery, LoadBalancer},
    endpoint::Address,
    reason::Reason,
};
use palisade_policy::Permit;

use super::facts::Chance;
use crate::index::{IndexedCluster, IndexedEndpoint};

/// How often an endpoint that was tried already is drawn again before it is taken anyway (Envoy: host re-selections).
const RESELECTIONS: u32 = 5;
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

/// Picks where a permitted request or connection goes.
///
/// # Errors
/// `no-endpoints` when nothing healthy is there, `egress-unknown-host` for a black hole.
pub fn pick(
    _permit: &Permit,
    cluster: &IndexedCluster,
    dialled: SocketAddr,
    tried: &[Address],
    chance: &mut Chance,
) -> Result<Picked, Reason> {
    match &cluster.cluster().discovery {
        Discovery::OriginalDestination => {
            Ok(Picked { address: Address::Socket(dialled), endpoint: None, source: None })
        }
        Discovery::Workload { port } => {
            let address = SocketAddr::new(dialled.ip(), port.unwrap_or(dialled.port()));
            Ok(Picked { address: Address::Socket(address), endpoint: None, source: Some(inbound_source(dialled.ip())) })
        }
        // Its name comes from the request: `dynamic::pick`.
        Discovery::DynamicName { port: _ } => Err(Reason::NoEndpoints),
        Discovery::BlackHole => Err(Reason::EgressUnknownHost),
        Discovery::Endpoints { key: _, subset: _ } => {
            let endpoint = balance(cluster, dialled, tried, chance).ok_or(Reason::NoEndpoints)?;
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

fn balance<'a>(
    cluster: &'a IndexedCluster,
    dialled: SocketAddr,
    tried: &[Address],
    chance: &mut Chance,
) -> Option<&'a IndexedEndpoint> {
    let count = cluster.usable().len();
    if count == 0 {
        return None;
    }
    let mut pick = || match &cluster.cluster().load_balancer {
        LoadBalancer::Passthrough => {
            let dialled = Address::Socket(dialled);
            cluster.usable().map(|(e, _)| e).find(|e| e.endpoint.address == dialled)
        }
        LoadBalancer::Random | LoadBalancer::ConsistentHash { key: _, table: _ } => weighted(cluster, chance.draw()),
        LoadBalancer::RoundRobin if chance.is_fixed() => weighted(cluster, chance.draw()),
        LoadBalancer::RoundRobin => in_turn(cluster),
        LoadBalancer::LeastRequest { choices } => least_request(cluster, *choices, chance),
    };
    let first = pick()?;
    if tried.is_empty() || !tried.contains(&first.endpoint.address) {
        return Some(first);
    }
    let again = (0..RESELECTIONS).find_map(|_| pick().filter(|e| !tried.contains(&e.endpoint.address)));
    // Draws may miss the untried ones; a scan does not.
    let untried = || cluster.usable().map(|(e, _)| e).find(|e| !tried.contains(&e.endpoint.address));
    again.or_else(untried).or(Some(first))
}

/// The first endpoint whose cumulative weight exceeds `draw` × total.
fn weighted(cluster: &IndexedCluster, draw: f64) -> Option<&IndexedEndpoint> {
    let upto: Vec<u64> = cluster.usable().map(|(_, upto)| upto).collect();
    let at = first_exceeding(&upto, draw)?;
    cluster.usable().nth(at).map(|(endpoint, _)| endpoint)
}

/// Index of the first cumulative weight that exceeds `draw` × the last one.
pub(crate) fn first_exceeding(upto: &[u64], draw: f64) -> Option<usize> {
    let total = upto.last().copied()?;
    #[expect(clippy::cast_precision_loss, reason = "weights are sums of 32-bit numbers, far below 2^53")]
    let point = draw * total as f64;
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    let at = upto.partition_point(|cumulative| *cumulative as f64 <= point);
    Some(at.min(upto.len().saturating_sub(1)))
}

fn in_turn(cluster: &IndexedCluster) -> Option<&IndexedEndpoint> {
    let turn = cluster.live().next_turn();
    if cluster.has_equal_weights() {
        return cluster.usable().nth(turn % cluster.usable().len()).map(|(endpoint, _)| endpoint);
    }
    let fraction = u64::try_from(turn).unwrap_or(0).wrapping_mul(GOLDEN) & ((1 << TURN_BITS) - 1);
    let point = (u128::from(fraction) * u128::from(cluster.usable_weight())) >> TURN_BITS;
    cluster.usable().find(|(_, upto)| u128::from(*upto) > point).map(|(endpoint, _)| endpoint)
}

/// Of several weighted draws the one with the fewest requests in flight; the first drawn among equals.
fn least_request<'a>(cluster: &'a IndexedCluster, choices: u32, chance: &mut Chance) -> Option<&'a IndexedEndpoint> {
    let draws = if chance.is_fixed() { 1 } else { choices.max(2) };
    let drawn = (0..draws).filter_map(|_| match cluster.has_equal_weights() {
        true => nth_by_draw(cluster, chance.draw()),
        false => weighted(cluster, chance.draw()),
    });
    drawn.reduce(|best, next| if next.live.in_flight() < best.live.in_flight() { next } else { best })
}

fn nth_by_draw(cluster: &IndexedCluster, draw: f64) -> Option<&IndexedEndpoint> {
    let count = cluster.usable().len();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= draw < 1"
    )]
    let at = (draw * count as f64) as usize;
    cluster.usable().nth(at.min(count.saturating_sub(1))).map(|(endpoint, _)| endpoint)
}

#[cfg(test)]
mod tests;
