//! Cross-origin requests: the answer to a preflight, and the headers of other answers (Fetch standard, as Envoy has it).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use palisade_model::route::Cors;

use super::changes::HeaderChange;
use crate::index::CompiledCors;

/// What cross-origin rules do to a request.
#[derive(Debug)]
pub enum CrossOrigin {
    /// Nothing: it names no origin, or one that is not allowed.
    Nothing,
    /// The proxy answers 200 with these headers.
    Preflight(Vec<(HeaderName, HeaderValue)>),
    /// Whatever the answer is, it gets these headers.
    Headers(Vec<HeaderChange>),
}

/// Reads a request against rules.
pub fn judge(rules: &CompiledCors, method: &str, headers: &HeaderMap) -> CrossOrigin {
    let Some(origin) = headers.get(header::ORIGIN).filter(|origin| !origin.is_empty()) else {
        return CrossOrigin::Nothing;
    };
    let cors = rules.cors();
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).filter(|asked| !asked.is_empty());
    let is_allowed = rules.allows(origin.as_bytes());
    match (asked.filter(|_| method == "OPTIONS"), is_allowed) {
        (Some(_), false) if cors.forwards_unmatched_preflights => CrossOrigin::Nothing,
        (Some(_), false) => CrossOrigin::Preflight(Vec::new()),
        (Some(asked), true) => {
            let mut lines = common(cors, origin);
            lines.extend(line(header::ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods, Some(asked)));
            let asked_headers = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            lines.extend(line(header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers, asked_headers));
            // It says nothing here, and both Envoy and the Gateway API's conformance tests have it.
            lines.extend(line(header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers, None));
            let age = cors.max_age.map(|age| HeaderValue::from(age.as_secs()));
            lines.extend(age.map(|age| (header::ACCESS_CONTROL_MAX_AGE, age)));
            CrossOrigin::Preflight(lines)
        }
        (None, false) => CrossOrigin::Nothing,
        (None, true) => {
            let mut lines = common(cors, origin);
            lines.extend(line(header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers, None));
            CrossOrigin::Headers(lines.into_iter().map(|(name, value)| HeaderChange::Set(name, value)).collect())
        }
    }
}

fn common(cors: &Cors, origin: &HeaderValue) -> Vec<(HeaderName, HeaderValue)> {
    let mut lines = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())];
    if cors.allows_credentials {
        lines.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
    }
    lines
}

/// A list as one line; `*` alone gives back what was asked about, which also holds for requests with credentials.
fn line(
    name: HeaderName,
    values: &[std::sync::Arc<str>],
    asked: Option<&HeaderValue>,
) -> Option<(HeaderName, HeaderValue)> {
    let value = match (values, asked) {
        ([], _) => return None,
        ([any], Some(asked)) if &**any == "*" => asked.clone(),
        (values, _) => {
            let texts: Vec<&str> = values.iter().map(|value| &**value).collect();
            // The control plane admits only names and methods; what is none is left out rather than sent.
            HeaderValue::try_from(texts.join(",")).ok()?
        }
    };
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use palisade_model::route::StringMatch;

    use super::*;

    fn rules(change: impl FnOnce(&mut Cors)) -> CompiledCors {
        let mut cors = Cors {
            allow_origins: [
                StringMatch::Exact("https://a.com".into()),
                StringMatch::Regex(r"https://.*\.b\.com".into()),
            ]
            .into(),
            allow_methods: ["GET".into(), "PUT".into()].into(),
            allow_headers: ["x-a".into()].into(),
            expose_headers: ["x-b".into()].into(),
            max_age: Some(Duration::from_secs(60)),
            allows_credentials: true,
            forwards_unmatched_preflights: true,
        };
        change(&mut cors);
        CompiledCors::compile(&cors).unwrap()
    }

    fn request(origin: &'static str, asked: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static(asked));
            headers.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-z"));
        }
        headers
    }

    fn lines(found: CrossOrigin) -> Vec<String> {
        let CrossOrigin::Preflight(lines) = found else { panic!("{found:?}") };
        lines.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn a_preflight_is_answered_with_all_rules() {
        let found = judge(&rules(|_| {}), "OPTIONS", &request("https://x.b.com", Some("PUT")));
        assert_eq!(
            lines(found),
            [
                "access-control-allow-origin: https://x.b.com",
                "access-control-allow-credentials: true",
                "access-control-allow-methods: GET,PUT",
                "access-control-allow-headers: x-a",
                "access-control-expose-headers: x-b",
                "access-control-max-age: 60",
            ]
        );
    }

    #[test]
    fn a_star_gives_back_what_was_asked() {
        let any: Arc<[Arc<str>]> = ["*".into()].into();
        let rules = rules(|cors| {
            cors.allow_methods = Arc::clone(&any);
            cors.allow_headers = any;
        });
        let lines = lines(judge(&rules, "OPTIONS", &request("https://a.com", Some("DELETE"))));
        assert_eq!(lines[2..4], ["access-control-allow-methods: DELETE", "access-control-allow-headers: x-z"]);
    }

    #[test]
    fn a_preflight_of_another_origin_is_forwarded_or_answered_bare() {
        let other = request("https://evil.com", Some("PUT"));
        assert!(matches!(judge(&rules(|_| {}), "OPTIONS", &other), CrossOrigin::Nothing));
        let ignoring = rules(|cors| cors.forwards_unmatched_preflights = false);
        assert!(lines(judge(&ignoring, "OPTIONS", &other)).is_empty());
    }

    #[test]
    fn other_requests_get_headers_only_for_allowed_origins() {
        let CrossOrigin::Headers(changes) = judge(&rules(|_| {}), "GET", &request("https://a.com", None)) else {
            panic!("no headers")
        };
        assert_eq!(changes.len(), 3);
        assert!(matches!(judge(&rules(|_| {}), "GET", &request("https://c.com", None)), CrossOrigin::Nothing));
        // OPTIONS without the method that is asked about is no preflight.
        let options = judge(&rules(|_| {}), "OPTIONS", &request("https://a.com", None));
        assert!(matches!(options, CrossOrigin::Headers(_)));
    }

    #[test]
    fn the_origin_star_allows_every_origin() {
        let rules = rules(|cors| cors.allow_origins = [StringMatch::Exact("*".into())].into());
        assert!(matches!(judge(&rules, "GET", &request("https://c.com", None)), CrossOrigin::Headers(_)));
    }
}
