//! One signed token, parsed (RFC 7515 compact form, RFC 7519 claims), before anything in it is believed.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{TokenStatus, json};

/// Longer tokens are refused unread.
pub(super) const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Signature algorithms. Symmetric ones and `none` are not among them, so that no key can be taken for a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// A token's parts.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// Header and payload as sent: what was signed.
    pub(super) signed: &'a str,
    pub(super) signature: Vec<u8>,
    /// The payload as sent.
    pub(super) payload: &'a str,
    pub(super) claims: Map<String, Value>,
    /// Empty when absent.
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    /// Unix seconds; 0 when absent.
    pub(super) not_before: u64,
    /// Unix seconds; 0 when absent: it never expires.
    pub(super) expires: u64,
}

impl Algorithm {
    /// The algorithm of an `alg` value.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

impl<'a> Jws<'a> {
    /// Parses a token.
    ///
    /// # Errors
    /// The first thing that is wrong, in Envoy's order.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenStatus> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenStatus::BadFormat);
        };
        // Envoy does not count empty sections.
        if [header, payload, signature].iter().any(|section| section.is_empty()) {
            return Err(TokenStatus::BadFormat);
        }
        let decoded = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenStatus::HeaderEncoding)?;
        let fields = json::object(&decoded).ok_or(TokenStatus::HeaderJson)?;
        let name = fields.get("alg").and_then(Value::as_str).ok_or(TokenStatus::AlgorithmMissing)?;
        let algorithm = Algorithm::named(name).ok_or(TokenStatus::AlgorithmUnsupported)?;
        let key_id = match fields.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(TokenStatus::KeyIdType),
        };
        // RFC 7515 section 4.1.11: nothing that it could name is understood here.
        if fields.contains_key("crit") {
            return Err(TokenStatus::CriticalUnsupported);
        }
        let decoded = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenStatus::PayloadEncoding)?;
        let claims = json::object(&decoded).ok_or(TokenStatus::PayloadJson)?;
        let issuer = text(&claims, "iss", "Jwt payload [iss] field is not a string")?;
        text(&claims, "sub", "Jwt payload [sub] field is not a string")?;
        seconds(
            &claims,
            "iat",
            "Jwt payload [iat] field is not an integer",
            "Jwt payload [iat] field is not a positive 64 bit integer",
        )?;
        let not_before = seconds(
            &claims,
            "nbf",
            "Jwt payload [nbf] field is not an integer",
            "Jwt payload [nbf] field is not a positive 64 bit integer",
        )?;
        let expires = seconds(
            &claims,
            "exp",
            "Jwt payload [exp] field is not an integer",
            "Jwt payload [exp] field is not a positive 64 bit integer",
        )?;
        text(&claims, "jti", "Jwt payload [jti] field is not a string")?;
        let audiences = audiences(&claims)?;
        let signature_bytes = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenStatus::SignatureEncoding)?;
        let signed_bytes = header.len() + 1 + payload.len();
        Ok(Self {
            algorithm,
            key_id,
            signed: token.get(..signed_bytes).ok_or(TokenStatus::BadFormat)?,
            signature: signature_bytes,
            payload,
            issuer,
            audiences,
            not_before,
            expires,
            claims,
        })
    }
}

fn text(claims: &Map<String, Value>, name: &str, wrong: &'static str) -> Result<String, TokenStatus> {
    match claims.get(name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(TokenStatus::ClaimType(wrong)),
    }
}

fn seconds(
    claims: &Map<String, Value>,
    name: &str,
    wrong: &'static str,
    negative: &'static str,
) -> Result<u64, TokenStatus> {
    let number = match claims.get(name) {
        None => return Ok(0),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(TokenStatus::ClaimType(wrong)),
    };
    if let Some(whole) = number.as_u64() {
        return Ok(whole);
    }
    match number.as_f64() {
        // Fractions of a second are cut off, as Envoy does.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= value < 2^63")]
        Some(value) if (0.0..9.2e18).contains(&value) => Ok(value as u64),
        Some(_) | None => Err(TokenStatus::ClaimType(negative)),
    }
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, TokenStatus> {
    const WRONG: TokenStatus = TokenStatus::ClaimType("Jwt payload [aud] field is not a string or string list");
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(audience)) => Ok(vec![audience.clone()]),
        Some(Value::Array(items)) => items.iter().map(|item| item.as_str().map(str::to_owned).ok_or(WRONG)).collect(),
        Some(_) => Err(WRONG),
    }
}
