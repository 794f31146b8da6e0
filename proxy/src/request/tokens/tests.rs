//! Istio's cases of tokens, by behaviour, and what may never verify.

mod attacks;
mod fuzz;
#[path = "../../../../policy/src/tests/inputs.rs"]
mod inputs;
mod signer;

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use palisade_model::authentication::{Authentication, ClaimHeader, TokenLocation, TokenRule};
use serde_json::{Value, json};

use self::signer::Signer;
use super::*;

const NOW: u64 = 1_800_000_000;

fn rule(issuer: &str, signer: &Signer) -> TokenRule {
    TokenRule {
        issuer: (!issuer.is_empty()).then(|| issuer.into()),
        audiences: [].into(),
        keys: json!({ "keys": [signer.jwk()] }).to_string().into(),
        locations: default_locations().into(),
        forwards_token: false,
        payload_header: None,
        claim_headers: [].into(),
        space_delimited: [].into(),
        is_required: false,
    }
}

fn verifier(rules: Vec<TokenRule>) -> TokenVerifier {
    TokenVerifier::new(&Authentication { key: "t".into(), rules: rules.into(), refuse_tokens: None })
}

fn claims(issuer: &str) -> Value {
    json!({ "iss": issuer, "sub": "s", "aud": ["api"], "exp": NOW + 100 })
}

fn lines(of: &[(&'static str, String)]) -> HeaderMap {
    of.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn bearer(token: &str) -> HeaderMap {
    lines(&[("authorization", format!("Bearer {token}"))])
}

fn judge_at(
    verifier: &TokenVerifier,
    headers: &HeaderMap,
    query: &str,
    now: u64,
) -> Result<Authenticated, TokenStatus> {
    let query = (!query.is_empty()).then_some(query.as_bytes());
    let now = UNIX_EPOCH + Duration::from_secs(now);
    verifier.judge(&TokenRequest { method: "GET", headers, query, now })
}

fn judge(verifier: &TokenVerifier, headers: &HeaderMap) -> Result<Authenticated, TokenStatus> {
    judge_at(verifier, headers, "", NOW)
}

fn issuer_of(judged: Result<Authenticated, TokenStatus>) -> Result<Option<String>, TokenStatus> {
    judged.map(|authenticated| authenticated.facts.map(|facts| facts.issuer))
}

#[test]
fn every_algorithm_verifies_and_only_with_its_own_kind_of_key() {
    let signers = Signer::all();
    for signer in &signers {
        for verifying in &signers {
            let token = signer.token(&claims("i"));
            let judged = judge(&verifier(vec![rule("i", verifying)]), &bearer(&token));
            let is_same = signer.algorithm() == verifying.algorithm();
            assert_eq!(judged.is_ok(), is_same, "{} by {}", signer.algorithm(), verifying.algorithm());
        }
    }
}

#[test]
fn istios_cases() {
    let (a, b) = (Signer::es256(), Signer::ed25519());
    let audience = TokenRule { audiences: ["https://api/".into()].into(), ..rule("aud", &a) };
    let one = verifier(vec![rule("a", &a)]);
    let two = verifier(vec![rule("a", &a), rule("b", &b)]);
    let wanted = verifier(vec![audience]);
    let of = |issuer: &str, change: Value| {
        let mut claims = claims(issuer);
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims
    };
    let ok = |issuer: &str| Ok(Some(issuer.to_owned()));
    for (name, verifier, headers, expected) in [
        ("no token passes", &one, HeaderMap::new(), Ok(None)),
        ("another scheme is no token", &one, lines(&[("authorization", "Basic YTpi".to_owned())]), Ok(None)),
        ("a valid token", &one, bearer(&a.token(&claims("a"))), ok("a")),
        ("not a token", &one, bearer("invalid"), Err(TokenStatus::BadFormat)),
        ("nothing behind the scheme", &one, bearer("!"), Err(TokenStatus::BadFormat)),
        ("another issuer", &one, bearer(&a.token(&claims("x"))), Err(TokenStatus::UnknownIssuer)),
        ("no issuer", &one, bearer(&a.token(&json!({"sub": "s"}))), Err(TokenStatus::UnknownIssuer)),
        ("another's key", &one, bearer(&b.token(&claims("a"))), Err(TokenStatus::NoMatchingKey)),
        ("expired", &one, bearer(&a.token(&of("a", json!({"exp": NOW - 61})))), Err(TokenStatus::Expired)),
        ("expired within the skew", &one, bearer(&a.token(&of("a", json!({"exp": NOW - 60})))), ok("a")),
        ("not yet", &one, bearer(&a.token(&of("a", json!({"nbf": NOW + 61})))), Err(TokenStatus::NotYetValid)),
        ("soon", &one, bearer(&a.token(&of("a", json!({"nbf": NOW + 60})))), ok("a")),
        ("fractions of a second", &one, bearer(&a.token(&of("a", json!({"exp": 1_800_000_100.5})))), ok("a")),
        ("never expires", &one, bearer(&a.token(&json!({"iss": "a"}))), ok("a")),
        ("the second of two issuers", &two, bearer(&b.token(&claims("b"))), ok("b")),
        ("the first's key for the second", &two, bearer(&a.token(&claims("b"))), Err(TokenStatus::NoMatchingKey)),
        ("neither of two issuers", &two, bearer(&a.token(&claims("c"))), Err(TokenStatus::UnknownIssuer)),
        ("audience without scheme and slash", &wanted, bearer(&a.token(&claims("aud"))), ok("aud")),
        (
            "another audience",
            &wanted,
            bearer(&a.token(&of("aud", json!({"aud": "web"})))),
            Err(TokenStatus::AudienceNotAllowed),
        ),
        ("no audience", &wanted, bearer(&a.token(&json!({"iss": "aud"}))), Err(TokenStatus::AudienceNotAllowed)),
    ] {
        assert_eq!(issuer_of(judge(verifier, &headers)), expected, "{name}");
        assert_eq!(issuer_of(judge(verifier, &headers)), expected, "{name}, seen before");
    }
}

#[test]
fn a_remembered_token_still_expires() {
    let signer = Signer::es256();
    let (one, headers) = (verifier(vec![rule("a", &signer)]), bearer(&signer.token(&claims("a"))));
    assert!(judge(&one, &headers).is_ok());
    assert_eq!(issuer_of(judge_at(&one, &headers, "", NOW + 161)), Err(TokenStatus::Expired));
    assert!(judge_at(&one, &headers, "", NOW + 160).is_ok());
}

#[test]
fn places_that_are_named_replace_the_usual_ones() {
    let signer = Signer::es256();
    let locations = [
        TokenLocation::Header { name: "x-jwt".into(), prefix: "Token ".into() },
        TokenLocation::Header { name: "x-plain".into(), prefix: "".into() },
        TokenLocation::Query("tok".into()),
        TokenLocation::Cookie("session".into()),
    ];
    let named = verifier(vec![TokenRule { locations: locations.into(), ..rule("a", &signer) }]);
    let token = signer.token(&claims("a"));
    let found = |headers: HeaderMap, query: &str| {
        issuer_of(judge_at(&named, &headers, query, NOW)).map(|issuer| issuer.is_some())
    };
    assert_eq!(found(bearer(&token), ""), Ok(false), "the usual place counts no more");
    assert_eq!(found(HeaderMap::new(), &format!("access_token={token}")), Ok(false));
    assert_eq!(found(lines(&[("x-jwt", format!("Token {token}"))]), ""), Ok(true));
    assert_eq!(found(lines(&[("x-jwt", token.clone())]), ""), Ok(false), "without its prefix");
    assert_eq!(found(lines(&[("x-plain", token.clone())]), ""), Ok(true));
    assert_eq!(found(HeaderMap::new(), &format!("a=1&tok={token}")), Ok(true));
    assert_eq!(found(lines(&[("cookie", format!("a=1; session={token}; b=2"))]), ""), Ok(true));
    assert_eq!(found(lines(&[("cookie", "session=bad".to_owned())]), ""), Err(TokenStatus::BadFormat));
}

#[test]
fn every_token_that_a_rule_looks_at_must_be_good() {
    let signer = Signer::es256();
    let locations = [
        TokenLocation::Cookie("c".into()),
        TokenLocation::Query("b".into()),
        TokenLocation::Query("a".into()),
        TokenLocation::Header { name: "x-b".into(), prefix: "".into() },
        TokenLocation::Header { name: "x-a".into(), prefix: "".into() },
    ];
    let of = |issuer: &str| TokenRule { locations: locations.clone().into(), ..rule(issuer, &signer) };
    let (one, two) = (verifier(vec![of("")]), verifier(vec![of("first"), rule("a", &signer)]));
    let good = |issuer: &str| signer.token(&claims(issuer));
    let old = signer.token(&json!({"iss": "a", "exp": NOW - 100}));
    for (name, verifier, headers, query, expected) in [
        ("both good", &one, lines(&[("x-b", good("2")), ("x-a", good("1"))]), String::new(), Ok("1")),
        ("headers before parameters", &one, lines(&[("x-b", good("2"))]), format!("a={}", good("1")), Ok("2")),
        ("parameters by name", &one, HeaderMap::new(), format!("b={}&a={}", good("2"), good("1")), Ok("1")),
        ("the second is old", &one, HeaderMap::new(), format!("a={}&b={old}", good("1")), Err(TokenStatus::Expired)),
        ("the first is old", &one, HeaderMap::new(), format!("b={}&a={old}", good("1")), Err(TokenStatus::Expired)),
        (
            "the cookie is old",
            &one,
            lines(&[("cookie", format!("c={old}"))]),
            format!("a={}", good("1")),
            Err(TokenStatus::Expired),
        ),
        (
            "bad beside good",
            &one,
            lines(&[("x-a", good("1")), ("x-b", "bad".to_owned())]),
            String::new(),
            Err(TokenStatus::BadFormat),
        ),
        (
            "of another rule's place",
            &two,
            lines(&[("x-a", "bad".to_owned()), ("authorization", format!("Bearer {}", good("a")))]),
            String::new(),
            Ok("a"),
        ),
    ] {
        let judged = issuer_of(judge_at(verifier, &headers, &query, NOW));
        assert_eq!(judged, expected.map(|issuer| Some(issuer.to_owned())), "{name}");
    }
    let headers = lines(&[("x-a", good("1")), ("cookie", format!("k=v; c={}", good("1")))]);
    let judged = judge_at(&one, &headers, &format!("a={0}&q&b={0}", good("1")), NOW).unwrap();
    assert_eq!(judged.query.as_deref(), Some(&b"q"[..]));
    let cookie = HeaderChange::Set(header::COOKIE, HeaderValue::from_static("k=v"));
    assert_eq!(judged.changes, [HeaderChange::Remove(HeaderName::from_static("x-a")), cookie]);
}

#[test]
fn what_follows_a_token_spoils_it() {
    let signer = Signer::es256();
    let (one, token) = (verifier(vec![rule("a", &signer)]), signer.token(&claims("a")));
    for (text, is_good) in [
        (format!("Bearer   {token}"), true),
        (format!("Basic x, Bearer {token}"), true),
        (format!("Bearer {token}, Bearer {token}"), false),
        (format!("Bearer {token} x"), false),
        (format!("Bearer {token},"), false),
    ] {
        assert_eq!(judge(&one, &lines(&[("authorization", text.clone())])).is_ok(), is_good, "{text}");
    }
}

#[test]
fn tokens_of_two_issuers_pass_side_by_side_while_both_are_good() {
    let signer = Signer::es256();
    let both = verifier(vec![rule("a", &signer), rule("b", &signer)]);
    let (a, b) = (signer.token(&claims("a")), signer.token(&claims("b")));
    let judged = judge_at(&both, &bearer(&a), &format!("access_token={b}&x=1"), NOW).unwrap();
    assert_eq!(judged.changes, [HeaderChange::Remove(header::AUTHORIZATION)]);
    assert_eq!(judged.query.as_deref(), Some(&b"x=1"[..]), "both are taken out");
    assert!(judged.facts.is_some());
    for bad in [signer.token(&claims("c")), "garbage".to_owned()] {
        assert!(judge_at(&both, &bearer(&a), &format!("access_token={bad}"), NOW).is_err());
        assert!(judge_at(&both, &bearer(&bad), &format!("access_token={b}"), NOW).is_err());
    }
}

#[test]
fn tokens_are_taken_out_unless_they_are_forwarded() {
    let signer = Signer::es256();
    let token = signer.token(&claims("a"));
    let removes = verifier(vec![rule("a", &signer)]);
    let keeps = verifier(vec![TokenRule { forwards_token: true, ..rule("a", &signer) }]);
    let removed = HeaderChange::Remove(header::AUTHORIZATION);
    assert_eq!(judge(&removes, &bearer(&token)).unwrap().changes, [removed]);
    assert_eq!(judge(&keeps, &bearer(&token)).unwrap().changes, []);
    let query = format!("a=%20b&access_token={token}&c");
    let judged = judge_at(&removes, &HeaderMap::new(), &query, NOW).unwrap();
    assert_eq!(judged.query.as_deref(), Some(&b"a=%20b&c"[..]), "the rest of the query stays as it is");
    assert_eq!(judge_at(&keeps, &HeaderMap::new(), &query, NOW).unwrap().query, None);
    let cookie = TokenRule { locations: [TokenLocation::Cookie("t".into())].into(), ..rule("a", &signer) };
    let judged = judge(&verifier(vec![cookie]), &lines(&[("cookie", format!("a=1; t={token}; b=2"))])).unwrap();
    assert_eq!(judged.changes, [HeaderChange::Set(header::COOKIE, HeaderValue::from_static("a=1; b=2"))]);
}

#[test]
fn claims_become_headers_and_clients_cannot_forge_them() {
    let signer = Signer::es256();
    let claim = |header: &str, claim: &str| ClaimHeader { header: header.into(), claim: claim.into() };
    let writes = TokenRule {
        payload_header: Some("x-payload".into()),
        claim_headers: [
            claim("x-sub", "sub"),
            claim("x-n", "n"),
            claim("x-yes", "yes"),
            claim("x-role", "realm.role"),
            claim("x-dotted", "a.b"),
            claim("x-list", "list"),
            claim("x-none", "none"),
            claim("x-break", "break"),
        ]
        .into(),
        ..rule("a", &signer)
    };
    let token = signer.token(&json!({
        "iss": "a", "sub": "me", "n": 7, "yes": true, "realm": {"role": "r"}, "a.b": "d", "list": ["x"], "break": "a\r\nb",
    }));
    let verifier = verifier(vec![writes]);
    let mut headers = bearer(&token);
    for name in ["x-sub", "x-none", "x-break", "x-payload"] {
        headers.insert(name, HeaderValue::from_static("forged"));
    }
    let judged = judge(&verifier, &headers).unwrap();
    super::super::changes::apply(&mut headers, &judged.changes);
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    for (name, expected) in [
        ("x-sub", Some("me")),
        ("x-n", Some("7")),
        ("x-yes", Some("true")),
        ("x-role", Some("r")),
        ("x-dotted", Some("d")),
        ("x-list", Some("WyJ4Il0=")),
        ("x-none", None),
        ("x-break", None),
    ] {
        assert_eq!(text(name).as_deref(), expected, "{name}");
    }
    assert_eq!(text("x-payload").as_deref(), token.split('.').nth(1));
    for (name, method, headers) in [
        ("without a token", "GET", lines(&[("x-sub", "forged".to_owned())])),
        (
            "in a preflight",
            "OPTIONS",
            lines(&[
                ("x-sub", "forged".to_owned()),
                ("origin", "https://a".to_owned()),
                ("access-control-request-method", "GET".to_owned()),
            ]),
        ),
    ] {
        let request = TokenRequest { method, headers: &headers, query: None, now: UNIX_EPOCH };
        let changes = verifier.judge(&request).unwrap().changes;
        assert_eq!(changes, [HeaderChange::Remove(HeaderName::from_static("x-sub"))], "{name}");
    }
}

#[test]
fn preflights_are_not_judged() {
    let signer = Signer::es256();
    let verifier = verifier(vec![TokenRule { is_required: true, ..rule("a", &signer) }]);
    let mut headers = bearer("bad");
    headers.insert(header::ORIGIN, HeaderValue::from_static("https://a.example"));
    headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
    let of = |method| verifier.judge(&TokenRequest { method, headers: &headers, query: None, now: UNIX_EPOCH });
    assert!(of("OPTIONS").is_ok_and(|passed| passed.facts.is_none()));
    assert_eq!(issuer_of(of("GET")), Err(TokenStatus::BadFormat));
}

#[test]
fn a_required_token_must_be_there() {
    let (a, b) = (Signer::es256(), Signer::ed25519());
    let required = TokenRule { is_required: true, ..rule("b", &b) };
    let both = verifier(vec![rule("a", &a), required]);
    assert_eq!(issuer_of(judge(&both, &HeaderMap::new())), Err(TokenStatus::Missing));
    assert!(judge(&both, &bearer(&b.token(&claims("b")))).is_ok());
}

#[test]
fn without_keys_every_token_is_refused() {
    let signer = Signer::es256();
    let token = bearer(&signer.token(&claims("a")));
    let none = verifier(vec![TokenRule { keys: "".into(), ..rule("a", &signer) }]);
    assert_eq!(issuer_of(judge(&none, &token)), Err(TokenStatus::NoMatchingKey));
    assert_eq!(issuer_of(judge(&none, &HeaderMap::new())), Ok(None));
    let broken =
        Authentication { key: "t".into(), rules: [rule("a", &signer)].into(), refuse_tokens: Some("broken".into()) };
    let broken = TokenVerifier::new(&broken);
    assert_eq!(issuer_of(judge(&broken, &token)), Err(TokenStatus::NoMatchingKey));
    assert_eq!(issuer_of(judge(&broken, &HeaderMap::new())), Ok(None));
}

#[test]
fn vouched_claims_count_as_a_tokens() {
    let signer = Signer::es256();
    let writes = TokenRule {
        space_delimited: ["groups".into()].into(),
        claim_headers: [ClaimHeader { header: "x-sub".into(), claim: "sub".into() }].into(),
        ..rule("a", &signer)
    };
    let claims = json!({"iss": "a", "sub": "me", "groups": "x y"});
    let judged = verifier(vec![writes]).vouched(&HeaderMap::new(), claims.as_object().unwrap());
    assert_eq!(judged.changes, [HeaderChange::Set(HeaderName::from_static("x-sub"), HeaderValue::from_static("me"))]);
    assert_eq!(judged.facts.unwrap().subject, "me");
}

#[test]
fn challenges_name_the_resource_and_nothing_secret() {
    let challenge = TokenStatus::Expired.challenge("http", "a.com:8080", "/x\"y");
    assert_eq!(challenge, "Bearer realm=\"http://a.com:8080/x%22y\", error=\"invalid_token\"");
    assert_eq!(TokenStatus::Missing.challenge("https", "a", "/"), "Bearer realm=\"https://a/\"");
}
