//! Forgeries and bytes that nobody meant as a token.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::hmac;

use super::*;

fn refused(verifier: &TokenVerifier, token: &str) -> TokenStatus {
    judge(verifier, &bearer(token)).map(|_| ()).unwrap_err()
}

#[test]
fn forged_headers_never_verify() {
    let signer = Signer::rs256();
    let jwk = signer.jwk();
    let verifier = verifier(vec![rule("a", &signer)]);
    let payload = claims("a").to_string();
    for (name, header, expected) in [
        ("none", r#"{"alg":"none"}"#, TokenStatus::AlgorithmUnsupported),
        ("None", r#"{"alg":"None"}"#, TokenStatus::AlgorithmUnsupported),
        ("no alg", "{}", TokenStatus::AlgorithmMissing),
        ("alg is no text", r#"{"alg":1}"#, TokenStatus::AlgorithmMissing),
        ("kid is no text", r#"{"alg":"RS256","kid":1}"#, TokenStatus::KeyIdType),
        ("another kid", r#"{"alg":"RS256","kid":"x"}"#, TokenStatus::NoMatchingKey),
        ("crit", r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, TokenStatus::CriticalUnsupported),
        ("crit that names nothing", r#"{"alg":"RS256","crit":[]}"#, TokenStatus::CriticalUnsupported),
        ("alg twice", r#"{"alg":"none","alg":"RS256"}"#, TokenStatus::HeaderJson),
        ("no object", "[]", TokenStatus::HeaderJson),
    ] {
        assert_eq!(refused(&verifier, &signer.token_of(header, &payload)), expected, "{name}");
    }
    let unsigned = signer.token_of(r#"{"alg":"none"}"#, &payload);
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    assert_eq!(refused(&verifier, &format!("{unsigned}.")), TokenStatus::BadFormat);
    // Key confusion: the public key as the secret of a symmetric algorithm.
    for secret in [jwk.to_string(), jwk["n"].as_str().unwrap().to_owned()] {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(&payload));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
        assert_eq!(refused(&verifier, &token), TokenStatus::AlgorithmUnsupported);
    }
    let symmetric = TokenRule { keys: r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.into(), ..rule("a", &signer) };
    let symmetric = super::verifier(vec![symmetric]);
    assert_eq!(refused(&symmetric, &signer.token(&claims("a"))), TokenStatus::NoMatchingKey);
}

#[test]
fn claims_of_another_type_or_written_twice_are_refused() {
    let signer = Signer::es256();
    let verifier = verifier(vec![rule("a", &signer)]);
    let header = r#"{"alg":"ES256"}"#;
    for (payload, expected) in [
        (r#"{"iss":"x","iss":"a"}"#, TokenStatus::PayloadJson),
        (r#"{"iss":"a","sub":"s","sub":"admin"}"#, TokenStatus::PayloadJson),
        (r#"{"iss":"a","x":{"y":1,"y":2}}"#, TokenStatus::PayloadJson),
        (r#"{"iss":["a"]}"#, TokenStatus::ClaimType("Jwt payload [iss] field is not a string")),
        (r#"{"iss":"a","sub":1}"#, TokenStatus::ClaimType("Jwt payload [sub] field is not a string")),
        (r#"{"iss":"a","exp":"1"}"#, TokenStatus::ClaimType("Jwt payload [exp] field is not an integer")),
        (r#"{"iss":"a","exp":-1}"#, TokenStatus::ClaimType("Jwt payload [exp] field is not a positive 64 bit integer")),
        (
            r#"{"iss":"a","exp":1e300}"#,
            TokenStatus::ClaimType("Jwt payload [exp] field is not a positive 64 bit integer"),
        ),
        (r#"{"iss":"a","aud":[1]}"#, TokenStatus::ClaimType("Jwt payload [aud] field is not a string or string list")),
        ("null", TokenStatus::PayloadJson),
    ] {
        assert_eq!(refused(&verifier, &signer.token_of(header, payload)), expected, "{payload}");
    }
}

#[test]
fn several_tokens_in_one_place_are_none() {
    let signer = Signer::es256();
    let verifier = verifier(vec![rule("a", &signer)]);
    let token = signer.token(&claims("a"));
    let mut headers = bearer(&token);
    headers.append(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    assert_eq!(issuer_of(judge(&verifier, &headers)), Err(TokenStatus::Several));
    let query = format!("access_token=x&access%5ftoken={token}");
    assert_eq!(issuer_of(judge_at(&verifier, &HeaderMap::new(), &query, NOW)), Err(TokenStatus::Several));
}

#[test]
fn huge_tokens_are_refused_unread() {
    let signer = Signer::es256();
    let verifier = verifier(vec![rule("a", &signer)]);
    let claims = json!({"iss": "a", "x": "y".repeat(MAX_TOKEN_BYTES)});
    assert_eq!(refused(&verifier, &signer.token(&claims)), TokenStatus::BadFormat);
}

#[test]
fn malformed_keys_verify_nothing() {
    let signer = Signer::es256();
    for keys in [
        "",
        "{",
        "[]",
        r#"{"keys":{}}"#,
        r#"{"keys":[null,1,{}]}"#,
        r#"{"keys":[{"kty":"RSA","n":"","e":""}]}"#,
        r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#,
        r#"{"keys":[{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}]}"#,
        r#"{"keys":[{"kty":"OKP","crv":"Ed448","x":"AA"}]}"#,
    ] {
        let one = verifier(vec![TokenRule { keys: keys.into(), ..rule("a", &signer) }]);
        assert!(judge(&one, &bearer(&signer.token(&claims("a")))).is_err(), "{keys}");
    }
}

proptest! {
    /// No bytes panic, and none of them is a token.
    #[test]
    fn arbitrary_texts_never_verify(text in "[\\x20-\\x7e]{0,200}", query in "[\\x20-\\x7e]{0,100}") {
        let verifier = verifier(vec![rule("", &Signer::ed25519())]);
        if let Ok(value) = HeaderValue::from_str(&text) {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.clone());
            headers.insert(header::COOKIE, value);
            let judged = judge_at(&verifier, &headers, &query, NOW);
            prop_assert!(judged.map_or(true, |authenticated| authenticated.facts.is_none()));
        }
    }

    /// A token with any of its bytes changed is refused.
    #[test]
    fn a_changed_token_never_verifies(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9._-]") {
        let signer = Signer::ed25519();
        let token = signer.token(&claims("a"));
        let at = at.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != token);
        let verifier = verifier(vec![rule("a", &signer)]);
        prop_assert!(judge(&verifier, &bearer(&changed)).is_err(), "{changed}");
    }

    /// Parts of tokens in any combination do not panic.
    #[test]
    fn parts_of_tokens_never_panic(header in "[{}\":,a-z0-9\\[\\]]{0,40}", payload in "[{}\":,a-z0-9\\[\\]]{0,40}") {
        let token = Signer::ed25519().token_of(&header, &payload);
        let _ = judge(&verifier(vec![rule("", &Signer::ed25519())]), &bearer(&token));
    }
}
