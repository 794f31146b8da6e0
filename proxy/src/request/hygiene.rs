//! What of a request must be said once and in one way before anything rests on it: authority, target, length of the body,
//! fields that belong to one connection. The same for `eval` and for live requests of every version.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};

use super::facts::{HttpVersion, Request};
use crate::transport::{MAX_TARGET, is_length};

/// Where a request says that it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed<'a> {
    /// The authority; empty = none, which HTTP/1.0 may leave out.
    pub authority: &'a [u8],
    /// The target in origin form, not normalised.
    pub target: Cow<'a, [u8]>,
}

/// Why a request is answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousRequest {
    /// Host fields beside the authority, or another authority in the target.
    #[error("the request names more than one host")]
    Host,
    /// Neither origin form, nor absolute form on HTTP/1, or longer than any URI may be.
    #[error("malformed request target")]
    Target,
    /// Lengths and codings of which the body's end follows in two ways.
    #[error("ambiguous body length")]
    Framing,
    /// `Connection` has fields removed that say who sends what to whom, or too many.
    #[error("the Connection field names what is not its own")]
    Nomination,
    /// A field that HTTP/2 does not know.
    #[error("a connection-specific field in HTTP/2")]
    ConnectionSpecific,
    /// CONNECT, which makes a tunnel and not a request.
    #[error("CONNECT is not served")]
    Connect,
}

/// As Envoy and Pingora: nobody needs more.
const MAX_NOMINATIONS: usize = 10;

/// Fields that say who sends what to whom, where a body ends, or who vouches: a client that has one of them removed by naming
/// it in `Connection` wants the next hop to see another request than the one that was judged.
const PROTECTED: [HeaderName; 5] =
    [header::HOST, header::AUTHORIZATION, header::COOKIE, header::CONTENT_LENGTH, header::CONTENT_TYPE];
/// The same for families of fields.
const PROTECTED_PREFIXES: [&str; 4] = ["x-forwarded-", "x-envoy-", "x-palisade-", "x-request-id"];

/// Fields that concern one HTTP/1 connection (RFC 9113 section 8.2.2).
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Checks a request and finds out where it says that it goes.
///
/// # Errors
/// [`AmbiguousRequest`].
pub fn check<'a>(request: &Request<'a>) -> Result<Addressed<'a>, AmbiguousRequest> {
    if request.method == "CONNECT" {
        return Err(AmbiguousRequest::Connect);
    }
    let is_http2 = request.version == HttpVersion::Http2;
    framing(request.headers, request.version)?;
    if is_http2 {
        connection_specific(request.headers)?;
    } else {
        nominations(request.headers)?;
    }
    host_fields(request, is_http2)?;
    if request.target.len() > MAX_TARGET {
        return Err(AmbiguousRequest::Target);
    }
    let target = request.target;
    if matches!(target.first(), Some(b'/')) || target == b"*" {
        // The URI type of HTTP/2 takes no others.
        let is_whole = !is_http2 || http::uri::PathAndQuery::try_from(target).is_ok();
        let addressed = Addressed { authority: request.authority, target: Cow::Borrowed(target) };
        return if is_whole { Ok(addressed) } else { Err(AmbiguousRequest::Target) };
    }
    if is_http2 { Err(AmbiguousRequest::Target) } else { absolute_form(request) }
}

/// `http://HOST[:PORT][/PATH][?QUERY]` (RFC 9112 section 3.2.2). Its authority must be that of the Host field.
fn absolute_form<'a>(request: &Request<'a>) -> Result<Addressed<'a>, AmbiguousRequest> {
    let target = request.target;
    let colon = memchr::memchr(b':', target).ok_or(AmbiguousRequest::Target)?;
    let (scheme, rest) = target.split_at_checked(colon).ok_or(AmbiguousRequest::Target)?;
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(AmbiguousRequest::Target);
    }
    let rest = rest.strip_prefix(b"://").ok_or(AmbiguousRequest::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(AmbiguousRequest::Target)?;
    if authority.is_empty() {
        return Err(AmbiguousRequest::Target);
    }
    if !request.authority.is_empty() && request.authority != authority {
        return Err(AmbiguousRequest::Host);
    }
    let target = match path.first() {
        Some(b'/') => Cow::Borrowed(path),
        // RFC 9112 section 3.2.4.
        None if request.method == "OPTIONS" => Cow::Borrowed(&b"*"[..]),
        None => Cow::Borrowed(&b"/"[..]),
        Some(_) => Cow::Owned([b"/", path].concat()),
    };
    Ok(Addressed { authority, target })
}

/// A `host` field beside `:authority` must say the same; HTTP/1's one Host field is the authority itself.
fn host_fields(request: &Request<'_>, is_http2: bool) -> Result<(), AmbiguousRequest> {
    let mut fields = request.headers.get_all(header::HOST).iter();
    let Some(field) = fields.next() else { return Ok(()) };
    if is_http2 && fields.next().is_none() && field.as_bytes() == request.authority {
        return Ok(());
    }
    Err(AmbiguousRequest::Host)
}

/// RFC 9112 section 6.3: one length, or `chunked`, or neither.
fn framing(headers: &HeaderMap, version: HttpVersion) -> Result<(), AmbiguousRequest> {
    let has_length = match single(headers, &header::CONTENT_LENGTH)? {
        Some(length) if !is_length(length) => return Err(AmbiguousRequest::Framing),
        length => length.is_some(),
    };
    match single(headers, &header::TRANSFER_ENCODING)? {
        None => Ok(()),
        // Codings beside `chunked` would be lost on the way, and servers differ in what they take for `chunked`.
        Some(coding) if !has_length && version == HttpVersion::Http11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(())
        }
        Some(_) => Err(AmbiguousRequest::Framing),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, AmbiguousRequest> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next().map(http::HeaderValue::as_bytes);
    if lines.next().is_some() { Err(AmbiguousRequest::Framing) } else { Ok(first) }
}

fn connection_specific(headers: &HeaderMap) -> Result<(), AmbiguousRequest> {
    let is_trailers = |te: &http::HeaderValue| te.as_bytes().eq_ignore_ascii_case(b"trailers");
    if CONNECTION_SPECIFIC.iter().any(|name| headers.contains_key(name))
        || headers.get_all(header::TE).iter().any(|te| !is_trailers(te))
    {
        return Err(AmbiguousRequest::ConnectionSpecific);
    }
    Ok(())
}

/// What `Connection` may have removed: fields of the sender's own, few of them.
fn nominations(headers: &HeaderMap) -> Result<(), AmbiguousRequest> {
    let lines = headers.get_all(header::CONNECTION);
    let tokens = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut count = 0;
    for token in tokens.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty()) {
        count += 1;
        if [&b"close"[..], b"keep-alive", b"upgrade"].iter().any(|own| token.eq_ignore_ascii_case(own)) {
            continue;
        }
        // `:authority` and the like are no field names either.
        let name = HeaderName::from_bytes(token).map_err(|_| AmbiguousRequest::Nomination)?;
        let is_protected =
            PROTECTED.contains(&name) || PROTECTED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
        if is_protected {
            return Err(AmbiguousRequest::Nomination);
        }
    }
    if count >= MAX_NOMINATIONS { Err(AmbiguousRequest::Nomination) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use AmbiguousRequest as A;
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn request<'a>(version: HttpVersion, target: &'a str, headers: &'a HeaderMap) -> Request<'a> {
        Request {
            method: "GET",
            scheme: "http",
            authority: b"a.example",
            target: target.as_bytes(),
            version,
            headers,
            jwt: None,
        }
    }

    #[test]
    fn targets_have_one_form_per_version() {
        let none = HeaderMap::new();
        for (target, http1, http2) in [
            ("/a?b", Ok("/a?b"), Ok("/a?b")),
            ("http://a.example/x?y", Ok("/x?y"), Err(A::Target)),
            ("HTTP://a.example", Ok("/"), Err(A::Target)),
            ("https://a.example?q", Ok("/?q"), Err(A::Target)),
            ("http://b.example/", Err(A::Host), Err(A::Target)),
            ("http://u@a.example/", Err(A::Host), Err(A::Target)),
            ("http:///x", Err(A::Target), Err(A::Target)),
            ("http:/a.example/x", Err(A::Target), Err(A::Target)),
            ("ftp://a.example/", Err(A::Target), Err(A::Target)),
            ("admin", Err(A::Target), Err(A::Target)),
            ("a.example:80", Err(A::Target), Err(A::Target)),
            ("", Err(A::Target), Err(A::Target)),
            ("/<", Ok("/<"), Err(A::Target)),
        ] {
            for (version, expected) in [(HttpVersion::Http11, http1), (HttpVersion::Http2, http2)] {
                let request = request(version, target, &none);
                let found = check(&request).map(|a| String::from_utf8(a.target.into_owned()).unwrap());
                assert_eq!(found, expected.map(str::to_owned), "{target} in {version:?}");
            }
        }
        let options = Request { method: "OPTIONS", ..request(HttpVersion::Http11, "http://a.example", &none) };
        assert_eq!(&*check(&options).unwrap().target, b"*");
        let connect = Request { method: "CONNECT", ..request(HttpVersion::Http11, "a.example:80", &none) };
        assert_eq!(check(&connect), Err(A::Connect));
    }

    #[test]
    fn fields_that_two_servers_read_differently_are_refused() {
        let long = (0..10).map(|i| format!("x{i}")).collect::<Vec<_>>().join(",");
        for (lines, expected) in [
            (&[("host", "a.example")][..], Err(A::Host)),
            (&[("content-length", "1"), ("content-length", "1")], Err(A::Framing)),
            (&[("content-length", "1, 1")], Err(A::Framing)),
            (&[("content-length", "")], Err(A::Framing)),
            (&[("content-length", "1"), ("transfer-encoding", "chunked")], Err(A::Framing)),
            (&[("transfer-encoding", "gzip, chunked")], Err(A::Framing)),
            (&[("transfer-encoding", "Chunked")], Ok(())),
            (&[("connection", "close, keep-alive, Upgrade, te, x-mine")], Ok(())),
            (&[("connection", "Host")], Err(A::Nomination)),
            (&[("connection", "x"), ("connection", "content-length")], Err(A::Nomination)),
            (&[("connection", ":authority")], Err(A::Nomination)),
            (&[("connection", "X-Forwarded-Client-Cert")], Err(A::Nomination)),
            (&[("connection", "authorization")], Err(A::Nomination)),
            (&[("connection", "a b")], Err(A::Nomination)),
            (&[("connection", long.as_str())], Err(A::Nomination)),
        ] {
            let map = headers(lines);
            assert_eq!(check(&request(HttpVersion::Http11, "/", &map)).map(drop), expected, "{lines:?}");
        }
    }

    #[test]
    fn fields_of_one_connection_are_malformed_in_http2() {
        for (lines, expected) in [
            (&[("host", "a.example")][..], Ok(())),
            (&[("host", "b.example")], Err(A::Host)),
            (&[("host", "a.example"), ("host", "a.example")], Err(A::Host)),
            (&[("connection", "close")], Err(A::ConnectionSpecific)),
            (&[("te", "trailers")], Ok(())),
            (&[("te", "gzip")], Err(A::ConnectionSpecific)),
            (&[("transfer-encoding", "chunked")], Err(A::Framing)),
        ] {
            let map = headers(lines);
            assert_eq!(check(&request(HttpVersion::Http2, "/", &map)).map(drop), expected, "{lines:?}");
        }
    }
}
