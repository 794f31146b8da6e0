//! JSON Web Key Sets (RFC 7517), and signatures verified with them.
//!
//! No JOSE library on ring knows ES512, nor lets keys be prepared once; so the format is read here, and the cryptography is ring's,
//! with the `p521` crate for the one curve that ring lacks.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p521::ecdsa::{Signature, VerifyingKey, signature::Verifier as _};
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    TokenStatus,
    jws::{Algorithm, Jws},
};

/// Keys of one set that are looked at: a token without `kid` is tried with each.
const MAX_KEYS: usize = 128;

/// The usable keys of a set.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Box<VerifyingKey>),
    Ed25519(Vec<u8>),
}

/// A key as written. Private members are not read.
#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// The keys of a set, or a single key; those that cannot be used are left out, so that one strange key does not spoil its set.
    pub(super) fn parse(text: &str) -> Self {
        let Ok(set) = serde_json::from_str::<Value>(text) else { return Self::default() };
        let written: Vec<Value> = match set.get("keys") {
            Some(Value::Array(keys)) => keys.iter().take(MAX_KEYS).cloned().collect(),
            Some(_) => Vec::new(),
            None => vec![set],
        };
        let mut keys = Vec::new();
        for value in written {
            let Ok(key) = serde_json::from_value::<WrittenKey>(value) else { continue };
            keys.extend(Key::of(key));
        }
        Self { keys }
    }

    /// Verifies a token's signature: with the key of its `kid`, or with any where either names none; `alg` must agree.
    pub(super) fn verify(&self, token: &Jws<'_>) -> Result<(), TokenStatus> {
        let mut worst = TokenStatus::NoMatchingKey;
        for key in &self.keys {
            let is_other = |wanted: &Option<String>, has: &Option<String>| {
                wanted.as_ref().zip(has.as_ref()).is_some_and(|(wanted, has)| wanted != has)
            };
            let is_for = key.algorithm.as_deref().is_none_or(|name| Algorithm::named(name) == Some(token.algorithm));
            if is_other(&token.key_id, &key.id) || !is_for {
                continue;
            }
            worst = TokenStatus::Unverified;
            if key.material.verifies(token.algorithm, token.signed.as_bytes(), &token.signature) {
                return Ok(());
            }
        }
        Err(worst)
    }
}

impl Key {
    fn of(written: WrittenKey) -> Option<Self> {
        let WrittenKey { kty, kid, alg, usage, crv, n, e, x, y } = written;
        if usage.as_deref() == Some("enc") {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok();
        let point = |size: usize, x: Option<String>, y: Option<String>| {
            let (x, y) = (bytes(x)?, bytes(y)?);
            (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (&*kty, crv.as_deref()) {
            ("RSA", _) => {
                let unpadded = |number: Vec<u8>| {
                    let zeros = number.iter().take_while(|byte| **byte == 0).count();
                    number.get(zeros..).map(<[u8]>::to_vec)
                };
                Material::Rsa { modulus: unpadded(bytes(n)?)?, exponent: unpadded(bytes(e)?)? }
            }
            ("EC", Some("P-256")) => Material::P256(point(32, x, y)?),
            ("EC", Some("P-384")) => Material::P384(point(48, x, y)?),
            ("EC", Some("P-521")) => Material::P521(Box::new(VerifyingKey::from_sec1_bytes(&point(66, x, y)?).ok()?)),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(x).filter(|key| key.len() == 32)?),
            // Symmetric keys in a public document protect nothing.
            _ => return None,
        };
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Self { id: some(kid), algorithm: some(alg), material })
    }
}

impl Material {
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let rsa = |parameters: &'static RsaParameters, modulus: &[u8], exponent: &[u8]| {
            RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
        };
        match (self, algorithm) {
            (Self::Rsa { modulus, exponent }, algorithm) => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => return false,
                };
                rsa(parameters, modulus, exponent)
            }
            (Self::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (Self::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            (Self::P521(key), Algorithm::Es512) => {
                Signature::from_slice(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            (Self::Ed25519(key), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            // Key confusion: a key verifies only what its kind signs.
            (Self::P256(_) | Self::P384(_) | Self::P521(_) | Self::Ed25519(_), _) => false,
        }
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa { modulus: _, exponent: _ } => "Rsa",
            Self::P256(_) => "P256",
            Self::P384(_) => "P384",
            Self::P521(_) => "P521",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}
