//! What a service passes on from the request it serves to the requests it makes.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The user the page is shown to.
pub(crate) const END_USER: HeaderName = HeaderName::from_static("end-user");

/// Trace context in the formats that meshes use, the request id, and what identifies the user.
const FORWARDED: [&str; 17] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "end-user",
    "user-agent",
    "authorization",
];

/// The headers for calls made on behalf of a request with `headers`. A cookie `user=NAME` becomes `end-user: NAME`
/// unless that header is there already.
pub(crate) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = HeaderMap::new();
    for name in FORWARDED {
        for value in headers.get_all(name) {
            forwarded.append(HeaderName::from_static(name), value.clone());
        }
    }
    for value in headers.get_all(header::COOKIE) {
        forwarded.append(header::COOKIE, value.clone());
    }
    if !forwarded.contains_key(END_USER)
        && let Some(user) = cookie_user(headers)
    {
        forwarded.insert(END_USER, user);
    }
    forwarded
}

/// The user's name as the page shows it.
pub(crate) fn user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(END_USER).cloned().or_else(|| cookie_user(headers))?;
    value.to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn cookie_user(headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix("user="))
        .find(|name| !name.is_empty())
        .and_then(|name| HeaderValue::from_str(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_cookie_becomes_the_end_user_header() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("theme=dark; user=jason"));
        assert_eq!(forwarded(&headers).get(END_USER).unwrap(), "jason");
        assert_eq!(user(&headers).as_deref(), Some("jason"));
    }

    #[test]
    fn a_written_end_user_header_wins_over_the_cookie() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("user=jason"));
        headers.insert(END_USER, HeaderValue::from_static("mary"));
        assert_eq!(forwarded(&headers).get(END_USER).unwrap(), "mary");
    }

    #[test]
    fn trace_context_is_passed_on_and_the_host_is_not() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static("00-1-2-01"));
        headers.insert(header::HOST, HeaderValue::from_static("productpage"));
        let forwarded = forwarded(&headers);
        assert!(forwarded.contains_key("traceparent"));
        assert!(!forwarded.contains_key(header::HOST));
    }
}
