//! Tokens signed in tests, with every algorithm.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p521::ecdsa::signature::Signer as _;
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

const P521_SCALAR: [u8; 66] = {
    let mut scalar = [1; 66];
    scalar[0] = 0;
    scalar
};
const RSA: &[u8] = include_bytes!("../../../tls/testdata/rsa-2048-leaf-key.pem");

pub(super) enum Signer {
    Rsa(&'static str, RsaKeyPair, &'static dyn RsaEncoding),
    Ec(&'static str, &'static str, EcdsaKeyPair),
    P521(p521::ecdsa::SigningKey),
    Ed25519(Ed25519KeyPair),
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa(name: &'static str, encoding: &'static dyn RsaEncoding) -> Signer {
    let key = PrivateKeyDer::from_pem_slice(RSA).unwrap();
    let pair = match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => panic!("an RSA key"),
    };
    Signer::Rsa(name, pair.unwrap(), encoding)
}

fn ec(name: &'static str, curve: &'static str, algorithm: &'static signature::EcdsaSigningAlgorithm) -> Signer {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    Signer::Ec(name, curve, EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
}

impl Signer {
    pub(super) fn all() -> Vec<Self> {
        vec![
            rsa("RS256", &signature::RSA_PKCS1_SHA256),
            rsa("RS384", &signature::RSA_PKCS1_SHA384),
            rsa("RS512", &signature::RSA_PKCS1_SHA512),
            rsa("PS256", &signature::RSA_PSS_SHA256),
            rsa("PS384", &signature::RSA_PSS_SHA384),
            rsa("PS512", &signature::RSA_PSS_SHA512),
            Self::es256(),
            ec("ES384", "P-384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::P521(p521::ecdsa::SigningKey::from_slice(&P521_SCALAR).unwrap()),
            Self::ed25519(),
        ]
    }

    pub(super) fn es256() -> Self {
        ec("ES256", "P-256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub(super) fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    pub(super) fn rs256() -> Self {
        rsa("RS256", &signature::RSA_PKCS1_SHA256)
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(name, _, _) | Self::Ec(name, _, _) => name,
            Self::P521(_) => "ES512",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    pub(super) fn jwk(&self) -> Value {
        let alg = self.algorithm();
        match self {
            Self::Rsa(_, pair, _) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "alg": alg, "kid": "k", "n": encode(&public.n), "e": encode(&public.e)})
            }
            Self::Ec(_, curve, pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "alg": alg, "kid": "k", "x": encode(x), "y": encode(y)})
            }
            Self::P521(key) => {
                let point = p521::ecdsa::VerifyingKey::from(key).to_encoded_point(false);
                let (x, y) = (point.x().unwrap(), point.y().unwrap());
                json!({"kty": "EC", "crv": "P-521", "alg": alg, "kid": "k", "x": encode(x), "y": encode(y)})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "alg": alg, "kid": "k", "x": encode(pair.public_key().as_ref())})
            }
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(_, pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(_, _, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::P521(key) => {
                let signature: p521::ecdsa::Signature = key.sign(message);
                signature.to_vec()
            }
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with this header and payload, as they stand.
    pub(super) fn token_of(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
        let signature = encode(&self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "kid": "k", "typ": "JWT"});
        self.token_of(&header.to_string(), &claims.to_string())
    }
}
