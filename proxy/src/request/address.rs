//! The original client's address, by the proxy's trust settings (istio-semantics 1.8).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};
use palisade_model::settings::{ProxyKind, ProxySettings};

use super::{
    connection::{Admitted, Mode},
    facts::{HttpVersion, Request},
};

/// The address that policies call remote.
///
/// Sidecar: the rightmost `x-forwarded-for` entry, if there is one, else the peer. Gateway: with N trusted hops the Nth
/// entry from the right as received, else the peer.
pub fn remote_ip(settings: &ProxySettings, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let from_right = match settings.kind {
        ProxyKind::Sidecar => 1,
        ProxyKind::Gateway => settings.client_address.trusted_hops,
    };
    let Some(skip) = usize::try_from(from_right).ok().and_then(|n| n.checked_sub(1)) else { return peer };
    if !headers.contains_key("x-forwarded-for") {
        return peer;
    }
    let lines: Vec<&[u8]> = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes).collect();
    let mut entries = lines.into_iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    entries.nth(skip).map(<[u8]>::trim_ascii).and_then(parse).unwrap_or(peer).to_canonical()
}

/// Whether the proxy believes what a request says about how it travelled so far.
pub(super) fn trusts_forwarding(settings: &ProxySettings) -> bool {
    settings.kind == ProxyKind::Sidecar || settings.client_address.trusted_hops > 0
}

/// The scheme that routes match and redirects keep: what a trusted `x-forwarded-proto` says, else how the request reached this
/// proxy. HTTP/2 carries its own, which stays (Envoy: `:scheme`), except between sidecars, where it is the connection's.
pub(super) fn scheme<'a>(settings: &ProxySettings, admitted: &Admitted, request: &Request<'a>) -> &'a str {
    if request.version == HttpVersion::Http2 && admitted.mode != Mode::Mtls || !trusts_forwarding(settings) {
        return request.scheme;
    }
    match request.headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
        Some(b"http") => "http",
        Some(b"https") => "https",
        _ => request.scheme,
    }
}

/// An address as `x-forwarded-for` entries write it: with or without port, IPv6 with or without brackets.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing;

    #[test]
    fn the_trust_settings_decide_which_entry_counts() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (name, kind, hops, lines, expected) in [
            ("sidecar: rightmost entry", ProxyKind::Sidecar, 0, &["1.1.1.1, 2.2.2.2"][..], "2.2.2.2"),
            ("sidecar: rightmost of the last line", ProxyKind::Sidecar, 0, &["2.2.2.2", "3.3.3.3"], "3.3.3.3"),
            ("sidecar: none", ProxyKind::Sidecar, 0, &[], "10.0.0.1"),
            ("sidecar: garbage", ProxyKind::Sidecar, 0, &["1.1.1.1, x"], "10.0.0.1"),
            ("gateway: the peer", ProxyKind::Gateway, 0, &["1.1.1.1"], "10.0.0.1"),
            ("gateway: one hop", ProxyKind::Gateway, 1, &["9.9.9.9, 1.1.1.1"], "1.1.1.1"),
            ("gateway: two hops", ProxyKind::Gateway, 2, &["9.9.9.9, 1.1.1.1"], "9.9.9.9"),
            ("gateway: too short", ProxyKind::Gateway, 3, &["9.9.9.9, 1.1.1.1"], "10.0.0.1"),
            ("with port", ProxyKind::Sidecar, 0, &["1.1.1.1:99"], "1.1.1.1"),
            ("IPv6", ProxyKind::Sidecar, 0, &["[fd00::1]"], "fd00::1"),
            ("mapped IPv4", ProxyKind::Sidecar, 0, &["::ffff:1.2.3.4"], "1.2.3.4"),
        ] {
            let mut settings = testing::settings(kind);
            settings.client_address.trusted_hops = hops;
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            assert_eq!(remote_ip(&settings, peer, &headers), expected.parse::<IpAddr>().unwrap(), "{name}");
        }
    }
}
