//! Checks over HTTP: the request's head, as far as the provider is to see it, and what its answer says.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use palisade_model::external_authorization::HttpCheck;

use super::{AskError, connect::Client};
use crate::request::external::{CheckAnswer, QuestionHead, ShownBody, answer};

/// Tells a provider whether the body goes on (Envoy).
pub(super) const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// Body of a refusal that is passed on.
const MAX_BODY_BYTES: usize = 64 * 1024;

pub(super) async fn check(
    client: Client,
    check: &HttpCheck,
    head: &QuestionHead,
    body: Option<&ShownBody>,
) -> Result<(CheckAnswer, HeaderMap), AskError> {
    let failed = |error: &dyn std::fmt::Display| AskError::Call(error.to_string());
    let path = [check.path_prefix.as_bytes(), &head.target].concat();
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(&*check.service.host)
        .path_and_query(path.as_slice())
        .build()
        .map_err(|error| failed(&error))?;
    let shown = body.map(|body| body.bytes.clone()).unwrap_or_default();
    let length = shown.len();
    let mut request = Request::new(tonic::body::Body::new(Full::new(shown)));
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).map_err(|error| failed(&error))?;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers_for(check, head).map_err(|error| failed(&error))?;
    request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if let Some(body) = body {
        let partial = HeaderValue::from_static(if body.is_partial { "true" } else { "false" });
        request.headers_mut().insert(PARTIAL_BODY, partial);
    }
    let response = client.request(request).await.map_err(|error| failed(&with_cause(&error)))?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| AskError::Call(error.to_string()))?;
    let body: Bytes = body.to_bytes();
    let answer = answer::of_http(check, parts.status.as_u16(), &parts.headers, body);
    Ok((answer, parts.headers))
}

fn headers_for(check: &HttpCheck, head: &QuestionHead) -> Result<HeaderMap, http::Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let is_sent = *name == header::AUTHORIZATION
            || check.request_headers.iter().any(|pattern| pattern.matches(name.as_str()));
        if is_sent && answer::may_change(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    for (name, value) in check.added_headers.iter() {
        headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
    }
    headers.insert(header::HOST, HeaderValue::from_str(&head.authority)?);
    Ok(headers)
}

/// An error with what is behind it, in one line.
pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
