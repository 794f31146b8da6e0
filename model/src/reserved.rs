//! Addresses that nobody may be led to by a name that somebody else answers for: they answer only because of who asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Metadata and platform services of clouds at addresses that are not link-local anyway.
const METADATA_V4: [Ipv4Net; 3] = [
    // Alibaba Cloud.
    net4([100, 100, 100, 200], 32),
    // Oracle Cloud.
    net4([192, 0, 0, 192], 32),
    // Azure.
    net4([168, 63, 129, 16], 32),
];

/// The same of IPv6.
const METADATA_V6: [Ipv6Net; 3] = [
    // AWS: metadata, DNS, time and credentials of pods.
    net6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 64),
    // Google Cloud.
    net6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0], 64),
    // Scaleway.
    net6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
];

/// Lengths of prefixes at which NAT64 puts an IPv4 address (RFC 6052 section 2.2) into the local-use range `64:ff9b:1::/48`.
const LOCAL_NAT64_PREFIXES: [u8; 4] = [48, 56, 64, 96];

/// Whether a name must not lead here, whoever follows it: link-local and metadata addresses, multicast, broadcast, "this network",
/// and every IPv6 form that carries such an IPv4 address. Loopback as such is not among them, see [`is_own_host`].
pub fn is_reserved(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_reserved_v4(v4),
        IpAddr::V6(v6) => is_reserved_v6(v6),
    }
}

/// Whether an address means the machine that dials it: loopback and the unspecified address.
pub fn is_own_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

const fn net4(octets: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn net6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

fn is_reserved_v4(address: Ipv4Addr) -> bool {
    is_this_network(address)
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || METADATA_V4.iter().any(|net| net.contains(&address))
}

const fn is_this_network(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
}

fn is_reserved_v6(address: Ipv6Addr) -> bool {
    // RFC 3879: site-local addresses are no more, and whoever still has them is near.
    const SITE_LOCAL: Ipv6Net = net6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10);
    if address.is_loopback() {
        return false;
    }
    address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || SITE_LOCAL.contains(&address)
        || METADATA_V6.iter().any(|net| net.contains(&address))
        || leads_to_reserved(address)
}

/// Whether an address of a transition mechanism stands for a reserved IPv4 address. None of these ever stands for loopback; those
/// that cross the public IPv4 internet by themselves (6to4, Teredo) never stand for a private address.
fn leads_to_reserved(address: Ipv6Addr) -> bool {
    let translated = |v4: Ipv4Addr| is_reserved_v4(v4) || v4.is_loopback();
    let tunnelled = |v4: Ipv4Addr| translated(v4) || v4.is_private() || is_shared(v4);
    let bits = address.to_bits();
    let last = low(bits);
    match address.segments() {
        // IPv4-compatible (RFC 4291) and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => translated(last),
        // NAT64 (RFC 6052), the well-known prefix.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => translated(last),
        // NAT64, local use (RFC 8215): the network chooses how long its prefix is.
        [0x64, 0xff9b, 1, ..] => {
            let carried = LOCAL_NAT64_PREFIXES.map(|length| embedded(bits, length));
            // What another prefix would make of it mostly reads 0.x.
            let mut likely = carried.iter().filter(|v4| !is_this_network(**v4)).peekable();
            likely.peek().is_none() || likely.any(|v4| translated(*v4))
        }
        // 6to4 (RFC 3056).
        [0x2002, ..] => tunnelled(low(bits >> 80)),
        // Teredo (RFC 4380): its server, and the client's address with all bits flipped.
        [0x2001, 0, ..] => tunnelled(low(bits >> 64)) || tunnelled(Ipv4Addr::from_bits(!last.to_bits())),
        // ISATAP (RFC 5214), below any prefix.
        [.., 0 | 0x200, 0x5efe, _, _] => translated(last),
        _ => false,
    }
}

/// 100.64.0.0/10 (RFC 6598).
fn is_shared(address: Ipv4Addr) -> bool {
    const SHARED: Ipv4Net = net4([100, 64, 0, 0], 10);
    SHARED.contains(&address)
}

/// The IPv4 address behind a NAT64 prefix of this length; the octet from bit 64 on is never part of it.
fn embedded(bits: u128, prefix_length: u8) -> Ipv4Addr {
    if prefix_length == 96 {
        return low(bits);
    }
    let without_gap = (bits >> 64 << 64) | ((bits << 8) & u128::from(u64::MAX));
    low(without_gap >> (96 - prefix_length.min(96)))
}

/// The lowest 32 bits as an address.
fn low(bits: u128) -> Ipv4Addr {
    #[expect(clippy::cast_possible_truncation, reason = "the lowest 32 bits are meant")]
    Ipv4Addr::from_bits(bits as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_addresses_are_known_in_every_form() {
        for (name, text) in [
            ("link-local", "169.254.169.254"),
            ("link-local, any", "169.254.0.1"),
            ("mapped", "::ffff:169.254.169.254"),
            ("compatible", "::169.254.169.254"),
            ("compatible, loopback", "::127.0.0.1"),
            ("translated", "::ffff:0:169.254.169.254"),
            ("NAT64", "64:ff9b::169.254.169.254"),
            ("NAT64, loopback", "64:ff9b::127.0.0.1"),
            ("NAT64, this network", "64:ff9b::"),
            ("NAT64, Alibaba", "64:ff9b::100.100.100.200"),
            ("local NAT64, /96", "64:ff9b:1::169.254.169.254"),
            ("local NAT64, another /96", "64:ff9b:1:2:3:4:169.254.169.254"),
            ("local NAT64, /48", "64:ff9b:1:a9fe:a9:fe00::"),
            ("local NAT64, /56", "64:ff9b:1:a9:fe:a9fe::"),
            ("local NAT64, /64", "64:ff9b:1:0:a9:fea9:fe00:0"),
            ("local NAT64, nothing", "64:ff9b:1::"),
            ("6to4", "2002:a9fe:a9fe::1"),
            ("6to4, private", "2002:a00:1::1"),
            ("6to4, loopback", "2002:7f00:1::"),
            ("6to4, shared", "2002:6440:1::"),
            ("Teredo, server", "2001:0:a9fe:a9fe:0:0:3fff:fdfe"),
            ("Teredo, client", "2001:0:cb00:7101:0:0:5601:5601"),
            ("Teredo, private client", "2001:0:cb00:7101:0:0:f5ff:fffe"),
            ("ISATAP", "2001:db8::5efe:169.254.169.254"),
            ("ISATAP, universal", "2001:db8::200:5efe:169.254.169.254"),
            ("link-local v6", "fe80::1"),
            ("link-local v6, OpenStack", "fe80::a9fe:a9fe"),
            ("site-local", "fec0::1"),
            ("AWS v6", "fd00:ec2::254"),
            ("AWS v6, pods", "fd00:ec2::23"),
            ("Google v6", "fd20:ce::254"),
            ("Scaleway v6", "fd00:42::42"),
            ("Alibaba", "100.100.100.200"),
            ("Alibaba, mapped", "::ffff:100.100.100.200"),
            ("Oracle", "192.0.0.192"),
            ("Azure", "168.63.129.16"),
            ("this network", "0.0.0.0"),
            ("this network, any", "0.1.2.3"),
            ("unspecified v6", "::"),
            ("broadcast", "255.255.255.255"),
            ("multicast", "224.0.0.1"),
            ("multicast v6", "ff02::1"),
            ("multicast v6, wide", "ff0e::1"),
        ] {
            assert!(is_reserved(text.parse().unwrap()), "{name}: {text}");
        }
    }

    #[test]
    fn other_addresses_are_not_reserved() {
        for (name, text) in [
            ("private", "10.0.0.1"),
            ("private, 172", "172.16.0.1"),
            ("private, 192", "192.168.0.1"),
            ("shared", "100.64.0.1"),
            ("loopback", "127.0.0.1"),
            ("loopback v6", "::1"),
            ("public", "203.0.113.7"),
            ("public, mapped", "::ffff:203.0.113.7"),
            ("public v6", "2001:db8::1"),
            ("unique local", "fd00::1"),
            ("unique local, near AWS", "fd00:ec3::254"),
            ("NAT64, public", "64:ff9b::203.0.113.7"),
            ("NAT64, private", "64:ff9b::10.0.0.1"),
            ("local NAT64, /96", "64:ff9b:1::10.0.0.1"),
            ("local NAT64, /48", "64:ff9b:1:a00:0:100::"),
            ("local NAT64, /64", "64:ff9b:1:0:a:0:100:0"),
            ("6to4, public", "2002:cb00:7107::1"),
            ("Teredo, public", "2001:0:cb00:7101:0:0:34ff:8ef8"),
            ("ISATAP, public", "2001:db8::5efe:203.0.113.7"),
            ("virtual addresses of hosts outside", "240.240.0.1"),
        ] {
            assert!(!is_reserved(text.parse().unwrap()), "{name}: {text}");
        }
    }

    #[test]
    fn the_own_host_is_known_in_every_form() {
        for text in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert!(is_own_host(text.parse().unwrap()), "{text}");
        }
        for text in ["128.0.0.1", "10.0.0.1", "::2", "2001:db8::1"] {
            assert!(!is_own_host(text.parse().unwrap()), "{text}");
        }
    }
}
