//! Addresses that no document may make the control plane call: those that answer only because of who asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds beyond the link-local ones.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether an address is refused: link-local, metadata, multicast, unspecified, broadcast.
pub fn is_refused(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if METADATA.contains(&address) || address.is_multicast() || address.is_unspecified() {
        return true;
    }
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets().first() == Some(&0),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            // NAT64 and 6to4 carry an IPv4 address.
            let carried = match (first, second) {
                (0x64, 0xff9b) => v6.octets().last_chunk::<4>().map(|octets| Ipv4Addr::from(*octets)),
                (0x2002, _) => {
                    v6.octets().get(2..6).and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from)
                }
                _ => None,
            };
            v6.is_unicast_link_local() || carried.is_some_and(|v4| is_refused(v4.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_and_link_local_addresses_are_refused_in_every_form() {
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(is_refused(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "127.0.0.1", "::1", "203.0.113.7", "2001:db8::1", "fd00::1"] {
            assert!(!is_refused(text.parse().unwrap()), "{text}");
        }
    }
}
