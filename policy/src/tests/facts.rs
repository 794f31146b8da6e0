//! Plain facts for tests, and the builders that make engines and decisions of them.

use std::{net::IpAddr, sync::Arc, time::UNIX_EPOCH};

use palisade_model::{
    origin::Origin,
    policy::{Policy, PolicyId, PolicyMode, PolicySet},
};

use crate::{
    Admission, CertificateNames, ClaimSet, CompiledPolicy, Condition, ConnectionFacts, Decision, JwtFacts, Operation,
    Peer, PolicyEngine, RequestFacts, RuleAction, RuleSpec, Source, TlsFacts, TrustDomains, admit_rule, default_permit,
};

/// One request or connection, in plain values.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub subject: String,
    pub source_ip: IpAddr,
    pub destination_ip: IpAddr,
    pub port: u16,
    pub sni: Option<String>,
    pub is_tls: bool,
    pub http: Option<PlainHttp>,
}

/// Claim paths with their texts.
pub(super) type PlainClaims = Vec<(Vec<String>, Vec<String>)>;

#[derive(Debug, Clone)]
pub(super) struct PlainHttp {
    pub method: String,
    pub authority: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub remote_ip: IpAddr,
    /// `iss`, `sub`, and claims by path.
    pub jwt: Option<(String, String, PlainClaims)>,
}

impl Default for Plain {
    fn default() -> Self {
        Self {
            uris: vec!["spiffe://cluster.local/ns/foo/sa/sleep".to_owned()],
            dns: Vec::new(),
            subject: String::new(),
            source_ip: "10.0.0.4".parse().unwrap(),
            destination_ip: "10.0.0.9".parse().unwrap(),
            port: 8080,
            sni: None,
            is_tls: true,
            http: Some(PlainHttp::default()),
        }
    }
}

impl Default for PlainHttp {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            authority: "httpbin.foo:8000".to_owned(),
            path: "/get".to_owned(),
            headers: Vec::new(),
            remote_ip: "10.0.0.4".parse().unwrap(),
            jwt: None,
        }
    }
}

impl Plain {
    pub(super) fn connection(&self) -> ConnectionFacts {
        let names = CertificateNames { uris: self.uris.clone(), dns: self.dns.clone(), subject: self.subject.clone() };
        ConnectionFacts {
            source_ip: self.source_ip,
            source_port: 40000,
            destination_ip: self.destination_ip,
            destination_port: self.port,
            peer: Peer::from_certificate(names),
            tls: self.is_tls.then(|| TlsFacts { sni: self.sni.clone(), alpn: None, version: "TLSv1.3".to_owned() }),
        }
    }

    pub(super) fn with_request<T>(&self, use_request: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
        let http = self.http.clone().unwrap_or_default();
        let jwt = http.jwt.as_ref().map(|(issuer, subject, claims)| {
            let mut set = ClaimSet::default();
            for (path, texts) in claims {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                set.declare(&path);
                for text in texts {
                    set.add(&path, text.clone());
                }
            }
            JwtFacts { issuer: issuer.clone(), subject: subject.clone(), expires: Some(UNIX_EPOCH), claims: set }
        });
        // As the proxy tells it: the query apart.
        let (path, query) = http.path.split_once('?').map_or((&*http.path, None), |(path, query)| (path, Some(query)));
        use_request(&RequestFacts {
            method: &http.method,
            scheme: "https",
            authority: http.authority.as_bytes(),
            path: path.as_bytes(),
            query: query.map(str::as_bytes),
            headers: &http.headers,
            remote_ip: http.remote_ip,
            jwt: jwt.as_ref(),
            now: UNIX_EPOCH,
        })
    }
}

/// A rule that matches everything; fill in what it should ask for.
pub(super) fn rule(action: RuleAction) -> RuleSpec {
    numbered_rule(action, 0)
}

pub(super) fn numbered_rule(action: RuleAction, number: usize) -> RuleSpec {
    let name = format!("{action:?}").to_lowercase();
    RuleSpec {
        id: PolicyId::of_rule("foo", &name, number),
        source: Some(Origin {
            group: "security.istio.io".into(),
            kind: "AuthorizationPolicy".into(),
            namespace: "foo".into(),
            name: name.into(),
            uid: "".into(),
            generation: 0,
        }),
        rule: Some(u32::try_from(number).unwrap()),
        namespace: "foo".to_owned(),
        action,
        mode: PolicyMode::Enforce,
        from: None,
        to: None,
        when: Vec::new(),
    }
}

pub(super) fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

pub(super) fn from(source: Source) -> Option<Vec<Source>> {
    Some(vec![source])
}

pub(super) fn to(operation: Operation) -> Option<Vec<Operation>> {
    Some(vec![operation])
}

pub(super) fn when(key: &str, values: &[&str], not_values: &[&str]) -> Vec<Condition> {
    vec![Condition { key: key.to_owned(), values: strings(values), not_values: strings(not_values) }]
}

/// The engine of a target that these rules' documents select; no ALLOW rule means the default permit.
pub(super) fn engine(rules: &[RuleSpec]) -> PolicyEngine {
    engine_with(rules, &TrustDomains::default())
}

pub(super) fn engine_with(rules: &[RuleSpec], domains: &TrustDomains) -> PolicyEngine {
    let mut policies = Vec::new();
    let mut deny_all = None;
    for rule in rules {
        let Admission { policies: admitted, deny_all: denies, problems: _ } = admit_rule(rule, domains);
        policies.extend(admitted);
        deny_all = crate::fold_deny_all(deny_all, denies);
    }
    if !rules.iter().any(|r| r.action == RuleAction::Allow && r.mode == PolicyMode::Enforce) {
        policies.push(default_permit());
    }
    engine_of(policies, deny_all)
}

pub(super) fn engine_of(mut policies: Vec<Policy>, deny_all: Option<palisade_model::policy::DenyAll>) -> PolicyEngine {
    policies.sort_by(|a, b| (&a.id, a.mode).cmp(&(&b.id, b.mode)));
    let set = PolicySet {
        key: "workload/foo/httpbin".into(),
        policies: policies.iter().map(|p| p.id.clone()).collect(),
        deny_all,
        ..PolicySet::default()
    };
    let loaded: std::collections::BTreeMap<PolicyId, Arc<CompiledPolicy>> =
        policies.iter().map(|p| (p.id.clone(), Arc::new(CompiledPolicy::load(p)))).collect();
    for policy in loaded.values() {
        assert_eq!(policy.problem(), None, "{:?}", policy.policy());
    }
    PolicyEngine::build(&set, |id| loaded.get(id).cloned())
}

pub(super) fn decide(engine: &PolicyEngine, plain: &Plain) -> Decision {
    let connection = engine.connect(&plain.connection());
    match &plain.http {
        Some(_) => plain.with_request(|request| engine.decide_http(&connection, request)),
        None => engine.decide_tcp(&connection),
    }
}

pub(super) fn is_allowed(rules: &[RuleSpec], plain: &Plain) -> bool {
    decide(&engine(rules), plain).is_allowed()
}
