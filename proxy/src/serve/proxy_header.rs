//! Writes PROXY protocol headers, versions 1 and 2 (HAProxy `doc/proxy-protocol.txt`).

use std::net::{IpAddr, SocketAddr};

use palisade_model::cluster::ProxyProtocol;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXIED: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header that tells a server who connects through us, and where to.
pub(crate) fn encode(version: ProxyProtocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source_ip, destination_ip) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        // One family for both: an IPv4 address as IPv6 where they differ.
        (IpAddr::V4(from), to @ IpAddr::V6(_)) => (from.to_ipv6_mapped().into(), to),
        (from @ IpAddr::V6(_), IpAddr::V4(to)) => (from, to.to_ipv6_mapped().into()),
        same => same,
    };
    let (source_port, destination_port) = (source.port(), destination.port());
    match version {
        ProxyProtocol::V1 => {
            let family = if source_ip.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {source_ip} {destination_ip} {source_port} {destination_port}\r\n").into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut header = SIGNATURE.to_vec();
            let (family, length) = if source_ip.is_ipv4() { (TCP_OVER_IPV4, 12_u16) } else { (TCP_OVER_IPV6, 36) };
            header.extend([PROXIED, family]);
            header.extend(length.to_be_bytes());
            for ip in [source_ip, destination_ip] {
                match ip {
                    IpAddr::V4(ip) => header.extend(ip.octets()),
                    IpAddr::V6(ip) => header.extend(ip.octets()),
                }
            }
            header.extend(source_port.to_be_bytes());
            header.extend(destination_port.to_be_bytes());
            header
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::proxy_protocol::{ProxyHeader, ProxyParse, parse_proxy_header};

    #[test]
    fn what_is_written_is_read() {
        for (source, destination) in [("1.2.3.4:5", "6.7.8.9:10"), ("[2001:db8::1]:5", "[::1]:10")] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let header = encode(version, source, destination);
                let expected = ProxyParse::Complete(ProxyHeader::Proxied { source, destination }, header.len());
                assert_eq!(parse_proxy_header(&header), expected, "{version:?}");
            }
        }
        let mixed = encode(ProxyProtocol::V1, "1.2.3.4:5".parse().unwrap(), "[::1]:10".parse().unwrap());
        assert_eq!(mixed, b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5 10\r\n");
    }
}
