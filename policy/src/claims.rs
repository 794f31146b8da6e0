//! The claims of a token, flattened for policies.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::{ClaimSet, JwtFacts};

/// Claims whose text is a list with spaces between its items, in every token.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// Deeper objects are left out: no policy key reaches so far.
const MAX_DEPTH: usize = 16;

impl JwtFacts {
    /// What policies see of a verified token. Objects are flattened; texts and the texts of lists count, numbers and booleans never match.
    /// `scope`, `permission` and the claims named in `space_delimited` are split at spaces, at the outermost level only.
    pub fn from_claims(claims: &Map<String, Value>, space_delimited: &[&str]) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let expires = claims.get("exp").and_then(Value::as_f64).filter(|seconds| (0.0..1e15).contains(seconds));
        let mut set = ClaimSet::default();
        for (name, value) in claims {
            let is_delimited = SPACE_DELIMITED.contains(&name.as_str()) || space_delimited.contains(&name.as_str());
            match value {
                Value::String(texts) if is_delimited => {
                    set.declare(&[name]);
                    for text in texts.split(' ').filter(|t| !t.is_empty()) {
                        set.add(&[name], text);
                    }
                }
                _ => flatten(&mut vec![name], value, &mut set),
            }
        }
        Self {
            issuer: text("iss"),
            subject: text("sub"),
            expires: expires.map(|seconds| UNIX_EPOCH + Duration::from_secs_f64(seconds)),
            claims: set,
        }
    }
}

fn flatten<'a>(path: &mut Vec<&'a str>, value: &'a Value, set: &mut ClaimSet) {
    match value {
        Value::Object(fields) if path.len() < MAX_DEPTH => {
            for (name, value) in fields {
                path.push(name);
                flatten(path, value, set);
                path.pop();
            }
        }
        Value::String(text) => set.add(path, text.as_str()),
        Value::Array(items) => {
            set.declare(path);
            for text in items.iter().filter_map(Value::as_str) {
                set.add(path, text);
            }
        }
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) => set.declare(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::claim_key;

    #[test]
    fn claims_are_flattened_as_istio_matches_them() {
        let claims = serde_json::json!({
            "iss": "i", "sub": "s", "exp": 60, "aud": ["a", "b"], "scope": "read  write", "note": "x y", "n": 1,
            "realm": {"roles": ["r", 1, true], "deep": {"er": "v"}}, "a.b": "dotted", "custom": "c d",
        });
        let facts = JwtFacts::from_claims(claims.as_object().unwrap(), &["custom"]);
        assert_eq!((facts.issuer.as_str(), facts.subject.as_str()), ("i", "s"));
        assert_eq!(facts.expires, Some(UNIX_EPOCH + Duration::from_secs(60)));
        let at =
            |path: &[&str]| facts.claims.at(&claim_key(path)).map(|t| t.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(at(&["aud"]), Some(vec!["a", "b"]));
        assert_eq!(at(&["scope"]), Some(vec!["read", "write"]));
        assert_eq!(at(&["custom"]), Some(vec!["c", "d"]));
        assert_eq!(at(&["note"]), Some(vec!["x y"]));
        assert_eq!(at(&["n"]), Some(vec![]));
        assert_eq!(at(&["realm", "roles"]), Some(vec!["r"]));
        assert_eq!(at(&["realm", "deep", "er"]), Some(vec!["v"]));
        assert_eq!(at(&["a.b"]), Some(vec!["dotted"]));
        assert_eq!(at(&["a", "b"]), None);
    }
}
