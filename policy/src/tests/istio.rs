//! The engine against the naive interpreter, and Istio's documented rows one by one.

use super::{
    facts::{Plain, PlainHttp, decide, engine, engine_with, from, is_allowed, rule, strings, to, when},
    naive, random,
};
use crate::{Operation, RuleAction, Source, TrustDomains, admit_rule};

#[test]
fn the_engine_decides_as_the_naive_interpreter() {
    let domains = TrustDomains::new("cluster.local", ["old.local".to_owned()]);
    let mut coverage = naive::Coverage::new();
    let mut decisions = [0_usize; 2];
    let (sets, requests) = random::pairs();
    for seed in 0..sets {
        let mut rng = random::Rng::new(seed + 1);
        // Some sets are large and of one kind, so that indexes have something to tell apart.
        let (count, only) = match seed % 8 {
            0 => (10 + rng.below(40), Some(RuleAction::Allow)),
            4 => (10 + rng.below(40), Some(RuleAction::Deny)),
            _ => (1 + rng.below(4), None),
        };
        let mut rules: Vec<_> = (0..count).map(|number| random::rule(&mut rng, number)).collect();
        for rule in &mut rules {
            rule.action = only.unwrap_or(rule.action);
        }
        let engine = engine_with(&rules, &domains);
        for _ in 0..requests {
            let plain = random::plain(&mut rng);
            let expected = naive::decide(&rules, &domains.all(), &plain, &mut coverage);
            let actual = decide(&engine, &plain);
            assert_eq!(actual.is_allowed(), expected, "seed {seed}\n{plain:?}\n{rules:#?}");
            decisions[usize::from(expected)] += 1;
        }
    }
    assert!(decisions.iter().all(|n| *n > 1_000), "{decisions:?}");
    let fields = [
        "principals",
        "namespaces",
        "serviceAccounts",
        "trustDomains",
        "ipBlocks",
        "remoteIpBlocks",
        "requestPrincipals",
        "hosts",
        "ports",
        "methods",
        "paths",
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
        "request.headers",
        "request.auth.claims",
    ];
    for field in fields {
        let [misses, matches] = coverage.get(field).copied().unwrap_or_default();
        assert!(misses > 20 && matches > 20, "{field}: {misses} misses, {matches} matches");
    }
}

fn http(change: impl FnOnce(&mut PlainHttp)) -> Plain {
    let mut http = PlainHttp::default();
    change(&mut http);
    Plain { http: Some(http), ..Plain::default() }
}

#[test]
fn no_policy_allows_and_an_allow_policy_closes() {
    assert!(is_allowed(&[], &Plain::default()));
    let mut allow = rule(RuleAction::Allow);
    assert!(is_allowed(&[allow.clone()], &Plain::default()), "an empty rule allows all");
    allow.to = to(Operation { methods: strings(&["POST"]), ..Operation::default() });
    assert!(!is_allowed(&[allow], &Plain::default()));
    assert!(!is_allowed(&[rule(RuleAction::Deny)], &Plain::default()), "an empty DENY rule denies all");
}

#[test]
fn a_denial_wins_over_every_permit() {
    let mut deny = rule(RuleAction::Deny);
    deny.to = to(Operation { paths: strings(&["/get"]), ..Operation::default() });
    assert!(!is_allowed(&[rule(RuleAction::Allow), deny], &Plain::default()));
}

#[test]
fn an_allow_rule_with_http_fields_does_not_exist_on_tcp_and_still_counts() {
    let mut allow = rule(RuleAction::Allow);
    allow.to = to(Operation { ports: strings(&["8080"]), methods: strings(&["*"]), ..Operation::default() });
    let tcp = Plain { http: None, ..Plain::default() };
    assert!(is_allowed(&[allow.clone()], &Plain::default()));
    assert!(!is_allowed(&[allow], &tcp));
    let mut ports = rule(RuleAction::Allow);
    ports.to = to(Operation { ports: strings(&["8080"]), ..Operation::default() });
    assert!(is_allowed(&[ports], &tcp));
}

#[test]
fn a_deny_rule_loses_its_http_fields_on_tcp_and_gets_wider() {
    let tcp = Plain { http: None, ..Plain::default() };
    for paths in [
        Operation { paths: strings(&["/x"]), ..Operation::default() },
        Operation { not_paths: strings(&["/get"]), ..Operation::default() },
    ] {
        let mut deny = rule(RuleAction::Deny);
        deny.to = to(paths);
        assert!(is_allowed(&[deny.clone()], &Plain::default()));
        assert!(!is_allowed(&[deny.clone()], &tcp));
        deny.from = from(Source { namespaces: strings(&["bar"]), ..Source::default() });
        assert!(is_allowed(&[deny], &tcp), "the rest of the rule stays");
    }
}

#[test]
fn hosts_keep_their_port_and_ignore_case() {
    let with = |hosts: &[&str], authority: &str| {
        let mut allow = rule(RuleAction::Allow);
        allow.to = to(Operation { hosts: strings(hosts), ..Operation::default() });
        is_allowed(&[allow], &http(|h| h.authority = authority.to_owned()))
    };
    assert!(with(&["a.com"], "A.com"));
    assert!(!with(&["a.com"], "a.com:8080"));
    assert!(with(&["A.com:*"], "a.com:8080"));
    assert!(!with(&["a.com"], "a.com."));
    assert!(with(&["*"], "x") && !with(&["*"], ""));
}

#[test]
fn each_header_line_is_a_value_by_itself() {
    let with = |value: &str, lines: &[(&str, &str)]| {
        let mut deny = rule(RuleAction::Deny);
        deny.when = when("request.headers[X-Role]", &[value], &[]);
        let lines = lines.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        !is_allowed(&[deny], &http(|h| h.headers = lines))
    };
    assert!(with("admin", &[("x-role", "user"), ("x-role", "admin")]));
    assert!(!with("admin", &[("x-role", "user,admin")]));
    assert!(with("ad*", &[("x-role", "user"), ("x-role", "admin")]));
    assert!(with("*", &[("x-role", "")]));
    assert!(!with("*", &[]));
    assert!(!with("Admin", &[("x-role", "admin")]));
}

#[test]
fn a_plaintext_peer_matches_no_positive_field_and_every_negative_one() {
    let plaintext = Plain { uris: Vec::new(), is_tls: false, ..Plain::default() };
    let value = |v: &str| vec![v.to_owned()];
    for (positive, negative) in [
        (
            Source { principals: value("*"), ..Source::default() },
            Source { not_principals: value("*"), ..Source::default() },
        ),
        (
            Source { namespaces: value("*"), ..Source::default() },
            Source { not_namespaces: value("*"), ..Source::default() },
        ),
        (
            Source { service_accounts: value("sleep"), ..Source::default() },
            Source { not_service_accounts: value("sleep"), ..Source::default() },
        ),
        (
            Source { trust_domains: value("*"), ..Source::default() },
            Source { not_trust_domains: value("*"), ..Source::default() },
        ),
    ] {
        let (mut a, mut b) = (rule(RuleAction::Allow), rule(RuleAction::Allow));
        (a.from, b.from) = (from(positive.clone()), from(negative));
        assert!(!is_allowed(&[a.clone()], &plaintext), "{positive:?}");
        assert!(is_allowed(&[b.clone()], &plaintext), "{positive:?}");
        assert!(is_allowed(&[a], &Plain::default()) && !is_allowed(&[b], &Plain::default()), "{positive:?}");
    }
}

#[test]
fn two_list_items_are_alternatives_and_two_fields_are_not() {
    let mut one = rule(RuleAction::Allow);
    one.from = from(Source {
        namespaces: strings(&["bar"]),
        principals: strings(&["cluster.local/ns/foo/sa/sleep"]),
        ..Source::default()
    });
    assert!(!is_allowed(&[one.clone()], &Plain::default()));
    one.from = Some(vec![
        Source { namespaces: strings(&["bar"]), ..Source::default() },
        Source { principals: strings(&["cluster.local/ns/foo/sa/sleep"]), ..Source::default() },
    ]);
    assert!(is_allowed(&[one], &Plain::default()));
}

#[test]
fn cluster_local_always_points_to_the_own_domain() {
    let domains = TrustDomains::new("new.example", ["old.example".to_owned()]);
    let mut allow = rule(RuleAction::Allow);
    allow.from = from(Source { principals: strings(&["cluster.local/ns/foo/sa/sleep"]), ..Source::default() });
    let engine = engine_with(&[allow], &domains);
    for (domain, expected) in [("new.example", true), ("old.example", true), ("cluster.local", false)] {
        let peer = Plain { uris: vec![format!("spiffe://{domain}/ns/foo/sa/sleep")], ..Plain::default() };
        assert_eq!(decide(&engine, &peer).is_allowed(), expected, "{domain}");
    }
}

#[test]
fn what_a_broken_rule_does() {
    type Breaking = Box<dyn Fn(&mut crate::RuleSpec)>;
    let broken: Vec<(&str, Breaking)> = vec![
        ("when[0].key", Box::new(|r| r.when = when("request.header[x]", &["a"], &[]))),
        ("when[0].key", Box::new(|r| r.when = when("experimental.envoy.filters.a[b]", &["a"], &[]))),
        ("when[0]", Box::new(|r| r.when = when("source.ip", &[], &[]))),
        ("from", Box::new(|r| r.from = Some(Vec::new()))),
        ("to", Box::new(|r| r.to = Some(Vec::new()))),
        ("from[0].source", Box::new(|r| r.from = from(Source::default()))),
        ("to[0].operation", Box::new(|r| r.to = to(Operation::default()))),
        (
            "from[0].source.ipBlocks[0]",
            Box::new(|r| r.from = from(Source { ip_blocks: strings(&["10.0.0.300"]), ..Source::default() })),
        ),
        (
            "from[0].source.notIpBlocks[1]",
            Box::new(|r| r.from = from(Source { not_ip_blocks: strings(&["::1", "x"]), ..Source::default() })),
        ),
        (
            "to[0].operation.ports[0]",
            Box::new(|r| r.to = to(Operation { ports: strings(&["http"]), ..Operation::default() })),
        ),
        (
            "to[0].operation.notPorts[0]",
            Box::new(|r| r.to = to(Operation { not_ports: strings(&["http"]), ..Operation::default() })),
        ),
        (
            "to[0].operation.paths[0]",
            Box::new(|r| r.to = to(Operation { paths: strings(&["/{**}/{*}"]), ..Operation::default() })),
        ),
        (
            "to[0].operation.methods[0]",
            Box::new(|r| r.to = to(Operation { methods: strings(&[""]), ..Operation::default() })),
        ),
        (
            "from[0].source.serviceAccounts[0]",
            Box::new(|r| r.from = from(Source { service_accounts: strings(&["a/b/c"]), ..Source::default() })),
        ),
        (
            "from[0].source.trustDomains[0]",
            Box::new(|r| r.from = from(Source { trust_domains: strings(&["a/b"]), ..Source::default() })),
        ),
    ];
    for (field, breaking) in broken {
        let (mut allow, mut deny) = (rule(RuleAction::Allow), rule(RuleAction::Deny));
        breaking(&mut allow);
        breaking(&mut deny);
        let admitted = admit_rule(&deny, &TrustDomains::default());
        assert_eq!(admitted.problems.first().map(|p| p.field.as_str()), Some(field));
        assert!(admitted.policies.is_empty() && admitted.deny_all.is_some(), "{field}");
        assert!(
            !is_allowed(&[rule(RuleAction::Allow), deny.clone()], &Plain::default()),
            "{field}: a broken DENY denies its target"
        );
        assert!(!is_allowed(&[deny], &Plain { http: None, ..Plain::default() }), "{field}: on TCP too");
        let admitted = admit_rule(&allow, &TrustDomains::default());
        assert!(admitted.policies.is_empty() && admitted.deny_all.is_none(), "{field}");
        assert!(!is_allowed(&[allow.clone()], &Plain::default()), "{field}: a broken ALLOW grants nothing");
        let mut good = super::facts::numbered_rule(RuleAction::Allow, 1);
        good.to = to(Operation { methods: strings(&["GET"]), ..Operation::default() });
        assert!(is_allowed(&[allow, good], &Plain::default()), "{field}: and spoils no other rule");
        let mut shadow = rule(RuleAction::Deny);
        shadow.mode = palisade_model::policy::PolicyMode::Shadow;
        breaking(&mut shadow);
        assert!(is_allowed(&[shadow], &Plain::default()), "{field}: a dry run changes no answer");
    }
}

#[test]
fn remote_and_peer_addresses_are_told_apart() {
    let mut allow = rule(RuleAction::Allow);
    allow.from = from(Source {
        remote_ip_blocks: strings(&["203.0.113.0/24"]),
        ip_blocks: strings(&["10.0.0.0/8"]),
        ..Source::default()
    });
    let request = http(|h| h.remote_ip = "203.0.113.9".parse().unwrap());
    assert!(is_allowed(&[allow.clone()], &request));
    assert!(!is_allowed(&[allow.clone()], &Plain::default()));
    let mut mapped = request;
    mapped.source_ip = "::ffff:10.0.0.4".parse().unwrap();
    assert!(is_allowed(&[allow], &mapped), "an IPv4 address in IPv6 clothes is the IPv4 address");
}

#[test]
fn decisions_name_the_first_policy_in_canonical_order() {
    let mut second = super::facts::numbered_rule(RuleAction::Allow, 2);
    second.from = from(Source { namespaces: strings(&["foo"]), ..Source::default() });
    let mut first = super::facts::numbered_rule(RuleAction::Allow, 1);
    first.to = to(Operation { paths: strings(&["/get"]), ..Operation::default() });
    let engine = engine(&[second, first, super::facts::numbered_rule(RuleAction::Allow, 3)]);
    let decision = decide(&engine, &Plain::default());
    assert_eq!(engine.deciding(&decision).map(|p| p.id.as_str()), Some("foo/allow[1]"));
}
