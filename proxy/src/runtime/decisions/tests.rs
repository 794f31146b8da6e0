//! What a record says, what it hides, and how many there are.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue};
use palisade_model::{
    cluster::Discovery,
    listener::{InboundPort, MtlsMode, Protocol},
    policy::{Policy, PolicyId, PolicyMode, PolicySet},
    resource::Resource,
    settings::ProxyKind,
};
use palisade_policy::{CertificateNames, Condition, JwtFacts, RuleAction, RuleSpec, TrustDomains, admit_rule};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};

use super::*;
use crate::{
    index::RuntimeIndex,
    request::{
        connection::{Seen, admit},
        decide_http_with,
        external::Testimony,
        facts::{Chance, ClientCertificate, ClientTls, Connection, Direction, HttpVersion, Request, Trust},
        testing,
    },
    telemetry::access_log::Capture,
};

fn rule(mode: PolicyMode, key: &str) -> Vec<Policy> {
    let spec = RuleSpec {
        id: PolicyId::of_rule("foo", "p", 0),
        source: None,
        rule: Some(0),
        namespace: "foo".into(),
        action: RuleAction::Deny,
        mode,
        from: None,
        to: None,
        when: vec![Condition { key: key.into(), values: vec!["*".into()], not_values: Vec::new() }],
    };
    admit_rule(&spec, &TrustDomains::default()).policies
}

fn index(policies: Vec<Policy>) -> RuntimeIndex {
    let policies: Vec<Policy> = policies.into_iter().chain([palisade_policy::default_permit()]).collect();
    let ids = policies.iter().map(|policy| policy.id.clone()).collect();
    let mut resources = vec![
        Resource::Settings(testing::settings(ProxyKind::Sidecar)),
        Resource::Inbound(InboundPort {
            port: Some(80),
            protocol: Protocol::Http,
            mtls: MtlsMode::Permissive,
            cluster: "inbound|80||".into(),
            service: None,
            policies: "workload/foo/a".into(),
        }),
        Resource::Cluster(testing::cluster("inbound|80||", Discovery::Workload { port: None })),
        Resource::PolicySet(PolicySet { key: "workload/foo/a".into(), policies: ids, ..PolicySet::default() }),
    ];
    resources.extend(policies.into_iter().map(Resource::Policy));
    testing::index(resources)
}

const SECRETS: [&str; 7] = ["tok", "sess", "hunter2", "gold", "alice", "admins", "secret-query"];

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer tok"),
        ("cookie", "sid=sess"),
        ("x-password", "hunter2"),
        ("x-tier", "gold"),
        ("user-agent", "curl"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    headers
}

/// What authorization says of one request, with everything in it that a policy may read.
fn judged(policies: Vec<Policy>, depth: Depth) -> Authorization {
    let names =
        CertificateNames { uris: vec!["spiffe://cluster.local/ns/foo/sa/b".into()], ..CertificateNames::default() };
    let tls = ClientTls {
        sni: Some("a.foo".into()),
        alpn: ["istio-http/1.1".into(), "istio".into()].into(),
        certificate: Some(ClientCertificate { names, trust: Trust::Mesh, fingerprint: None }),
        agreed: None,
    };
    let facts = Connection {
        direction: Direction::Inbound,
        source: "10.0.0.4:40000".parse().unwrap(),
        destination: "10.0.0.9:80".parse().unwrap(),
        tls: Some(tls),
    };
    let index = index(policies);
    let admitted = admit(&index, facts, Seen::Http).unwrap();
    let claims = json!({"iss": "i", "sub": "alice", "aud": "shop", "exp": 4_000_000_000_u64, "groups": ["admins"]});
    let jwt = JwtFacts::from_claims(claims.as_object().unwrap(), &[]);
    let headers = headers();
    let request = Request {
        method: "GET",
        scheme: "https",
        authority: b"a.foo:80",
        target: b"/x?secret-query",
        version: HttpVersion::Http11,
        headers: &headers,
        jwt: Some(&jwt),
    };
    let mut chance = Chance::fixed(SystemTime::now(), 0.5).with_depth(depth);
    let verdict = decide_http_with(&index, &admitted, Some(&request), &Testimony::default(), &mut chance);
    verdict.authorization.unwrap()
}

fn circumstances<'a>(proxy: &'a Arc<str>, headers: &'a HeaderMap) -> Circumstances<'a> {
    Circumstances {
        time: Timestamp::UNIX_EPOCH,
        reason: Reason::AuthzDenied,
        proxy,
        direction: Direction::Inbound,
        headers: Some(headers),
    }
}

/// The record of a denial by a policy that looks at this.
fn record_of(key: &str) -> (String, Value) {
    let capture = Capture::default();
    let (log, writer) = AccessLog::start(capture.clone(), Counter::default()).unwrap();
    let decisions = Decisions::new(DecisionSettings::default(), "foo/a", Some(log), outbox());
    let (headers, proxy) = (headers(), Arc::from("foo/a"));
    let said = judged(rule(PolicyMode::Enforce, key), Depth::Usual);
    let id = decisions.note(&said, Sample::default(), &circumstances(&proxy, &headers)).unwrap();
    assert!(decisions.recent.find(&id).is_some());
    drop(decisions);
    writer.close();
    let text = capture.text();
    let record = serde_json::from_str(&text).unwrap();
    (text, record)
}

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(Counter::default()))
}

#[test]
fn a_record_hides_what_may_be_secret_and_keeps_the_rest() {
    let (text, record) = record_of("request.headers[x-tier]");
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert_eq!(
        (&record["v"], &record["verdict"], &record["policies"]),
        (&json!(1), &json!("deny"), &json!(["foo/p[0]"]))
    );
    assert_eq!(record["source"]["names"], json!(["spiffe://cluster.local/ns/foo/sa/b"]));
    let http = &record["http"];
    assert_eq!((&http["path"], &http["authority"]), (&json!("/x"), &json!("a.foo:80")));
    assert!(http["query"].as_str().unwrap().starts_with("hmac:"));
    let lines = &http["headers"];
    assert_eq!(lines["user-agent"], json!(["curl"]));
    assert_eq!((&lines["authorization"], &lines["cookie"]), (&json!([]), &json!([])));
    let hash = |value: &Value| value[0].as_str().is_some_and(|hash| hash.len() == "hmac:".len() + 32);
    assert!(hash(&lines["x-password"]) && hash(&lines["x-tier"]), "{lines}");
    let claims = &http["jwt"]["claims"];
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(["i"]), &json!(["shop"])));
    assert!(hash(&claims["groups"]), "{claims}");
    // A secret that a policy looks at is told from another one.
    let (text, record) = record_of("request.headers[cookie]");
    assert!(hash(&record["http"]["headers"]["cookie"]) && !text.contains("sess"));
}

/// The paths of all fields, as the reference names them.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        // Names below these are the user's.
        Value::Object(fields) if !matches!(at, "http.headers" | "http.jwt.claims" | "shadow") => {
            for (name, value) in fields {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                paths(value, &path, found);
            }
        }
        _ => drop(found.insert(at.to_owned())),
    }
}

#[test]
fn every_field_is_documented() {
    let mut found = BTreeSet::new();
    paths(&record_of("request.headers[x-tier]").1, "", &mut found);
    let page = include_str!("../../../../docs/reference/decision-records.md");
    for path in &found {
        assert!(page.contains(&format!("`{path}`")), "{path} is not in docs/reference/decision-records.md");
    }
    assert!(found.len() > 25, "{found:?}");
}

#[test]
fn a_record_is_bounded_whatever_the_request_carries() {
    let mut headers = HeaderMap::new();
    for number in 0..1000 {
        let name = http::HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap();
        for _ in 0..3 {
            headers.append(name.clone(), HeaderValue::from_static("v"));
        }
    }
    for _ in 0..1000 {
        headers.append("a-many", HeaderValue::from_static("v"));
    }
    let said = judged(rule(PolicyMode::Enforce, "request.headers[x-tier]"), Depth::Usual);
    let (proxy, salt) = (Arc::from("foo/a"), Salt::random());
    let record =
        DecisionRecord::of("id", &said, said.captured.as_ref().unwrap(), None, &circumstances(&proxy, &headers), &salt);
    let text = serde_json::to_string(&record).unwrap();
    assert!(text.len() < 16 * 1024, "{}", text.len());
}

#[test]
fn what_a_dry_run_would_change_is_recorded_up_to_ten_times_a_second() {
    let decisions = Decisions::new(DecisionSettings { record_one_in: 0, replay_one_in: 0 }, "foo/a", None, outbox());
    let (headers, proxy) = (headers(), Arc::from("foo/a"));
    let mut policies = rule(PolicyMode::Shadow, "request.headers[x-tier]");
    for policy in &mut policies {
        policy.source = Some(palisade_model::origin::Origin {
            group: "security.istio.io".into(),
            kind: "AuthorizationPolicy".into(),
            namespace: "foo".into(),
            name: "p".into(),
            uid: "".into(),
            generation: 0,
        });
    }
    let recorded = |second: u64, policies: &[Policy]| {
        let now = UNIX_EPOCH + std::time::Duration::from_secs(second);
        let notes = (0..30).filter(|_| {
            let sample = decisions.sample(now);
            let said = judged(policies.to_vec(), sample.depth());
            assert!(said.is_allowed);
            decisions.note(&said, sample, &circumstances(&proxy, &headers)).is_some()
        });
        notes.count()
    };
    assert_eq!((recorded(100, &policies), recorded(100, &policies), recorded(101, &policies)), (10, 0, 10));
    assert_eq!(recorded(102, &[]), 0, "an ordinary permission");
}
