//! The one place that makes responses: every answer of the proxy itself leaves through here.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::request::{
    upstream::{DECISION_HEADER, POLICY_HEADER},
    verdict::Answer,
};

/// What the proxy calls itself.
pub const SERVER: HeaderValue = HeaderValue::from_static("palisade");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a caller is told of a denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its id.
    pub decision: String,
    /// The policy that denied, where the caller may know.
    pub policy: Option<Arc<str>>,
}

/// Sends an answer. `told` is all that its caller learns of a denial.
///
/// # Errors
/// When the client has gone.
pub async fn send(session: &mut Session, answer: &Answer, told: Option<&Told>) -> Result<()> {
    let is_head = session.req_header().method == http::Method::HEAD;
    let (header, body) = build(answer, told)?;
    let has_body = !body.is_empty() && !is_head;
    session.write_response_header(Box::new(header), !has_body).await?;
    if has_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// The head and body of an answer. A gRPC refusal is trailers-only: one header block, no body.
fn build(answer: &Answer, told: Option<&Told>) -> Result<(ResponseHeader, Bytes)> {
    let Answer { status, grpc_status, headers, content_type, body } = answer;
    let mut header = ResponseHeader::build(*status, Some(7 + headers.len()))?;
    header.insert_header(header::SERVER, SERVER)?;
    for (name, value) in headers {
        header.append_header(name.clone(), value.clone())?;
    }
    if let Some(Told { decision, policy }) = told {
        header.insert_header(DECISION_HEADER, decision.as_str())?;
        if let Some(policy) = policy {
            header.insert_header(POLICY_HEADER, &**policy)?;
        }
    }
    if let Some(grpc) = grpc_status {
        header.insert_header(header::CONTENT_TYPE, "application/grpc")?;
        header.insert_header(GRPC_STATUS, grpc.to_string())?;
        if !body.is_empty() {
            header.insert_header(GRPC_MESSAGE, percent_encoded(body))?;
        }
        return Ok((header, Bytes::new()));
    }
    if let Some(content_type) = content_type {
        header.insert_header(header::CONTENT_TYPE, &**content_type)?;
    }
    // RFC 9110 section 8.6: no length on statuses that cannot have a body.
    if !matches!(status, 100..=199 | 204 | 304) {
        header.insert_header(header::CONTENT_LENGTH, body.len().to_string())?;
    }
    Ok((header, body.clone()))
}

/// gRPC's `Status-Message`: printable ASCII, `%` encoded.
fn percent_encoded(body: &[u8]) -> String {
    use std::fmt::Write as _;
    body.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use palisade_model::reason::Reason;

    use super::*;

    fn line(header: &ResponseHeader, name: &str) -> Option<String> {
        header.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_denial_says_its_id_and_nothing_else() {
        let answer = Answer::refusal(Reason::AuthzDenied, false, None);
        let told = Told { decision: "abc-def".to_owned(), policy: None };
        let (header, body) = build(&answer, Some(&told)).unwrap();
        assert_eq!(line(&header, "x-palisade-policy"), None);
        assert_eq!((header.status.as_u16(), &*body), (403, &b"RBAC: access denied"[..]));
        assert_eq!(line(&header, "x-palisade-decision").as_deref(), Some("abc-def"));
        assert_eq!(line(&header, "content-type").as_deref(), Some("text/plain"));
        assert_eq!(line(&header, "content-length").as_deref(), Some("19"));
        assert_eq!(line(&header, "server").as_deref(), Some("palisade"));
    }

    #[test]
    fn a_grpc_refusal_is_trailers_only() {
        let answer = Answer::refusal(Reason::AuthzDenied, true, None);
        let (header, body) = build(&answer, None).unwrap();
        assert_eq!(header.status.as_u16(), 200);
        assert_eq!(line(&header, "grpc-status").as_deref(), Some("7"));
        assert_eq!(line(&header, "grpc-message").as_deref(), Some("RBAC: access denied"));
        assert!(body.is_empty());
    }
}
