//! Sets of addresses: CIDR blocks as users write them, and a sorted index over them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// CIDR blocks. Look-up is a binary search. A block of IPv4-mapped IPv6 addresses is the IPv4 block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<IpNet>", into = "Vec<IpNet>")]
pub(crate) struct IpSet {
    nets: Vec<IpNet>,
    v4: Box<[(u128, u128)]>,
    v6: Box<[(u128, u128)]>,
}

impl IpSet {
    /// The blocks, sorted, without repetitions.
    pub(crate) fn nets(&self) -> &[IpNet] {
        &self.nets
    }

    /// Whether an address is in one of the blocks. `ip` must be canonical: no IPv4 in IPv6 clothes.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let (ranges, bits) = match ip {
            IpAddr::V4(ip) => (&self.v4, u128::from(u32::from(ip))),
            IpAddr::V6(ip) => (&self.v6, u128::from(ip)),
        };
        let after = ranges.partition_point(|(first, _)| *first <= bits);
        after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| bits <= *last)
    }
}

impl From<Vec<IpNet>> for IpSet {
    fn from(nets: Vec<IpNet>) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().map(canonical_net).collect();
        nets.sort();
        nets.dedup();
        let range = |net: &IpNet| match net {
            IpNet::V4(net) => (u128::from(u32::from(net.network())), u128::from(u32::from(net.broadcast()))),
            IpNet::V6(net) => (u128::from(net.network()), u128::from(net.broadcast())),
        };
        let merged = |is_v4: bool| {
            let mut ranges: Vec<(u128, u128)> =
                nets.iter().filter(|n| matches!(n, IpNet::V4(_)) == is_v4).map(range).collect();
            ranges.sort_unstable();
            let mut out: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
            for (first, last) in ranges {
                match out.last_mut() {
                    Some((_, previous)) if first <= *previous => *previous = last.max(*previous),
                    _ => out.push((first, last)),
                }
            }
            out.into_boxed_slice()
        };
        let (v4, v6) = (merged(true), merged(false));
        Self { nets, v4, v6 }
    }
}

impl From<IpSet> for Vec<IpNet> {
    fn from(set: IpSet) -> Self {
        set.nets
    }
}

/// Parses an address or a block.
pub(crate) fn parse_net(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(canonical_net(net))
}

/// As users read it: a single address without its prefix length.
pub(crate) fn show_net(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn canonical_net(net: IpNet) -> IpNet {
    let net = net.trunc();
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.prefix_len().checked_sub(96).zip(v6.network().to_ipv4_mapped());
    match mapped.and_then(|(prefix, ip)| Ipv4Net::new(ip, prefix).ok()) {
        Some(v4) => IpNet::V4(v4),
        None => IpNet::V6(Ipv6Net::trunc(&v6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_adjacent_and_mapped_blocks() {
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "192.168.1.7", "::ffff:172.16.0.0/108", "fd00::/8", "11.0.0.1/8"];
        let set = IpSet::from(nets.iter().map(|n| parse_net(n).unwrap()).collect::<Vec<_>>());
        for (ip, expected) in [
            ("10.1.2.3", true),
            ("10.200.0.1", true),
            ("11.255.255.255", true),
            ("12.0.0.0", false),
            ("9.255.255.255", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("172.16.5.5", true),
            ("172.32.0.1", false),
            ("fd12::1", true),
            ("::a00:1", false),
        ] {
            assert_eq!(set.contains(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "10.0.0.300", "10.0.0.0/33", "a", "10.0.0.0/8/8", "10.0.0.0-10.0.0.9", "*"] {
            assert!(parse_net(text).is_none(), "{text}");
        }
    }
}
