//! From a provider's response to its word: which headers count, and which no provider may touch.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use palisade_model::external_authorization::{HttpCheck, NamePattern};

use super::{Allowance, CheckAnswer, Refusal};
use crate::request::changes::HeaderChange;

/// Names a provider wants removed from the request, comma-separated (Envoy).
const REMOVE: &str = "x-envoy-auth-headers-to-remove";
/// More changes than this are no answer.
const MAX_CHANGES: usize = 256;

/// A header change that a provider asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Replace every line.
    Set,
    /// Add a line.
    Append,
}

/// Whether a provider may change a request header: message framing, routing and what is said between proxies are not its business.
pub fn may_change(name: &HeaderName) -> bool {
    let is_framing = matches!(
        *name,
        header::HOST
            | header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::CONNECTION
            | header::UPGRADE
            | header::TE
            | header::TRAILER
    );
    !is_framing && !matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings") && !is_ours(name)
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-palisade-")
}

/// One wish as a change.
///
/// # Errors
/// What no provider may ask for, in words: the answer is then none.
pub fn request_change(name: &str, value: &[u8], wish: Wish) -> Result<HeaderChange, String> {
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` cannot be changed"))?;
    if !may_change(&header) {
        return Err(format!("`{name}` cannot be changed"));
    }
    let value =
        HeaderValue::from_bytes(value).map_err(|_| format!("the value of `{name}` is none that a header has"))?;
    Ok(match wish {
        Wish::Set => HeaderChange::Set(header, value),
        Wish::Append => HeaderChange::Append(header, value),
    })
}

/// A removal; `None` where it is not the provider's to remove (Envoy ignores those).
pub fn removal(name: &str) -> Option<HeaderChange> {
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    may_change(&name).then_some(HeaderChange::Remove(name))
}

/// A response header; `None` where a provider has no say in it.
pub fn response_line(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let value = HeaderValue::from_bytes(value).ok()?;
    may_change(&name).then_some((name, value))
}

/// What an HTTP provider's response means.
pub fn of_http(check: &HttpCheck, status: u16, headers: &HeaderMap, body: Bytes) -> CheckAnswer {
    if headers.len() > MAX_CHANGES {
        return CheckAnswer::Unavailable("the answer has too many headers".into());
    }
    match status {
        200 => allowed(check, headers),
        201..=499 => CheckAnswer::Denied(Refusal { status, headers: denied_lines(check, headers), body }),
        // As Envoy: a provider in trouble has decided nothing.
        _ => CheckAnswer::Unavailable(format!("the provider answered {status}").into()),
    }
}

fn allowed(check: &HttpCheck, headers: &HeaderMap) -> CheckAnswer {
    let mut allowance = Allowance::default();
    for name in headers.keys() {
        let is_upstream = takes(&check.upstream_headers, name);
        let is_downstream = takes(&check.allowed_headers, name);
        for (position, value) in headers.get_all(name).iter().enumerate() {
            let wish = if position == 0 { Wish::Set } else { Wish::Append };
            if is_upstream {
                match request_change(name.as_str(), value.as_bytes(), wish) {
                    Ok(change) => allowance.request.push(change),
                    // Every response has framing headers of its own; a list that names them all does not mean those.
                    Err(_) => continue,
                }
            }
            if is_downstream && may_change(name) {
                allowance.response.push(match wish {
                    Wish::Set => HeaderChange::Set(name.clone(), value.clone()),
                    Wish::Append => HeaderChange::Append(name.clone(), value.clone()),
                });
            }
        }
    }
    for line in headers.get_all(REMOVE) {
        let names = line.to_str().unwrap_or_default().split(',');
        allowance.request.extend(names.filter_map(removal));
    }
    CheckAnswer::Allowed(allowance)
}

fn denied_lines(check: &HttpCheck, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let always = [header::WWW_AUTHENTICATE, header::LOCATION];
    headers
        .iter()
        .filter(|(name, _)| {
            may_change(name)
                && (check.denied_headers.is_empty() || always.contains(name) || takes(&check.denied_headers, name))
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn takes(patterns: &[NamePattern], name: &HeaderName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name.as_str()))
}

/// What a status and headers mean as a gRPC provider's word, for answers that are given without a provider.
pub fn of_grpc_like(status: u16, headers: &[(HeaderName, HeaderValue)]) -> CheckAnswer {
    if status != 200 {
        let headers = headers.iter().filter(|(name, _)| may_change(name)).cloned().collect();
        return CheckAnswer::Denied(Refusal { status, headers, body: Bytes::new() });
    }
    let mut allowance = Allowance::default();
    for (name, value) in headers {
        match request_change(name.as_str(), value.as_bytes(), Wish::Set) {
            Ok(change) => allowance.request.push(change),
            Err(message) => return CheckAnswer::Unavailable(message.into()),
        }
    }
    CheckAnswer::Allowed(allowance)
}
