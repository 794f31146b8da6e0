//! Keys that tokens are verified with: where they come from, and what of them proxies are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use palisade_crds::istio::JwtRule;
use serde_json::{Map, Value};

use crate::inputs::Inputs;

/// Members of a key that are public and used.
const PUBLIC: [&str; 9] = ["kty", "kid", "alg", "use", "crv", "n", "e", "x", "y"];
/// Keys of one set that proxies look at.
const MAX_KEYS: usize = 128;

/// Where a rule's keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// The key set itself.
    Uri(Arc<str>),
    /// What the OpenID configuration of an issuer names.
    Issuer(Arc<str>),
}

/// What is known of fetched keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchedKeys {
    /// The last good key set; `None` = there never was one, or it is too old.
    pub keys: Option<Arc<str>>,
    /// Why the last fetch failed; `None` = it did not.
    pub error: Option<Arc<str>>,
}

/// Fetched keys by source. A source that is not there has not been asked yet.
pub type Keys = BTreeMap<KeySource, FetchedKeys>;

impl KeySource {
    /// The source of a rule's keys; `None` where they are written in the rule, or cannot be found.
    pub(crate) fn of(rule: &JwtRule) -> Option<Self> {
        if rule.jwks.as_deref().is_some_and(|jwks| !jwks.is_empty()) {
            return None;
        }
        let uri = rule.jwks_uri.as_deref().or(rule.jwks_uri_proto.as_deref()).filter(|uri| !uri.is_empty());
        if let Some(uri) = uri {
            return Some(Self::Uri(uri.into()));
        }
        let issuer = rule.issuer.as_deref()?;
        let is_url = issuer.starts_with("https://") || issuer.starts_with("http://");
        is_url.then(|| Self::Issuer(issuer.into()))
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(uri) => f.write_str(uri),
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
        }
    }
}

/// The sources of all rules of the documents.
pub fn key_sources(inputs: &Inputs) -> BTreeSet<KeySource> {
    let rules = inputs.request_authentications.values().flat_map(|document| &document.spec.jwt_rules);
    rules.filter_map(KeySource::of).collect()
}

/// The public keys of a set, or of a single key, as a set; `None` when there are none.
pub fn public_keys(text: &str) -> Option<String> {
    let set: Value = serde_json::from_str(text).ok()?;
    let written: Vec<&Value> = match set.get("keys") {
        Some(Value::Array(keys)) => keys.iter().collect(),
        Some(_) => return None,
        None => vec![&set],
    };
    let keys: Vec<Value> = written
        .into_iter()
        .filter_map(Value::as_object)
        .filter(|key| is_whole(key))
        .take(MAX_KEYS)
        .map(|key| {
            let public =
                PUBLIC.iter().filter_map(|name| key.get(*name).map(|value| ((*name).to_owned(), value.clone())));
            Value::Object(public.collect::<Map<_, _>>())
        })
        .collect();
    (!keys.is_empty()).then(|| serde_json::json!({ "keys": keys }).to_string())
}

/// Whether a key is a public one with all that it takes to verify with it. What its algorithms can do is the proxy's to know.
fn is_whole(key: &Map<String, Value>) -> bool {
    let text = |name: &str| key.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let members: &[&str] = match text("kty") {
        Some("RSA") => &["n", "e"],
        Some("EC") => &["crv", "x", "y"],
        Some("OKP") => &["crv", "x"],
        Some(_) | None => return false,
    };
    members.iter().all(|name| text(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_symmetric_keys_stay_behind() {
        let keys =
            public_keys(r#"{"keys": [{"kty": "RSA", "n": "a", "e": "b", "d": "secret"}, {"kty": "oct", "k": "s"}]}"#);
        assert_eq!(keys.as_deref(), Some(r#"{"keys":[{"kty":"RSA","n":"a","e":"b"}]}"#));
        assert_eq!(public_keys(r#"{"keys": [{"kty": "oct", "k": "s"}]}"#), None);
        for text in [
            "no keys",
            "{}",
            "[]",
            r#"{"keys": []}"#,
            r#"{"keys": {}}"#,
            r#"{"keys": [1, null, {}]}"#,
            r#"{"keys": [{"kty": "RSA", "n": "a"}]}"#,
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": 1}]}"#,
            r#"{"keys": [{"kty": "none"}]}"#,
        ] {
            assert_eq!(public_keys(text), None, "{text}");
        }
        assert!(public_keys(r#"{"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}"#).is_some(), "a single key");
    }
}
