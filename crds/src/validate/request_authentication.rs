//! RequestAuthentication.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::policy_target;
use crate::codes::Code;
use crate::istio::{JwtRule, RequestAuthentication};
use crate::schema::Cursor;

const CODE: Code = Code::RequestAuthenticationRule;

pub(super) fn check(policy: &RequestAuthentication, cursor: &mut Cursor<'_>) {
    policy_target::selector(policy.selector.as_ref(), cursor);
    policy_target::targets(policy.target_ref.as_ref(), &policy.target_refs, CODE, cursor);
    cursor.within("jwtRules", |cursor| {
        for (index, rule) in policy.jwt_rules.iter().enumerate() {
            cursor.within(index, |cursor| check_rule(rule, cursor));
        }
    });
}

fn check_rule(rule: &JwtRule, cursor: &mut Cursor<'_>) {
    if rule.issuer.is_none() && rule.jwks_uri.is_none() && rule.jwks_uri_proto.is_none() {
        cursor.report(CODE, "`issuer` or `jwksUri` must be set");
    }
    super::duration("timeout", rule.timeout, CODE, cursor);
    let Some(jwks) = rule.jwks.as_deref().filter(|jwks| !jwks.is_empty()) else { return };
    match keys(jwks) {
        Err(message) => cursor.report_at("jwks", CODE, message),
        Ok(keys) => {
            for (index, key) in keys.iter().enumerate() {
                let is_secret = key.get("d").is_some() || key.get("kty").and_then(Value::as_str) == Some("oct");
                if is_secret {
                    let message = format!("key {index} contains private material; only public keys are used");
                    cursor.report_at("jwks", Code::RequestAuthenticationWarning, message);
                }
            }
        }
    }
}

/// The keys of a key set, or the single key.
fn keys(jwks: &str) -> Result<Vec<Value>, String> {
    let set: Value = serde_json::from_str(jwks).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
    let keys = match set.get("keys") {
        Some(Value::Array(keys)) => keys.clone(),
        Some(_) => return Err("not a JSON Web Key Set: `keys` is not a list".to_owned()),
        None if set.get("kty").is_some() => vec![set],
        None => return Err("not a JSON Web Key Set: `keys` is missing".to_owned()),
    };
    for (index, key) in keys.iter().enumerate() {
        let required: &[&str] = match key.get("kty").and_then(Value::as_str) {
            Some("RSA") => &["n", "e"],
            Some("EC") => &["x", "y"],
            Some("OKP") => &["x"],
            Some("oct") => &["k"],
            _ => return Err(format!("not a JSON Web Key Set: key {index} has no known `kty`")),
        };
        for member in required {
            let text = key.get(member).and_then(Value::as_str).map(|text| text.trim_end_matches('='));
            if text.is_none_or(|text| text.is_empty() || URL_SAFE_NO_PAD.decode(text).is_err()) {
                return Err(format!("not a JSON Web Key Set: key {index} has no valid `{member}`"));
            }
        }
    }
    Ok(keys)
}
