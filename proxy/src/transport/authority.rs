//! The one authority of a request: what every request must name exactly once, unambiguously, before anything routes on it.

use std::fmt;
use std::net::Ipv6Addr;

use http::Version;
use http::header;
use pingora_core::protocols::http::authority::{RawTargetAuthority, is_http_family_scheme, raw_target_authority};
use pingora_http::RequestHeader;

/// A host and perhaps a port, as the client wrote them, both valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

/// Why a request has no single authority. Answer 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidAuthority {
    /// Neither Host nor a target that names one, on a version that demands it.
    #[error("the request names no host")]
    Missing,
    /// More than one Host field.
    #[error("more than one host field")]
    Duplicate,
    /// Host says another thing than the request target or `:authority`.
    #[error("the host field differs from the request target")]
    Mismatch,
    /// `user@host`.
    #[error("user information in the authority")]
    UserInfo,
    /// An empty host, a character that no host has, a malformed or too long one.
    #[error("malformed host")]
    Host,
    /// An empty, non-decimal or too large port.
    #[error("malformed port")]
    Port,
    /// An absolute request target that parsers read differently.
    #[error("ambiguous request target")]
    Target,
}

/// RFC 1035 section 2.3.4, without the final dot's octet.
const MAX_HOST: usize = 255;

/// The authority of a request, HTTP/1 or HTTP/2. `None`: an HTTP/1.0 request without one.
///
/// Stricter than RFC 9110, which knows empty ports, percent-encoding and user information in hosts: whatever two parsers
/// could read differently is refused.
///
/// # Errors
/// [`InvalidAuthority`].
pub fn of(request: &RequestHeader) -> Result<Option<Authority<'_>>, InvalidAuthority> {
    let mut fields = request.headers.get_all(header::HOST).iter();
    let field = fields.next().map(http::HeaderValue::as_bytes);
    if fields.next().is_some() {
        return Err(InvalidAuthority::Duplicate);
    }
    let target = target_of(request)?;
    match (field, target) {
        (Some(field), Some(target)) if field != target => {
            // Which of the two is the malformed one does not matter.
            Authority::parse(field)?;
            Err(InvalidAuthority::Mismatch)
        }
        (Some(named), _) | (None, Some(named)) => Authority::parse(named).map(Some),
        (None, None) if request.version <= Version::HTTP_10 => Ok(None),
        (None, None) => Err(InvalidAuthority::Missing),
    }
}

/// The authority in an absolute request target, or `:authority`.
fn target_of(request: &RequestHeader) -> Result<Option<&[u8]>, InvalidAuthority> {
    let in_target = match raw_target_authority(request.raw_path()) {
        RawTargetAuthority::None => None,
        RawTargetAuthority::AmbiguousAuthority => return Err(InvalidAuthority::Target),
        RawTargetAuthority::Absolute { scheme, authority, .. } => {
            if !is_http_family_scheme(scheme) {
                return Err(InvalidAuthority::Target);
            }
            Some(authority)
        }
    };
    let in_uri = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (in_target, in_uri) {
        (Some(a), Some(b)) if a != b => Err(InvalidAuthority::Mismatch),
        (Some(named), _) | (None, Some(named)) => Ok(Some(named)),
        (None, None) => Ok(None),
    }
}

impl<'a> Authority<'a> {
    /// Parses `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    /// [`InvalidAuthority`].
    pub fn parse(text: &'a [u8]) -> Result<Self, InvalidAuthority> {
        if text.contains(&b'@') {
            return Err(InvalidAuthority::UserInfo);
        }
        let text = std::str::from_utf8(text).map_err(|_| InvalidAuthority::Host)?;
        let (host, port) = if text.starts_with('[') {
            let (inside, rest) = text.get(1..).and_then(|t| t.split_once(']')).ok_or(InvalidAuthority::Host)?;
            inside.parse::<Ipv6Addr>().map_err(|_| InvalidAuthority::Host)?;
            let host = text.get(..inside.len() + 2).ok_or(InvalidAuthority::Host)?;
            match rest {
                "" => (host, None),
                _ => (host, Some(rest.strip_prefix(':').ok_or(InvalidAuthority::Host)?)),
            }
        } else {
            match text.split_once(':') {
                None => (text, None),
                Some((host, port)) => (host, Some(port)),
            }
        };
        if !host.starts_with('[') && !is_name(host) {
            return Err(InvalidAuthority::Host);
        }
        Ok(Self { host, port: port.map(parse_port).transpose()? })
    }

    /// The host as written, an IPv6 address in its brackets.
    #[must_use]
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// The port, if one was written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// RFC 3986 `reg-name` without percent-encoding and without what lists and patterns are made of.
fn is_name(host: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'+=".contains(&b);
    !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(allowed)
}

fn parse_port(port: &str) -> Result<u16, InvalidAuthority> {
    // `parse` alone would take a sign, and any number of zeros in front.
    if port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidAuthority::Port);
    }
    port.parse().map_err(|_| InvalidAuthority::Port)
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests;
