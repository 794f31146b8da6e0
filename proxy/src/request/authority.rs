//! Authorities: the part that routing uses (lower-case host, no port) and the part that policy sees (as sent).

use std::borrow::Cow;

use crate::transport::authority as transport;

/// A checked authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As sent, port included.
    pub text: &'a str,
    /// Lower-case host without port; an IPv6 literal without its brackets.
    pub host: Cow<'a, str>,
    /// Port, if one was sent.
    pub port: Option<u16>,
}

/// An authority that is not one: answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the authority is not `HOST` or `HOST:PORT`")]
pub struct InvalidAuthority;

impl<'a> Authority<'a> {
    /// Checks and splits an authority.
    ///
    /// # Errors
    /// When it is empty, holds user information, or characters that no host name holds.
    pub fn parse(text: &'a str) -> Result<Self, InvalidAuthority> {
        let parsed = transport::Authority::parse(text.as_bytes()).map_err(|_| InvalidAuthority)?;
        let (host, port) = (parsed.host(), parsed.port());
        let host = host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(host);
        let has_upper = host.bytes().any(|b| b.is_ascii_uppercase());
        let host = if has_upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) };
        Ok(Self { text, host, port })
    }
}

/// The host of an authority, as [`Authority::host`]; empty: it is none.
pub fn host_of(text: &str) -> Cow<'_, str> {
    Authority::parse(text).map_or(Cow::Borrowed(""), |authority| authority.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lowered_and_ports_split_off() {
        for (text, host, port) in [
            ("a.com", "a.com", None),
            ("A.Com:8080", "a.com", Some(8080)),
            ("10.0.0.1:80", "10.0.0.1", Some(80)),
            ("[::1]:80", "::1", Some(80)),
            ("[FD00::1]", "fd00::1", None),
            ("a_b.com.", "a_b.com.", None),
        ] {
            let parsed = Authority::parse(text).unwrap();
            assert_eq!((&*parsed.host, parsed.port, parsed.text), (host, port, text));
        }
    }

    #[test]
    fn malformed_authorities_are_refused() {
        for text in [
            "", ":80", "a:", "a@b", "a b", "a:b", "a:99999", "a:1:2", "[::1", "[x]", "[::1]x", "a/b", "a,b", "*.a",
            "a:+1", "é",
        ] {
            assert_eq!(Authority::parse(text), Err(InvalidAuthority), "{text}");
        }
    }
}
