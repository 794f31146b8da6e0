//! Patterns that Cedar cannot express: the members of `context.matched` and `context.http.matched`.
//!
//! A pattern's text in a policy (`principals=*/ns/foo/*`, `paths=/a/{*}/b`, `headers[x-tenant]=acme-*`) is the whole pattern. It is parsed
//! once, when the policy is loaded, and matched by the code here; user text never becomes a regular expression.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::form::{Form, Template};

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Pattern {
    /// Names of the peer, `spiffe://` understood.
    Principal(Box<str>),
    /// The text between `/ns/` and a later `/`; stars match any text. `pieces`: what must occur in this order.
    Namespace { value: Box<str>, pieces: Box<[Box<str>]> },
    /// `NAMESPACE/ACCOUNT` in any trust domain. `marker`: `/ns/NAMESPACE/`; `inner`: `/sa/ACCOUNT`.
    ServiceAccount { value: Box<str>, marker: Box<str>, inner: Box<str> },
    /// The trust domain of a SPIFFE name.
    TrustDomain(Box<str>),
    /// The path.
    Path { text: Box<str>, template: Template },
    /// A header line.
    Header { name: Box<str>, value: Box<str> },
    /// A text of a claim, by flattened key.
    Claim { key: Box<str>, value: Box<str> },
}

/// Where a pattern is matched, and so which set it may stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatternLevel {
    /// `context.matched`
    Connection,
    /// `context.http.matched`
    Request,
}

/// A text that is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a pattern: {reason}")]
pub(crate) struct InvalidPattern {
    text: String,
    reason: String,
}

impl Pattern {
    /// Parses a pattern's text.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason: &str| InvalidPattern { text: text.to_owned(), reason: reason.to_owned() };
        let non_empty =
            |value: &str| if value.is_empty() { Err(invalid("the value is empty")) } else { Ok(Box::from(value)) };
        if let Some(value) = text.strip_prefix("principals=") {
            return Ok(Self::Principal(non_empty(value)?));
        }
        if let Some(value) = text.strip_prefix("namespaces=") {
            let pieces = format!("/ns/{value}/").split('*').map(Box::from).collect();
            return Ok(Self::Namespace { value: non_empty(value)?, pieces });
        }
        if let Some(value) = text.strip_prefix("serviceAccounts=") {
            let (namespace, account) = value.split_once('/').ok_or_else(|| invalid("NAMESPACE/ACCOUNT is expected"))?;
            let (namespace, account) = (non_empty(namespace)?, non_empty(account)?);
            let (marker, inner) = (format!("/ns/{namespace}/").into(), format!("/sa/{account}").into());
            return Ok(Self::ServiceAccount { value: value.into(), marker, inner });
        }
        if let Some(value) = text.strip_prefix("trustDomains=") {
            return Ok(Self::TrustDomain(non_empty(value)?));
        }
        if let Some(value) = text.strip_prefix("paths=") {
            let template = Template::parse(value).map_err(|reason| invalid(&reason))?;
            return Ok(Self::Path { text: value.into(), template });
        }
        if let Some(rest) = text.strip_prefix("headers[") {
            let (name, value) = rest.split_once("]=").ok_or_else(|| invalid("headers[NAME]=VALUE is expected"))?;
            if name.chars().any(|c| c.is_ascii_uppercase()) {
                return Err(invalid("header names are lower case"));
            }
            return Ok(Self::Header { name: non_empty(name)?, value: non_empty(value)? });
        }
        if let Some(rest) = text.strip_prefix("claims[") {
            let (key, value) = split_claim(rest).ok_or_else(|| invalid("claims[KEY]=VALUE is expected"))?;
            return Ok(Self::Claim { key: non_empty(key)?, value: non_empty(value)? });
        }
        Err(invalid(
            "it starts with none of `principals=`, `namespaces=`, `serviceAccounts=`, `trustDomains=`, `paths=`, `headers[`, `claims[`",
        ))
    }

    /// The set that the pattern belongs into.
    pub(crate) fn level(&self) -> PatternLevel {
        match self {
            Self::Principal(_) | Self::Namespace { .. } | Self::ServiceAccount { .. } | Self::TrustDomain(_) => {
                PatternLevel::Connection
            }
            Self::Path { .. } | Self::Header { .. } | Self::Claim { .. } => PatternLevel::Request,
        }
    }

    /// The value as the user wrote it.
    pub(crate) fn value(&self) -> String {
        match self {
            Self::Principal(value)
            | Self::Namespace { value, .. }
            | Self::ServiceAccount { value, .. }
            | Self::TrustDomain(value)
            | Self::Header { value, .. }
            | Self::Claim { value, .. } => value.to_string(),
            Self::Path { text, .. } => text.to_string(),
        }
    }

    /// Whether one name of a peer's certificate matches; patterns of requests match none.
    pub(crate) fn is_match_name(&self, name: &str) -> bool {
        match self {
            Self::Principal(value) => match Form::of(value) {
                Form::Any => !name.is_empty(),
                form => name.strip_prefix("spiffe://").is_some_and(|rest| form.is_match(rest.as_bytes())),
            },
            Self::Namespace { pieces, .. } => has_in_order(name, pieces),
            Self::ServiceAccount { marker, inner, .. } => has_service_account(name, marker, inner),
            Self::TrustDomain(value) => has_trust_domain(name, value),
            Self::Path { .. } | Self::Header { .. } | Self::Claim { .. } => false,
        }
    }

    /// Whether one text of a header or claim matches.
    pub(crate) fn is_match_text(&self, text: &[u8]) -> bool {
        match self {
            Self::Header { value, .. } | Self::Claim { value, .. } => Form::of(value).is_match(text),
            Self::Path { template, .. } => template.is_match(text),
            Self::Principal(_) | Self::Namespace { .. } | Self::ServiceAccount { .. } | Self::TrustDomain(_) => false,
        }
    }
}

/// Splits `KEY]=VALUE` at the first bracket that no backslash escapes.
fn split_claim(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    for (position, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => return Some((text.get(..position)?, text.get(position..)?.strip_prefix("]=")?)),
            _ => {}
        }
    }
    None
}

/// `.*/ns/VALUE/.*`, where each star of the value is `.*`: the literal pieces occur one after the other.
fn has_in_order(name: &str, pieces: &[Box<str>]) -> bool {
    let mut rest = name;
    for piece in pieces {
        let Some(at) = rest.find(&**piece) else { return false };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    true
}

/// `spiffe://.+/ns/NAMESPACE/(.+/)?sa/ACCOUNT(/.+)?`
fn has_service_account(name: &str, marker: &str, inner: &str) -> bool {
    let Some(rest) = name.strip_prefix("spiffe://") else { return false };
    let ends = |after: &str| after.is_empty() || (after.starts_with('/') && after.len() > 1);
    rest.match_indices(marker).filter(|(at, _)| *at > 0).any(|(at, _)| {
        // From the slash that ends the marker: `/sa/ACCOUNT` directly behind the namespace, or behind at least one character more.
        let tail = rest.get(at + marker.len() - 1..).unwrap_or_default();
        tail.match_indices(inner).any(|(at, text)| at != 1 && ends(tail.get(at + text.len()..).unwrap_or_default()))
    })
}

/// `*`: any SPIFFE name; else the domain, where one leading or trailing star stands for any text without a slash.
fn has_trust_domain(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix("spiffe://") else { return false };
    if value == "*" {
        return true;
    }
    let Some((domain, _)) = rest.split_once('/') else { return false };
    match Form::of(value) {
        Form::Any => true,
        form => form.is_match(domain.as_bytes()),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(value) => write!(f, "principals={value}"),
            Self::Namespace { value, .. } => write!(f, "namespaces={value}"),
            Self::ServiceAccount { value, .. } => write!(f, "serviceAccounts={value}"),
            Self::TrustDomain(value) => write!(f, "trustDomains={value}"),
            Self::Path { text, .. } => write!(f, "paths={text}"),
            Self::Header { name, value } => write!(f, "headers[{name}]={value}"),
            Self::Claim { key, value } => write!(f, "claims[{key}]={value}"),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_istios_regular_expressions_do() {
        let rows = [
            ("principals=*", "CN=a", true),
            ("principals=*", "", false),
            ("principals=cluster.local/ns/foo/*", "spiffe://cluster.local/ns/foo/sa/x", true),
            ("principals=*/sa/x", "spiffe://td/ns/foo/sa/x", true),
            ("principals=*/sa/x", "/sa/x", false),
            ("principals=partner/a*b", "spiffe://partner/a*b", true),
            ("principals=partner/a*b", "spiffe://partner/aXb", false),
            ("namespaces=prod-*", "spiffe://td/ns/prod-a/sa/x", true),
            ("namespaces=prod-*", "spiffe://td/ns/dev/sa/prod-x", false),
            // The star crosses segments, as Istio's `.*` does.
            ("namespaces=*a", "spiffe://td/ns/foo/sa/x", true),
            ("namespaces=f*o", "spiffe://td/ns/foo/sa/x", true),
            ("namespaces=foo", "spiffe://td/ns/foo", false),
            ("serviceAccounts=foo/x", "spiffe://any/ns/foo/sa/x", true),
            ("serviceAccounts=foo/x", "spiffe://any/ns/foo/sa/xy", false),
            ("serviceAccounts=foo/x", "spiffe://any/ns/foo/r/1/sa/x/more", true),
            ("serviceAccounts=foo/x", "spiffe://any/ns/foo/sa/x/", false),
            ("serviceAccounts=foo/x", "spiffe:///ns/foo/sa/x", false),
            ("trustDomains=*", "spiffe://any", true),
            ("trustDomains=*.example", "spiffe://a.example/x", true),
            ("trustDomains=a*", "spiffe://a.example/x", true),
            ("trustDomains=a*", "spiffe://b/a", false),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(Pattern::parse(pattern).unwrap().is_match_name(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn texts_round_trip_and_broken_ones_are_refused() {
        for text in ["principals=a*", "paths=/a/{*}", "headers[x]=]=*", r"claims[a\]b.c]=v*", "serviceAccounts=a/b"] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "principals=",
            "paths=/a",
            "headers[X]=a*",
            "headers[]=a",
            "claims[a=b",
            "serviceAccounts=a",
            "other=x",
        ] {
            let parsed = Pattern::parse(text);
            assert!(parsed.is_err() || text == "paths=/a", "{text}");
        }
    }
}
