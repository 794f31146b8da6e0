//! Where tokens stand in a request, and how they are taken out of it.

use std::{borrow::Cow, cmp::Ordering};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use palisade_model::authentication::TokenLocation;
use percent_encoding::percent_decode;

use super::{Authenticated, TokenRequest};
use crate::request::changes::HeaderChange;

/// What one place holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Located<'a> {
    Nothing,
    /// Which of several is meant cannot be known: an application might read another than we do.
    Several,
    Token(Cow<'a, str>),
}

/// Looks at one place.
pub(super) fn find<'a>(location: &TokenLocation, request: &TokenRequest<'a>) -> Located<'a> {
    match location {
        TokenLocation::Header { name, prefix } => in_header(request.headers, name, prefix),
        TokenLocation::Query(name) => {
            let found =
                parameters(request.query.unwrap_or_default()).filter(|(key, _)| decoded(key) == name.as_bytes());
            // What is no text is no token either, but it is there.
            one(found.map(|(_, value)| Cow::Owned(String::from_utf8_lossy(&decoded(value)).into_owned())))
        }
        TokenLocation::Cookie(name) => {
            let found = cookies(request.headers).filter(|(key, _)| *key == name.as_bytes());
            one(found.map(|(_, value)| Cow::Owned(String::from_utf8_lossy(unquoted(value)).into_owned())))
        }
    }
}

fn one<'a>(mut found: impl Iterator<Item = Cow<'a, str>>) -> Located<'a> {
    match (found.next(), found.next()) {
        (None, _) => Located::Nothing,
        (Some(token), None) => Located::Token(token),
        (Some(_), Some(_)) => Located::Several,
    }
}

fn in_header<'a>(headers: &'a HeaderMap, name: &str, prefix: &str) -> Located<'a> {
    let mut found = headers.get_all(name).iter().filter_map(|line| {
        let text = String::from_utf8_lossy(line.as_bytes());
        if prefix.is_empty() {
            return Some(text);
        }
        // As Envoy: the prefix may stand anywhere, and all that follows is the token, from its first possible character on.
        let after = text.find(prefix)? + prefix.len();
        let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let rest = text.get(after..).unwrap_or_default();
        let Some(start) = rest.find(is_token) else { return Some(text) };
        Some(Cow::Owned(rest.get(start..).unwrap_or_default().to_owned()))
    });
    let first = found.next();
    match (first, found.next()) {
        (None, _) => Located::Nothing,
        (Some(token), None) => Located::Token(token),
        (Some(_), Some(_)) => Located::Several,
    }
}

fn parameters(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    })
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(text).into()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default().trim_ascii();
        (name, parts.next().unwrap_or_default().trim_ascii())
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// Takes the tokens at these places out of what goes on.
pub(super) fn remove(places: &[&TokenLocation], request: &TokenRequest<'_>, authenticated: &mut Authenticated) {
    let (mut parameters, mut named_cookies) = (Vec::new(), Vec::new());
    for place in places {
        match place {
            TokenLocation::Header { name, prefix: _ } => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    authenticated.changes.push(HeaderChange::Remove(name));
                }
            }
            TokenLocation::Query(name) => parameters.push(name.as_bytes()),
            TokenLocation::Cookie(name) => named_cookies.push(name.as_bytes()),
        }
    }
    if !parameters.is_empty() {
        let query = request.query.unwrap_or_default();
        let kept = query.split(|byte| *byte == b'&').filter(|pair| {
            let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            !parameters.contains(&&*decoded(key))
        });
        authenticated.query = Some(kept.collect::<Vec<_>>().join(&b'&'));
    }
    if !named_cookies.is_empty() {
        let kept: Vec<Vec<u8>> = cookies(request.headers)
            .filter(|(key, value)| !named_cookies.contains(key) && (!key.is_empty() || !value.is_empty()))
            .map(|(key, value)| [key, value].join(&b'='))
            .collect();
        let line = (!kept.is_empty()).then(|| HeaderValue::from_bytes(&kept.join(&b"; "[..])));
        authenticated.changes.push(match line {
            Some(Ok(line)) => HeaderChange::Set(header::COOKIE, line),
            Some(Err(_)) | None => HeaderChange::Remove(header::COOKIE),
        });
    }
}

/// The order in which places are read, as Envoy: headers, then parameters, then cookies, each by name.
pub(super) fn order(a: &TokenLocation, b: &TokenLocation) -> Ordering {
    let key = |location: &TokenLocation| match location {
        TokenLocation::Header { name, prefix } => (0, format!("{name}{prefix}")),
        TokenLocation::Query(name) => (1, name.to_string()),
        TokenLocation::Cookie(name) => (2, name.to_string()),
    };
    key(a).cmp(&key(b))
}
