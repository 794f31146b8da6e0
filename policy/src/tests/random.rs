//! Random rules and requests from small pools, so that they meet often.

use super::facts::{Plain, PlainHttp, numbered_rule, strings};
use crate::{Condition, Operation, RuleAction, RuleSpec, Source};

/// A small, seeded generator: a failing round is found again by its seed.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from((self.next() >> 11) % u64::try_from(n).unwrap()).unwrap()
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, pool: &'a [T]) -> &'a T {
        &pool[self.below(pool.len())]
    }

    fn some(&mut self, pool: &[&str]) -> Vec<String> {
        let count = 1 + self.below(3);
        (0..count).map(|_| (*self.pick(pool)).to_owned()).collect()
    }

    fn maybe(&mut self, one_in: usize, pool: &[&str]) -> Vec<String> {
        if self.one_in(one_in) { self.some(pool) } else { Vec::new() }
    }
}

/// Sets of rules, and requests to each: 20,000 pairs, a million with `PALISADE_LONG=1`.
pub(super) fn pairs() -> (u64, usize) {
    if std::env::var_os("PALISADE_LONG").is_some() { (5_000, 200) } else { (rounds(250), 80) }
}

/// How many rounds the random tests run; `PALISADE_TEST_ROUNDS` asks for more.
pub(super) fn rounds(default: u64) -> u64 {
    std::env::var("PALISADE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/foo/sa/sleep",
    "cluster.local/ns/bar/sa/sleep",
    "old.local/ns/foo/sa/sleep",
    "other.example/ns/foo/sa/x",
    "partner.example/app",
    "*",
    "cluster.local/ns/foo/*",
    "cluster.local/ns/f*",
    "*/sa/sleep",
    "*/ns/foo/sa/sleep",
    "cluster.local/ns/foo/sa/*",
    "clu*ter",
    "*.example/ns/foo/sa/x",
    "*d.local/ns/foo/sa/sleep",
    "ol*/ns/foo/sa/sleep",
];
const NAMESPACES: &[&str] = &["foo", "bar", "prod-a", "prod-*", "*o", "f*o", "*", "foo/sa", "nowhere"];
const ACCOUNTS: &[&str] = &["foo/sleep", "bar/sleep", "sleep", "x", "prod-a/x", "foo/app"];
const DOMAINS: &[&str] = &["cluster.local", "old.local", "other.example", "*", "*.example", "clu*", "nowhere.example"];
const BLOCKS: &[&str] = &[
    "10.0.0.0/8",
    "10.0.0.4",
    "10.0.0.0/30",
    "192.168.0.0/16",
    "::ffff:10.0.0.0/104",
    "fd00::/8",
    "fd00::5",
    "0.0.0.0/0",
    "203.0.113.7/32",
];
const REQUEST_PRINCIPALS: &[&str] = &[
    "iss.example/alice",
    "iss.example/*",
    "*/alice",
    "*",
    "*.example/alice",
    "iss*",
    "*ice",
    "nobody",
    "other/bob",
    "iss.example/al*",
    "a/b/c",
];
const HOSTS: &[&str] = &["a.com", "A.com:8080", "a.com:*", "*.com", "*", "b.org", "*:8080", "a*b"];
const PORTS: &[&str] = &["80", "8080", "9090", "65535"];
const METHODS: &[&str] = &["GET", "POST", "get", "P*", "*T", "*", "DELETE"];
const PATHS: &[&str] = &[
    "/api/v1/a",
    "/api/*",
    "*/a",
    "*",
    "/",
    "/api",
    "/api/{*}/a",
    "/api/{**}",
    "/api/{**}/a",
    "/{*}",
    "/api/v1/*b*",
    "/api/{*}/{**}",
    "/x*y",
    "/api/v1/\u{e4}*",
];
const SNIS: &[&str] = &["a.com", "*.com", "a*", "*", "A.com"];
const HEADER_VALUES: &[&str] = &["admin", "a*", "*n", "*", "user", "a\"b\\", "ADMIN"];
const CLAIM_VALUES: &[&str] = &["editor", "ed*", "*or", "*", "viewer"];
const KEYS: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.headers[X-Role]",
    "request.headers[x-other]",
    "request.auth.claims[groups]",
    "request.auth.claims[realm][roles]",
    "request.auth.claims[a.b]",
];

fn source(rng: &mut Rng) -> Source {
    loop {
        let mut source = Source::default();
        if rng.one_in(4) {
            source.service_accounts = rng.maybe(2, ACCOUNTS);
            source.not_service_accounts = rng.maybe(4, ACCOUNTS);
        } else {
            source.principals = rng.maybe(3, PRINCIPALS);
            source.not_principals = rng.maybe(8, PRINCIPALS);
            source.namespaces = rng.maybe(3, NAMESPACES);
            source.not_namespaces = rng.maybe(8, NAMESPACES);
        }
        source.trust_domains = rng.maybe(6, DOMAINS);
        source.not_trust_domains = rng.maybe(12, DOMAINS);
        source.ip_blocks = rng.maybe(5, BLOCKS);
        source.not_ip_blocks = rng.maybe(10, BLOCKS);
        source.remote_ip_blocks = rng.maybe(6, BLOCKS);
        source.not_remote_ip_blocks = rng.maybe(12, BLOCKS);
        source.request_principals = rng.maybe(6, REQUEST_PRINCIPALS);
        source.not_request_principals = rng.maybe(12, REQUEST_PRINCIPALS);
        if source != Source::default() {
            return source;
        }
    }
}

fn operation(rng: &mut Rng) -> Operation {
    loop {
        let operation = Operation {
            hosts: rng.maybe(5, HOSTS),
            not_hosts: rng.maybe(10, HOSTS),
            ports: rng.maybe(4, PORTS),
            not_ports: rng.maybe(10, PORTS),
            methods: rng.maybe(4, METHODS),
            not_methods: rng.maybe(10, METHODS),
            paths: rng.maybe(2, PATHS),
            not_paths: rng.maybe(8, PATHS),
        };
        if operation != Operation::default() {
            return operation;
        }
    }
}

/// The values that a key is asked about.
fn pool_of(key: &str) -> &'static [&'static str] {
    match key {
        "source.ip" | "remote.ip" | "destination.ip" => BLOCKS,
        "source.namespace" => NAMESPACES,
        "source.principal" => PRINCIPALS,
        "source.serviceAccount" => ACCOUNTS,
        "source.trustDomain" => DOMAINS,
        "destination.port" => PORTS,
        "connection.sni" => SNIS,
        "request.auth.principal" => REQUEST_PRINCIPALS,
        key if key.starts_with("request.headers") => HEADER_VALUES,
        _ => CLAIM_VALUES,
    }
}

fn condition(rng: &mut Rng) -> Condition {
    let key = *rng.pick(KEYS);
    let pool = pool_of(key);
    let values = rng.maybe(2, pool);
    let not_values = if values.is_empty() { rng.some(pool) } else { rng.maybe(4, pool) };
    Condition { key: key.to_owned(), values, not_values }
}

/// A valid rule.
pub(super) fn rule(rng: &mut Rng, number: usize) -> RuleSpec {
    let action = if rng.one_in(3) { RuleAction::Deny } else { RuleAction::Allow };
    let mut rule = numbered_rule(action, number);
    if rng.one_in(2) {
        rule.from = Some((0..1 + rng.below(2)).map(|_| source(rng)).collect());
    }
    if rng.one_in(2) {
        rule.to = Some((0..1 + rng.below(2)).map(|_| operation(rng)).collect());
    }
    if rng.one_in(2) {
        rule.when = (0..1 + rng.below(2)).map(|_| condition(rng)).collect();
    }
    rule
}

/// A rule for each field and key with each form of value: alone, forbidden, and all of them together.
pub(super) fn shapes() -> Vec<RuleSpec> {
    type Fill<T> = fn(&mut T, [Vec<String>; 2]);
    let sources: [(&[&str], Fill<Source>); 7] = [
        (PRINCIPALS, |s, [values, not]| (s.principals, s.not_principals) = (values, not)),
        (NAMESPACES, |s, [values, not]| (s.namespaces, s.not_namespaces) = (values, not)),
        (ACCOUNTS, |s, [values, not]| (s.service_accounts, s.not_service_accounts) = (values, not)),
        (DOMAINS, |s, [values, not]| (s.trust_domains, s.not_trust_domains) = (values, not)),
        (BLOCKS, |s, [values, not]| (s.ip_blocks, s.not_ip_blocks) = (values, not)),
        (BLOCKS, |s, [values, not]| (s.remote_ip_blocks, s.not_remote_ip_blocks) = (values, not)),
        (REQUEST_PRINCIPALS, |s, [values, not]| (s.request_principals, s.not_request_principals) = (values, not)),
    ];
    let operations: [(&[&str], Fill<Operation>); 4] = [
        (HOSTS, |o, [values, not]| (o.hosts, o.not_hosts) = (values, not)),
        (PORTS, |o, [values, not]| (o.ports, o.not_ports) = (values, not)),
        (METHODS, |o, [values, not]| (o.methods, o.not_methods) = (values, not)),
        (PATHS, |o, [values, not]| (o.paths, o.not_paths) = (values, not)),
    ];
    let mut rules = Vec::new();
    let mut add = |fill: &dyn Fn(&mut RuleSpec)| {
        let mut rule = numbered_rule(RuleAction::Deny, rules.len());
        fill(&mut rule);
        rules.push(rule);
    };
    for (pool, fill) in sources {
        for values in forms(pool) {
            let mut source = Source::default();
            fill(&mut source, values);
            add(&|rule| rule.from = Some(vec![source.clone()]));
        }
    }
    for (pool, fill) in operations {
        for values in forms(pool) {
            let mut operation = Operation::default();
            fill(&mut operation, values);
            add(&|rule| rule.to = Some(vec![operation.clone()]));
        }
    }
    for key in KEYS {
        for [values, not_values] in forms(pool_of(key)) {
            let condition = Condition { key: (*key).to_owned(), values, not_values };
            add(&|rule| rule.when = vec![condition.clone()]);
        }
    }
    rules
}

/// Each value as one that is asked for and as one that is not wanted, and all of them as both.
fn forms(pool: &[&str]) -> Vec<[Vec<String>; 2]> {
    let alone = pool.iter().flat_map(|value| [[strings(&[value]), Vec::new()], [Vec::new(), strings(&[value])]]);
    alone.chain([[strings(pool), Vec::new()], [Vec::new(), strings(pool)], [strings(pool), strings(pool)]]).collect()
}

fn ip(rng: &mut Rng) -> std::net::IpAddr {
    let pool = ["10.0.0.4", "10.0.0.2", "::ffff:10.0.0.4", "192.168.7.7", "fd00::5", "203.0.113.7", "2001:db8::1"];
    rng.pick(&pool).parse().unwrap()
}

/// A request, or an opaque connection.
pub(super) fn plain(rng: &mut Rng) -> Plain {
    let mut plain = Plain {
        uris: Vec::new(),
        dns: Vec::new(),
        subject: String::new(),
        source_ip: ip(rng),
        destination_ip: ip(rng),
        port: *rng.pick(&[80, 8080, 9090]),
        sni: None,
        is_tls: false,
        http: None,
    };
    let mesh = [
        "spiffe://cluster.local/ns/foo/sa/sleep",
        "spiffe://cluster.local/ns/foo/sa/x",
        "spiffe://cluster.local/ns/bar/sa/sleep",
        "spiffe://old.local/ns/foo/sa/sleep",
        "spiffe://other.example/ns/foo/sa/x",
        "spiffe://cluster.local/ns/prod-a/sa/x",
    ];
    match rng.below(8) {
        0 => {}
        1 => {
            plain.uris = strings(&["spiffe://partner.example/app"]);
            plain.subject = "CN=app".to_owned();
        }
        2 => {
            plain.uris = strings(&[rng.pick::<&str>(&mesh), "spiffe://other.example/ns/ns/foo/r/sa/x/y"]);
            plain.dns = strings(&["a.example"]);
        }
        3 => plain.subject = "O=/ns/foo/".to_owned(),
        _ => plain.uris = strings(&[rng.pick::<&str>(&mesh)]),
    }
    plain.is_tls = !(plain.uris.is_empty() && plain.subject.is_empty()) || rng.one_in(2);
    if plain.is_tls && !rng.one_in(3) {
        plain.sni = Some((*rng.pick(&["a.com", "A.com", "x.org", "b.com"])).to_owned());
    }
    if !rng.one_in(5) {
        plain.http = Some(http(rng));
    }
    plain
}

fn http(rng: &mut Rng) -> PlainHttp {
    let mut headers = Vec::new();
    for _ in 0..rng.below(4) {
        let name = *rng.pick(&["x-role", "X-Role", "x-other", "x-third"]);
        let value = *rng.pick(&["admin", "user", "", "admin,user", "a\"b\\", "xn"]);
        headers.push((name.to_owned(), value.to_owned()));
    }
    let jwt = if rng.one_in(2) {
        let mut claims = Vec::new();
        for path in [&["groups"][..], &["realm", "roles"], &["a.b"], &["a", "b"], &["aud"], &["azp"]] {
            if rng.one_in(2) {
                let count = rng.below(3);
                let texts = (0..count).map(|_| (*rng.pick(&["editor", "viewer", "", "edx"])).to_owned()).collect();
                claims.push((strings(path), texts));
            }
        }
        let issuer = *rng.pick(&["iss.example", "other", "x.example", "", "a/b"]);
        let subject = *rng.pick(&["alice", "bob", "", "c"]);
        Some((issuer.to_owned(), subject.to_owned(), claims))
    } else {
        None
    };
    let paths = [
        "/api/v1/a",
        "/api/",
        "/api",
        "/",
        "/x",
        "/api/v1/b",
        "/api//a",
        "/api/v1/a?b=/x",
        "/api/a",
        "/x*y",
        "/api/v1/*b*",
        "/api/v1/\u{e4}x",
        "/api/v1/a/",
        "/apiv",
        "/api/v1/xb*",
    ];
    PlainHttp {
        method: (*rng.pick(&["GET", "POST", "PUT", "DELETE"])).to_owned(),
        authority: (*rng.pick(&["a.com", "a.com:8080", "A.COM", "b.org", "", "x.com:9"])).to_owned(),
        path: (*rng.pick(&paths)).to_owned(),
        headers,
        remote_ip: ip(rng),
        jwt,
    }
}
