//! Host names as Istio takes them.

use std::net::IpAddr;

/// A DNS label in Istio's sense: capitals are allowed.
pub(super) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// `*`, or a label with `*` or `*-` in front, or a label.
fn is_wildcard_label(text: &str) -> bool {
    text.len() <= 63
        && (text == "*" || is_label(text.strip_prefix("*-").or_else(|| text.strip_prefix('*')).unwrap_or(text)))
}

/// Why a text is no fully qualified name. A short name is one too.
pub(super) fn fqdn(text: &str) -> Result<(), String> {
    length(text)?;
    dns_labels(text)
}

/// Why a text is neither a host name nor one with a wildcard in its first label.
pub(super) fn wildcard_domain(text: &str) -> Result<(), String> {
    length(text)?;
    let (first, rest) = text.split_once('.').map_or((text, None), |(first, rest)| (first, Some(rest)));
    if !is_wildcard_label(first) {
        return Err(format!("`{text}` is not a host name: `{first}` is not a label"));
    }
    rest.map_or(Ok(()), dns_labels)
}

fn length(text: &str) -> Result<(), String> {
    match text.len() {
        0 => Err("an empty host name".to_owned()),
        1..=255 => Ok(()),
        _ => Err("a host name longer than 255 characters".to_owned()),
    }
}

fn dns_labels(text: &str) -> Result<(), String> {
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.strip_prefix(['-', '+']).unwrap_or(last).bytes().all(|byte| byte.is_ascii_digit())
        && !last.is_empty()
        && last.parse::<i64>().is_ok()
    {
        return Err(format!("`{text}` is not a host name: its last label is a number"));
    }
    // A trailing dot makes the name unambiguous.
    let labels = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Ok(());
    }
    match labels.split('.').find(|label| !is_label(label)) {
        Some(label) => Err(format!("`{text}` is not a host name: `{label}` is not a label")),
        None => Ok(()),
    }
}

/// A host of a VirtualService at a gateway: also the names that AUTO_PASSTHROUGH uses, `outbound_.80_.v1_.host`.
pub(super) fn gateway_domain(has_sni: bool, text: &str) -> Result<(), String> {
    length(text)?;
    if !(has_sni && text.starts_with("outbound_")) {
        return wildcard_domain(text);
    }
    let mut parts = text.split('_').skip(1);
    let (port, _, host) = (parts.next(), parts.next(), parts.next());
    let has_digit = port.is_some_and(|port| port.bytes().any(|byte| byte.is_ascii_digit()));
    let has_letter = host.is_some_and(|host| host.bytes().any(|byte| byte.is_ascii_alphabetic()));
    if has_digit && has_letter {
        Ok(())
    } else {
        Err(format!("`{text}` is not of the form `outbound_.PORT_.SUBSET_.HOST`"))
    }
}

/// `*` may only stand alone or as the whole first label.
pub(super) fn no_partial_wildcard(text: &str) -> Result<(), String> {
    if text.contains('*') && text != "*" && !text.starts_with("*.") {
        return Err(format!("`{text}` has a wildcard that is not a whole label"));
    }
    Ok(())
}

/// A host of a Gateway server, perhaps with `namespace/` in front.
pub(super) fn gateway_host(text: &str) -> Result<(), String> {
    let Some((namespace, host)) = text.split_once('/') else { return gateway_host_part(text) };
    if namespace.is_empty() || host.is_empty() {
        return Err("namespace and host must not be empty".to_owned());
    }
    if namespace != "*" && namespace != "." && !is_label(namespace) {
        return Err(format!("`{namespace}` is not a namespace name"));
    }
    gateway_host_part(host)
}

fn gateway_host_part(host: &str) -> Result<(), String> {
    if host != "*" && !host.contains('.') {
        return Err(format!("`{host}` is a short name; a full host name is required"));
    }
    if let Err(message) = wildcard_domain(host)
        && !is_ip(host)
    {
        return Err(message);
    }
    no_partial_wildcard(host)
}

/// A host of a Sidecar's egress: `namespace/host`, with `~` in front of the namespace to leave it out.
pub(super) fn sidecar_host(text: &str) -> Result<(), String> {
    let Some((namespace, host)) = text.split_once('/') else {
        return Err("a host must be of the form `namespace/host`".to_owned());
    };
    if namespace.is_empty() || host.is_empty() {
        return Err("namespace and host must not be empty".to_owned());
    }
    let name = namespace.strip_prefix('~').unwrap_or(namespace);
    if !matches!(name, "" | "*" | ".") && !is_label(name) {
        return Err(format!("`{namespace}` is not a namespace name"));
    }
    if host != "*" && !host.contains('.') {
        return Err(format!("`{host}` is a short name; a full host name is required"));
    }
    wildcard_domain(host)?;
    no_partial_wildcard(host)
}

/// Go's parser takes a zone behind an IPv6 address.
pub(super) fn is_ip(text: &str) -> bool {
    match text.split_once('%') {
        Some((address, zone)) => !zone.is_empty() && address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => text.parse::<IpAddr>().is_ok(),
    }
}

/// An address, or one with a prefix length.
pub(super) fn is_subnet(text: &str) -> bool {
    if text.matches('/').count() == 1 { is_cidr(text) } else { is_ip(text) }
}

/// An address with a prefix length; Go takes no leading zeros in the length.
pub(super) fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(_, length)| length == "0" || !length.starts_with('0'))
        && text.parse::<ipnet::IpNet>().is_ok()
}

/// Whether two names, perhaps with wildcards, have a host in common in Istio's reckoning.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(suffix), None) => b.ends_with(suffix),
        (None, Some(suffix)) => a.ends_with(suffix),
        (None, None) => a == b,
    }
}

/// Whether all hosts of `inner` are hosts of `outer`.
pub(super) fn is_subset(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (Some(inner), Some(outer)) => inner.ends_with(outer),
        (Some(_), None) => false,
        (None, Some(suffix)) => inner.ends_with(suffix),
        (None, None) => inner == outer,
    }
}

/// A path or abstract name of a unix socket.
pub(super) fn is_unix_address(path: &str) -> bool {
    path.starts_with('@') || (path.starts_with('/') && !path.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_istio_takes() {
        for host in
            ["*", "*.foo.com", "*-a.foo.com", "*a.foo.com", "reviews", "a.b.c", "foo.com.", "FOO.com", "1.2.3.a"]
        {
            assert_eq!(wildcard_domain(host), Ok(()), "{host}");
        }
        for host in ["", ".", "foo_bar", "a.*.b", "-a", "foo..com", "foo..", "10.0.0.1", "a.b.5"] {
            assert!(wildcard_domain(host).is_err(), "{host}");
        }
        assert!(gateway_domain(true, "outbound_.80_._.e2e.foobar.mesh").is_ok());
        assert!(gateway_domain(false, "outbound_.80_._.e2e.foobar.mesh").is_err());
    }

    #[test]
    fn hosts_of_servers() {
        for host in ["*", "*.foo.com", "ns/foo.com", "*/foo.com", "./*", "10.0.0.1"] {
            assert_eq!(gateway_host(host), Ok(()), "{host}");
        }
        for host in ["short", "ns/short", "/foo.com", "ns/", "~/foo.com", "*foo.com", "a/b/c.com", "fd00::1"] {
            assert!(gateway_host(host).is_err(), "{host}");
        }
    }
}
