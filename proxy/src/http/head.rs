//! Between Pingora's headers and the pipeline's facts.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, request::Parts as ReqParts};
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

/// Turns a request as received into the request that goes upstream. Names lose the spelling that they came in, as behind Envoy: keeping it
/// costs a second map, filled name by name.
///
/// # Errors
/// When the rewritten target or authority is none that HTTP can carry.
pub(super) fn write(
    request: &mut RequestHeader,
    head: &UpstreamHead,
    carries: Option<HttpVersion>,
    attempt: u32,
) -> Result<()> {
    let nothing = RequestHeader::build_no_case("GET", b"/", Some(0))?;
    let mut parts = ReqParts::from(std::mem::replace(request, nothing));
    let headers = &mut parts.headers;
    apply(headers, &head.changes);
    if !says(headers, &header::HOST, head.authority.as_bytes()) {
        let authority = HeaderValue::from_str(&head.authority).or_err(ErrorType::InvalidHTTPHeader, "authority")?;
        headers.insert(header::HOST, authority);
    }
    // The hop's own changes say it is the first; most are.
    if !(attempt == 1 && says(headers, &ATTEMPT_COUNT, b"1")) {
        headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempt));
    }
    if let Some(version) = carries {
        let text = if version == HttpVersion::Http10 { "1.0" } else { "1.1" };
        headers.insert(VERSION_HEADER, HeaderValue::from_static(text));
    }
    *request = RequestHeader::from(parts);
    // Most requests go out with the target that they came with.
    if request.uri.authority().is_some() || request.raw_path() != head.target {
        match Uri::try_from(head.target.as_slice()) {
            Ok(uri) => request.set_uri(uri),
            Err(_) => request.set_raw_path(&head.target)?,
        }
    }
    Ok(())
}

/// Whether a request has one line of this name, with this value.
fn says(headers: &HeaderMap, name: &HeaderName, value: &[u8]) -> bool {
    let mut lines = headers.get_all(name).iter();
    lines.next().is_some_and(|line| line.as_bytes() == value) && lines.next().is_none()
}

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// A response header that changes can be applied to.
pub(super) struct Response<'a>(pub(super) &'a mut ResponseHeader);

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
