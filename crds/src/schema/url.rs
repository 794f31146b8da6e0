//! What Go's `net/url` takes for a URL, which is what admission goes by.

/// The scheme, in lower case, of a URL as an HTTP request could name it; empty for an absolute path. `None` if it is no such URL.
pub(crate) fn request_scheme(text: &str) -> Option<String> {
    if text.is_empty() || text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return None;
    }
    if text == "*" {
        return Some(String::new());
    }
    let (scheme, rest) = split_scheme(text)?;
    // A fragment is part of a request's path, and must be well-formed by itself.
    if text.split_once('#').is_some_and(|(_, fragment)| !has_whole_escapes(fragment)) {
        return None;
    }
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    if !rest.starts_with('/') {
        return (!scheme.is_empty()).then(|| scheme.to_ascii_lowercase());
    }
    // Without a scheme two slashes are a path to a request, and yet must begin an authority elsewhere.
    let path = match rest.strip_prefix("//").filter(|rest| !scheme.is_empty() || !rest.starts_with('/')) {
        Some(rest) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
            if !is_authority(authority) {
                return None;
            }
            path
        }
        None => rest,
    };
    has_whole_escapes(path).then(|| scheme.to_ascii_lowercase())
}

/// Scheme and rest; `None` where a colon stands with nothing before it.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let end = text.bytes().position(|byte| !is_inner(byte)).unwrap_or(text.len());
    let has_colon = text.as_bytes().get(end) == Some(&b':');
    match text.bytes().next() {
        Some(b':') => None,
        Some(first) if has_colon && first.is_ascii_alphabetic() => Some((text.get(..end)?, text.get(end + 1..)?)),
        _ => Some(("", text)),
    }
}

fn is_authority(authority: &str) -> bool {
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let is_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if user.is_some_and(|user| !user.bytes().all(is_user) || !has_whole_escapes(user)) {
        return false;
    }
    let is_port = |port: &str| {
        port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if let Some(rest) = host.strip_prefix('[') {
        return rest.rsplit_once(']').is_some_and(|(address, port)| {
            let address = address.split_once("%25").map_or(address, |(address, _)| address);
            is_port(port) && address.parse::<std::net::Ipv6Addr>().is_ok()
        });
    }
    let (name, port) = host.find(':').map_or((host, ""), |colon| host.split_at(colon));
    is_port(port) && name.bytes().all(is_host_byte)
}

/// Go leaves more than DNS has; what is not ASCII passes.
fn is_host_byte(byte: u8) -> bool {
    !byte.is_ascii() || byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=<>\"".contains(&byte)
}

/// Whether each `%` is followed by two hexadecimal digits.
fn has_whole_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_found_as_go_finds_them() {
        let rows = [
            ("oci://a.b/c", Some("oci")),
            ("HTTPS://a.b:80/x?y", Some("https")),
            ("/a/b", Some("")),
            ("//a", Some("")),
            ("//a:b", None),
            ("///a:b", Some("")),
            ("*", Some("")),
            ("a:80/x", Some("a")),
            ("a.b/c", None),
            ("", None),
            (":80", None),
            ("http://a b/", None),
            ("http://a:b/", None),
            ("http://a:1:2/", None),
            ("http://[::1]:80/", Some("http")),
            ("http://[a]/", None),
            ("http://a/%zz", None),
            ("http://a/#%zz", None),
            ("http://u:p@a/", Some("http")),
            ("1http://a/", None),
            ("http://a/\n", None),
        ];
        for (text, scheme) in rows {
            assert_eq!(request_scheme(text).as_deref(), scheme, "{text}");
        }
    }
}
