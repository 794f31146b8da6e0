//! Picking where a permitted request goes when the request itself names the host (`DYNAMIC_DNS`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use palisade_model::{
    cluster::Discovery, endpoint::Address, host::HostPattern, reason::Reason, reserved, settings::ProxySettings,
};
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

/// Whether a picked address may be dialled there. A name that a client chose leads neither to this machine nor to what answers
/// only because of who asks: metadata services, and whatever else is near.
pub fn may_lead_to(settings: &ProxySettings, picked: &Picked, address: IpAddr) -> bool {
    let is_named_by_client = match &picked.address {
        Address::Name(_, _) | Address::LogicalName(_, _) => picked.endpoint.is_none(),
        Address::Socket(_) | Address::Unix(_) => false,
    };
    let is_here = || {
        let own = settings.addresses.iter().any(|own| own.to_canonical() == address.to_canonical());
        own || reserved::is_own_host(address)
    };
    !is_named_by_client || !(is_here() || reserved::is_reserved(address))
}

#[cfg(test)]
mod tests {
    use palisade_model::settings::ProxyKind;

    use super::{super::testing, *};

    #[test]
    fn a_clients_name_never_leads_to_this_machine_or_its_neighbours() {
        // 10.0.0.9 is the proxy's own.
        let settings = testing::settings(ProxyKind::Sidecar);
        let named = |address| Picked { address, endpoint: None, source: None };
        let name = named(Address::Name("a.example.com".into(), 80));
        for inside in ["127.0.0.1", "::1", "::", "::ffff:127.0.0.1", "10.0.0.9", "::ffff:10.0.0.9", "169.254.169.254"] {
            assert!(!may_lead_to(&settings, &name, inside.parse().unwrap()), "{inside}");
        }
        for outside in ["192.0.2.1", "10.0.0.1", "2001:db8::1"] {
            assert!(may_lead_to(&settings, &name, outside.parse().unwrap()), "{outside}");
        }
        // What a document says, and what was dialled, is not the client's name.
        let dialled = named(Address::Socket("10.0.0.9:80".parse().unwrap()));
        assert!(may_lead_to(&settings, &dialled, "10.0.0.9".parse().unwrap()));
    }
}
