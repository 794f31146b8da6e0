//! Between Pingora's headers and the pipeline's facts.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri, Version, header};
use pingora_core::{ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::stream::OwnedRequest;
use crate::request::{
    changes::{Headers, apply},
    connection::{Admitted, Mode},
    facts::HttpVersion,
    upstream::VERSION_HEADER,
    verdict::UpstreamHead,
};

/// Reads the head of a request. `odd`: its target as it came, where Pingora was shown another.
pub(super) fn read(header: &RequestHeader, odd: Option<Bytes>, admitted: &Admitted) -> OwnedRequest {
    let authority = match (header.uri.authority(), header.headers.get(header::HOST)) {
        (Some(authority), _) => Bytes::copy_from_slice(authority.as_str().as_bytes()),
        (None, Some(host)) => Bytes::copy_from_slice(host.as_bytes()),
        (None, None) => Bytes::new(),
    };
    let target = odd.unwrap_or_else(|| Bytes::copy_from_slice(header.raw_path()));
    let is_tls = matches!(admitted.mode, Mode::Mtls | Mode::TlsTerminated);
    let scheme = match header.uri.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ if is_tls => "https",
        _ => "http",
    };
    let mut headers = header.headers.clone();
    // One Host, checked against the target, when the header was received.
    headers.remove(header::HOST);
    let version = version_of(header, admitted);
    OwnedRequest { method: header.method.clone(), scheme, authority, target, version, headers }
}

/// The version that the application meets: what the other sidecar's client spoke, where it rode HTTP/2 between us.
fn version_of(header: &RequestHeader, admitted: &Admitted) -> HttpVersion {
    let version = match header.version {
        Version::HTTP_2 => HttpVersion::Http2,
        Version::HTTP_10 | Version::HTTP_09 => HttpVersion::Http10,
        _ => HttpVersion::Http11,
    };
    if admitted.mode != Mode::Mtls {
        return version;
    }
    match header.headers.get(&VERSION_HEADER).map(HeaderValue::as_bytes) {
        Some(b"1.1") => HttpVersion::Http11,
        Some(b"1.0") => HttpVersion::Http10,
        _ => version,
    }
}

/// Turns a request as received into the request that goes upstream.
///
/// # Errors
/// When the rewritten target or authority is none that HTTP can carry.
pub(super) fn write(
    request: &mut RequestHeader,
    head: &UpstreamHead,
    carries: Option<HttpVersion>,
    attempt: u32,
) -> Result<()> {
    // Most requests go out with the target that they came with.
    if request.uri.authority().is_some() || request.raw_path() != head.target {
        match Uri::try_from(head.target.as_slice()) {
            Ok(uri) => request.set_uri(uri),
            Err(_) => request.set_raw_path(&head.target)?,
        }
    }
    apply(&mut Request(request), &head.changes);
    let is_named = says(request, header::HOST.as_str(), head.authority.as_bytes());
    if !is_named {
        request.insert_header("Host", head.authority.as_str()).or_err(ErrorType::InvalidHTTPHeader, "authority")?;
    }
    // The hop's own changes say it is the first; most are.
    let is_counted = attempt == 1 && says(request, ATTEMPT_COUNT, b"1");
    if !is_counted {
        request.insert_header(ATTEMPT_COUNT, HeaderValue::from(attempt))?;
    }
    if let Some(version) = carries {
        let text = if version == HttpVersion::Http10 { "1.0" } else { "1.1" };
        request.insert_header(VERSION_HEADER, text)?;
    }
    Ok(())
}

/// Whether a request has one line of this name, with this value.
fn says(request: &RequestHeader, name: &str, value: &[u8]) -> bool {
    let mut lines = request.headers.get_all(name).iter();
    lines.next().is_some_and(|line| line.as_bytes() == value) && lines.next().is_none()
}

const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";

/// Names that nearly every request gets.
const OF_EVERY_HOP: [&str; 6] = [
    "x-forwarded-for",
    "x-envoy-external-address",
    "x-forwarded-proto",
    "x-request-id",
    ATTEMPT_COUNT,
    "x-forwarded-client-cert",
];

/// A request header that changes can be applied to.
struct Request<'a>(&'a mut RequestHeader);

/// A response header that changes can be applied to.
pub(super) struct Response<'a>(pub(super) &'a mut ResponseHeader);

impl Headers for Request<'_> {
    fn remove(&mut self, name: &HeaderName) {
        self.0.remove_header(name);
    }

    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        // A name and value of these types are accepted always; Pingora's signature is wider than ours.
        let _ = match OF_EVERY_HOP.iter().find(|own| **own == name.as_str()) {
            // Spares a copy of the name.
            Some(own) => self.0.insert_header(*own, value.clone()),
            None => self.0.insert_header(name.clone(), value.clone()),
        };
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        let _ = self.0.append_header(name.clone(), value.clone());
    }
}

impl Headers for Response<'_> {
    fn remove(&mut self, name: &HeaderName) {
        self.0.remove_header(name);
    }

    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        let _ = self.0.insert_header(name.clone(), value.clone());
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        let _ = self.0.append_header(name.clone(), value.clone());
    }
}
