//! Makes a request header fit for HTTP/2: what Pingora does for its own sessions, and not for a custom connector's.

use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};
use pingora_core::{Error, protocols::http::v1::common::is_upgrade_req};
use pingora_core::{ErrorType, OrErr, Result};
use pingora_http::RequestHeader;

/// RFC 9110 section 7.6.1, and what old clients send in their place.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];
/// Fields that say who sent a request to whom: a client that has them removed by naming them in Connection wants the next
/// hop to see another request than this one did.
const NOT_NOMINABLE: [&str; 5] = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "authorization"];
/// As Pingora: nobody needs more.
const MAX_NOMINATIONS: usize = 10;

/// Rewrites a request for an HTTP/2 connection.
///
/// # Errors
/// A request that cannot be expressed: an upgrade, no authority, or abuse of Connection.
pub(super) fn prepare(request: &mut RequestHeader, is_tls: bool) -> Result<()> {
    if request.version != Version::HTTP_2 {
        if is_upgrade_req(request) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "an upgrade cannot travel over HTTP/2");
        }
        remove_hop_by_hop(request)?;
    }
    // RFC 9113 section 8.2.2: TE may say `trailers` only.
    if request.headers.get(header::TE).is_some_and(|te| !te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        request.remove_header(&header::TE);
    }
    let authority = match request.headers.get(header::HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).or_err(ErrorType::InvalidHTTPHeader, "host")?,
        None => match request.uri.authority() {
            Some(authority) => authority.clone(),
            None => return Error::e_explain(ErrorType::InvalidHTTPHeader, "no authority"),
        },
    };
    let path = if request.method == Method::OPTIONS && request.raw_path() == b"*" {
        PathAndQuery::from_static("*")
    } else {
        request.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
    };
    let uri = Uri::builder()
        // An HTTP/2 client's own scheme would otherwise leak onto a connection of the other kind.
        .scheme(if is_tls { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(authority)
        .path_and_query(path)
        .build()
        .or_err(ErrorType::InvalidHTTPHeader, "request target")?;
    request.remove_header(&header::HOST);
    request.set_uri(uri);
    request.set_version(Version::HTTP_2);
    Ok(())
}

fn remove_hop_by_hop(request: &mut RequestHeader) -> Result<()> {
    let mut nominated = Vec::new();
    for value in request.headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|b| *b == b',') {
            let token = token.trim_ascii();
            if token.is_empty() || token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let name = HeaderName::from_bytes(token).or_err(ErrorType::InvalidHTTPHeader, "Connection")?;
            nominated.push(name);
        }
    }
    if nominated.len() >= MAX_NOMINATIONS || nominated.iter().any(|name| NOT_NOMINABLE.contains(&name.as_str())) {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "Connection names a field that is not its own");
    }
    for name in nominated.iter().chain(&HOP_BY_HOP).filter(|name| **name != header::TE) {
        request.remove_header(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/a?b=c", None).unwrap();
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).unwrap();
        }
        request
    }

    #[test]
    fn an_http1_request_becomes_an_http2_request() {
        let mut r = request(&[
            ("host", "a.example:8080"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "2"),
        ]);
        prepare(&mut r, true).unwrap();
        assert_eq!(r.uri.to_string(), "https://a.example:8080/a?b=c");
        let mut left: Vec<_> = r.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
    }

    #[test]
    fn the_clients_scheme_does_not_leak() {
        let parts = http::Request::builder().version(Version::HTTP_2).uri("https://a.example/x").body(()).unwrap();
        let mut r = RequestHeader::from(parts.into_parts().0);
        prepare(&mut r, false).unwrap();
        assert_eq!(r.uri.to_string(), "http://a.example/x");
    }

    #[test]
    fn an_asterisk_stays_one() {
        let mut r = RequestHeader::build("OPTIONS", b"*", None).unwrap();
        r.append_header("host", "a.example").unwrap();
        prepare(&mut r, false).unwrap();
        assert_eq!((r.uri.path(), r.uri.authority().unwrap().as_str()), ("*", "a.example"));
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        for (name, headers) in [
            ("no authority", vec![("x", "y")]),
            ("upgrade", vec![("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")]),
            ("protected nomination", vec![("host", "a"), ("connection", "x-forwarded-for")]),
            ("host nomination", vec![("host", "a"), ("connection", "Host")]),
            ("malformed nomination", vec![("host", "a"), ("connection", "a b")]),
        ] {
            assert!(prepare(&mut request(&headers), false).is_err(), "{name}");
        }
        let many: Vec<String> = (0..10).map(|i| format!("x{i}")).collect();
        assert!(prepare(&mut request(&[("host", "a"), ("connection", &many.join(","))]), false).is_err());
    }
}
