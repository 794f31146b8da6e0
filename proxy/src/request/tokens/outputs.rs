//! What verified claims write into headers.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderName, HeaderValue};
use palisade_model::authentication::{ClaimHeader, TokenRule};
use serde_json::{Map, Value};

use crate::request::changes::HeaderChange;

/// Adds the headers of a rule. `payload` is the token's own text; without it the claims are encoded anew.
pub(super) fn write(
    rule: &TokenRule,
    claims: &Map<String, Value>,
    payload: Option<&str>,
    changes: &mut Vec<HeaderChange>,
) {
    for ClaimHeader { header, claim } in rule.claim_headers.iter() {
        if let Some(text) = find(claims, claim).and_then(text_of) {
            set(header, &text, changes);
        }
    }
    if let Some(header) = &rule.payload_header {
        let encoded = payload.map(str::to_owned);
        // Objects of JSON always have a text.
        let encoded = encoded.or_else(|| serde_json::to_vec(claims).ok().map(|json| URL_SAFE_NO_PAD.encode(json)));
        if let Some(encoded) = encoded {
            set(header, &encoded, changes);
        }
    }
}

/// Claims with what no header can carry are left out; nothing of the client's stands in their place.
fn set(name: &str, text: &str, changes: &mut Vec<HeaderChange>) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(text)) {
        changes.push(HeaderChange::Set(name, value));
    }
}

/// A claim by its name, where dots lead into objects; a claim whose own name has dots is found where that leads nowhere.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut path = name.split('.');
    let first = path.next().and_then(|first| claims.get(first));
    let nested = first.and_then(|first| path.try_fold(first, |value, part| value.get(part)));
    nested.or_else(|| claims.get(name))
}

/// A claim's text: numbers and booleans as written, lists and objects as base64 of their JSON (Envoy).
fn text_of(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(_) | Value::Object(_) => STANDARD.encode(serde_json::to_vec(value).ok()?),
    };
    (!text.is_empty()).then_some(text)
}
