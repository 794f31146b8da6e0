//! Fuzz target: tokens made of anything, and real ones with something changed. None of them verifies.

use super::*;

#[test]
fn tokens() {
    let signer = Signer::es256();
    let locations = [
        TokenLocation::Header { name: "authorization".into(), prefix: "Bearer ".into() },
        TokenLocation::Header { name: "x-plain".into(), prefix: "".into() },
        TokenLocation::Query("t".into()),
        TokenLocation::Cookie("t".into()),
    ];
    let verifier = verifier(vec![TokenRule { locations: locations.into(), ..rule("a", &signer) }]);
    let good = signer.token(&claims("a"));
    let accepts = |headers: &HeaderMap, query: &[u8]| {
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let asked = TokenRequest { method: "GET", headers, query: Some(query), now };
        verifier.judge(&asked).is_ok_and(|judged| judged.facts.is_some())
    };
    assert!(accepts(&bearer(&good), b""));
    inputs::run(
        inputs::Inputs {
            root: env!("CARGO_MANIFEST_DIR"),
            name: "tokens",
            few: 3_000,
            longest: 512,
            ..inputs::Inputs::default()
        },
        |bytes| {
            // Noise in every place that can hold it.
            assert!(!accepts(&HeaderMap::new(), bytes));
            for name in ["authorization", "x-plain", "cookie"] {
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
                    assert!(!accepts(&headers, b"t"), "{name}");
                }
            }
            // Header and payload of any kind, well signed: only this algorithm and one clear issuer count.
            let (header, payload) = bytes.split_at(bytes.len() / 2);
            let (header, payload) = (String::from_utf8_lossy(header), String::from_utf8_lossy(payload));
            let of =
                |text: &str, name: &str| serde_json::from_str::<Value>(text).map_or(Value::Null, |v| v[name].clone());
            let is_sound = of(&header, "alg") == signer.algorithm() && of(&payload, "iss") == "a";
            let forged = signer.token_of(&header, &payload);
            if !is_sound || payload.matches("\"iss\"").count() > 1 {
                assert!(!accepts(&bearer(&forged), b""), "{header} {payload}");
            }
            // The real one with some bytes changed.
            let mut changed = good.clone().into_bytes();
            for pair in bytes.chunks_exact(2).take(3) {
                let at = usize::from(pair[0]) * changed.len() / 256;
                changed[at] = pair[1] & 0x7f;
            }
            let text = String::from_utf8_lossy(&changed).into_owned();
            if changed != good.as_bytes() && HeaderValue::from_str(&text).is_ok() {
                // What stands behind the token's characters is no part of it.
                assert!(!accepts(&lines(&[("x-plain", text.clone())]), b""), "{text}");
            }
        },
    );
}
