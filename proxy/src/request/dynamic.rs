//! Picking where a permitted request goes when the request itself names the host (`DYNAMIC_DNS`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use palisade_model::{cluster::Discovery, endpoint::Address, host::HostPattern, reason::Reason};
use palisade_policy::Permit;

use super::{
    balance::{self, Picked},
    facts::Chance,
};
use crate::index::IndexedCluster;

/// What a request or connection says about where it wants to go.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The address that was dialled.
    pub dialled: SocketAddr,
    /// The authority's host, or the server name of its TLS; empty: none.
    pub host: &'a str,
    /// Counts where the cluster hashes; `None` = any endpoint.
    pub hash: Option<u64>,
}

/// Picks where a permitted request or connection goes. Only a name that the cluster's own host takes is resolved, so that no other
/// name gets in by a rewrite.
///
/// # Errors
/// As [`balance::pick`]; `no-endpoints` for a host that is none of the cluster's.
pub fn pick(
    permit: &Permit,
    cluster: &IndexedCluster,
    wanted: &Wanted<'_>,
    tried: &[Address],
    chance: &mut Chance,
) -> Result<Picked, Reason> {
    let Wanted { dialled, host, hash } = *wanted;
    let Discovery::DynamicName { port } = cluster.cluster().discovery else {
        return balance::pick(permit, cluster, dialled, hash, tried, chance);
    };
    let own = cluster.name().rsplit('|').next().and_then(|text| text.parse::<HostPattern>().ok());
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() || own.is_none_or(|own| !own.matches(&host)) {
        return Err(Reason::NoEndpoints);
    }
    Ok(Picked { address: Address::Name(Arc::from(host), port), endpoint: None, source: None })
}

/// Whether an address may be what a name that a client chose leads to: never this machine, nor its neighbours on the link, where
/// metadata services live.
pub fn is_outside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() || ip.is_multicast()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_to_this_machine_or_its_link() {
        for inside in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "::1", "::", "fe80::1", "::ffff:127.0.0.1"] {
            assert!(!is_outside(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["192.0.2.1", "10.0.0.1", "2001:db8::1"] {
            assert!(is_outside(outside.parse().unwrap()), "{outside}");
        }
    }
}
