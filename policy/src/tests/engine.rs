//! The engine beyond single rules: missing and broken members, recording, explanations, the index with many policies.

use std::{sync::Arc, time::UNIX_EPOCH};

use bytes::Bytes;
use palisade_model::policy::{DenyAll, Effect, Policy, PolicyId, PolicyMode, PolicySet};

use super::facts::{
    Plain, PlainHttp, decide, engine, engine_of, engine_with, from, numbered_rule, rule, strings, to, when,
};
use crate::{
    CompiledPolicy, Condition, Decision, Denial, Operation, PolicyEngine, RequestFacts, RuleAction, Source,
    TrustDomains, Unrestricted, admit_rule, default_permit,
};

/// A policy from text alone, as an older or newer control plane would send it.
fn from_text(id: &str, effect: Effect, text: &str) -> Policy {
    Policy {
        id: PolicyId(id.into()),
        source: None,
        rule: None,
        effect,
        mode: PolicyMode::Enforce,
        cedar: text.into(),
        ir_version: 99,
        ir: Bytes::from_static(b"\xff\xff\xff"),
    }
}

fn set_of(policies: &[Policy]) -> PolicyEngine {
    let set = PolicySet {
        key: "workload/foo/x".into(),
        policies: policies.iter().map(|p| p.id.clone()).collect(),
        ..PolicySet::default()
    };
    PolicyEngine::build(&set, |id| policies.iter().find(|p| p.id == *id).map(|p| Arc::new(CompiledPolicy::load(p))))
}

#[test]
fn a_set_without_permits_denies() {
    let engine = set_of(&[]);
    assert!(matches!(decide(&engine, &Plain::default()), Decision::Deny(Denial::NoPermit)));
    assert!(!decide(&engine, &Plain { http: None, ..Plain::default() }).is_allowed());
}

#[test]
fn a_missing_member_denies_the_target() {
    let set = PolicySet {
        key: "workload/foo/x".into(),
        policies: [PolicyId("a/b[0]".into()), PolicyId("mesh/default-allow".into())].into(),
        ..PolicySet::default()
    };
    let permit = Arc::new(CompiledPolicy::load(&default_permit()));
    let engine = PolicyEngine::build(&set, |id| (id.as_str() == "mesh/default-allow").then(|| Arc::clone(&permit)));
    let decision = decide(&engine, &Plain::default());
    assert!(matches!(decision, Decision::Deny(Denial::DenyAll)));
    assert_eq!(engine.deciding(&decision).map(|p| p.id.as_str()), Some("a/b[0]"));
}

#[test]
fn an_unknown_ir_version_or_damaged_ir_is_compiled_from_the_text() {
    let mut allow = rule(RuleAction::Allow);
    allow.to = to(Operation { methods: strings(&["GET"]), ..Operation::default() });
    let sound = admit_rule(&allow, &TrustDomains::default()).policies.remove(0);
    let unknown = Policy { ir_version: 99, ..sound.clone() };
    let damaged = Policy { ir: sound.ir.slice(..sound.ir.len() / 2), ..sound.clone() };
    let empty = Policy { ir: Bytes::new(), ..sound.clone() };
    let post =
        Plain { http: Some(PlainHttp { method: "POST".to_owned(), ..PlainHttp::default() }), ..Plain::default() };
    for policy in [sound, unknown, damaged, empty] {
        let engine = set_of(&[policy]);
        assert!(decide(&engine, &Plain::default()).is_allowed());
        assert!(!decide(&engine, &post).is_allowed());
    }
}

#[test]
fn a_broken_permit_grants_nothing_and_a_broken_forbid_denies_everything() {
    let broken = |effect| from_text("a/broken", effect, "permit(principal, action, resource) when { 1 + 1 == 2 };");
    let engine = set_of(&[broken(Effect::Permit)]);
    assert!(!decide(&engine, &Plain::default()).is_allowed());
    assert_eq!(engine.problems().count(), 1);
    let engine = set_of(&[broken(Effect::Forbid), default_permit()]);
    assert!(matches!(decide(&engine, &Plain::default()), Decision::Deny(Denial::Failed(_))));
    assert!(!decide(&engine, &Plain { http: None, ..Plain::default() }).is_allowed());
    let disguised = from_text("a/disguised", Effect::Forbid, "permit(principal, action, resource);");
    assert!(
        !decide(&set_of(&[disguised, default_permit()]), &Plain::default()).is_allowed(),
        "an effect that the text denies"
    );
}

#[test]
fn a_failing_forbid_denies_and_a_failing_permit_grants_nothing() {
    // Unguarded, as strict checking would refuse it: only the compiled form can carry it here.
    let test = crate::ir::Test::TextIn(crate::ir::Text::Sni, crate::ir::Sorted::from_values(vec!["a.com".into()]));
    let condition = crate::ir::Node::Test(test, crate::ir::NO_LABEL);
    let program = crate::ir::Program { actions: crate::ir::Actions::ALL, condition, labels: Vec::new() };
    let ir = Bytes::from(crate::ir::encode(&program).unwrap());
    let policy =
        |id: &str, effect| Policy { ir_version: crate::ir::IR_VERSION, ir: ir.clone(), ..from_text(id, effect, "") };
    let tcp = Plain { http: None, ..Plain::default() };
    let engine = set_of(&[policy("a", Effect::Forbid), default_permit()]);
    for plain in [Plain::default(), tcp.clone()] {
        assert!(matches!(decide(&engine, &plain), Decision::Deny(Denial::Failed(_))));
    }
    let permit = Arc::new(CompiledPolicy::load(&policy("a", Effect::Permit)));
    let set =
        PolicySet { key: "workload/foo/x".into(), policies: [PolicyId("a".into())].into(), ..PolicySet::default() };
    let engine = PolicyEngine::build(&set, |_| Some(Arc::clone(&permit)));
    for plain in [Plain::default(), tcp] {
        assert!(matches!(decide(&engine, &plain), Decision::Deny(Denial::NoPermit)));
    }
    assert!(permit.evaluation_errors() >= 2);
    assert!(decide(&engine, &Plain { sni: Some("A.com".to_owned()), ..Plain::default() }).is_allowed());
}

#[test]
fn what_has_no_compiled_form_runs_on_cedar_and_is_counted() {
    let text = r#"forbid(principal, action == Mesh::Action::"http", resource) when { if context has jwt then context.jwt.issuer == "evil" else context.http.path == "/get" };"#;
    let policy = Arc::new(CompiledPolicy::load(&from_text("a/if", Effect::Forbid, text)));
    let permit = Arc::new(CompiledPolicy::load(&default_permit()));
    let set = PolicySet {
        key: "workload/foo/x".into(),
        policies: [PolicyId("a/if".into()), PolicyId("b".into())].into(),
        ..PolicySet::default()
    };
    let engine = PolicyEngine::build(&set, |id| Some(Arc::clone(if id.as_str() == "b" { &permit } else { &policy })));
    assert!(!decide(&engine, &Plain::default()).is_allowed());
    let other =
        Plain { http: Some(PlainHttp { path: "/other".to_owned(), ..PlainHttp::default() }), ..Plain::default() };
    assert!(decide(&engine, &other).is_allowed());
    assert_eq!(policy.fallback_evaluations(), 2);
    assert_eq!(policy.evaluation_errors(), 0);
    // Bytes that are no Cedar text: the forbid cannot be evaluated, and so denies.
    let connection = engine.connect(&other.connection());
    let headers: Vec<(String, Vec<u8>)> = Vec::new();
    let request = RequestFacts {
        method: "GET",
        scheme: "http",
        authority: b"a",
        path: b"/other\xff",
        query: None,
        headers: &headers,
        remote_ip: "10.0.0.1".parse().unwrap(),
        jwt: None,
        now: UNIX_EPOCH,
    };
    assert!(matches!(engine.decide_http(&connection, &request), Decision::Deny(Denial::Failed(_))));
    assert_eq!(policy.evaluation_errors(), 1);
}

#[test]
fn bytes_that_are_not_text_do_not_hide_from_a_forbid() {
    let mut deny = rule(RuleAction::Deny);
    deny.to = to(Operation { paths: strings(&["/admin*"]), ..Operation::default() });
    let mut header = numbered_rule(RuleAction::Deny, 1);
    header.when = when("request.headers[x-role]", &["ad*"], &[]);
    let engine = engine(&[deny, header]);
    let connection = engine.connect(&Plain::default().connection());
    let decide = |path: &[u8], value: &[u8]| {
        let headers = vec![("x-role".to_owned(), value.to_vec())];
        let request = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: b"a",
            path,
            query: None,
            headers: &headers,
            remote_ip: "10.0.0.1".parse().unwrap(),
            jwt: None,
            now: UNIX_EPOCH,
        };
        engine.decide_http(&connection, &request).is_allowed()
    };
    assert!(decide(b"/\xff", b"\xff"));
    assert!(!decide(b"/admin/\xff", b""));
    assert!(!decide(b"/", b"ad\xff"));
}

#[test]
fn a_connection_of_another_engine_is_looked_at_again() {
    let mut deny = rule(RuleAction::Deny);
    deny.from = from(Source { namespaces: strings(&["foo"]), ..Source::default() });
    let (open, closed) = (engine(&[]), engine(&[deny]));
    let plain = Plain::default();
    let connection = open.connect(&plain.connection());
    assert!(plain.with_request(|r| open.decide_http(&connection, r)).is_allowed());
    assert_eq!(connection.constant(), Some(true));
    assert!(!plain.with_request(|r| closed.decide_http(&connection, r)).is_allowed());
    assert!(plain.with_request(|r| open.decide_http(&connection, r)).is_allowed());
}

#[test]
fn unrestricted_traffic_has_a_named_permit_and_deny_all_a_named_reason() {
    let engine = PolicyEngine::unrestricted(Unrestricted::Egress);
    let decision = decide(&engine, &Plain::default());
    assert_eq!(engine.deciding(&decision).map(|p| p.id.as_str()), Some("mesh/default-egress"));
    assert!(decide(&engine, &Plain { http: None, ..Plain::default() }).is_allowed());
    let engine =
        PolicyEngine::deny_all(&DenyAll { id: PolicyId("foo/p".into()), source: None, message: "unreadable".into() });
    let decision = decide(&engine, &Plain::default());
    assert_eq!(engine.deciding(&decision).map(|p| p.id.as_str()), Some("foo/p"));
    let connection = engine.connect(&Plain::default().connection());
    assert_eq!(engine.explain(&engine.capture_tcp(&connection)).message.as_deref(), Some("unreadable"));
}

#[test]
fn dry_runs_and_audits_are_recorded_and_change_nothing() {
    let mut audit = rule(RuleAction::Audit);
    audit.to = to(Operation { paths: strings(&["/get"]), ..Operation::default() });
    let mut shadow_deny = rule(RuleAction::Deny);
    shadow_deny.mode = PolicyMode::Shadow;
    let mut shadow_allow = rule(RuleAction::Allow);
    shadow_allow.mode = PolicyMode::Shadow;
    shadow_allow.to = to(Operation { methods: strings(&["POST"]), ..Operation::default() });
    let engine = engine_with(&[audit, shadow_deny, shadow_allow], &TrustDomains::default());
    let plain = Plain::default();
    assert!(decide(&engine, &plain).is_allowed());
    assert!(engine.records());
    let connection = engine.connect(&plain.connection());
    let recorded = plain.with_request(|r| engine.record_http(&connection, r));
    let rows: Vec<_> = recorded.policies.iter().map(|p| (p.policy().id.as_str(), p.matched, p.allowed)).collect();
    assert_eq!(
        rows,
        [
            // An ALLOW that does not match would close what the default opens.
            ("foo/allow[0]", false, Some(false)),
            ("foo/audit[0]", true, None),
            ("foo/deny[0]", true, Some(false)),
        ]
    );
    assert_eq!(recorded.all_allowed, Some(false));
}

#[test]
fn the_nearest_miss_names_the_fields_that_failed() {
    let mut far = numbered_rule(RuleAction::Allow, 0);
    far.from = from(Source { namespaces: strings(&["bar", "baz"]), ..Source::default() });
    far.to = to(Operation { methods: strings(&["GET", "H*"]), ports: strings(&["9090"]), ..Operation::default() });
    let mut near = numbered_rule(RuleAction::Allow, 1);
    near.from = Some(vec![
        Source {
            principals: strings(&["cluster.local/ns/bar/sa/x"]),
            ip_blocks: strings(&["192.168.0.0/16"]),
            ..Source::default()
        },
        Source { principals: strings(&["cluster.local/ns/foo/sa/sleep"]), ..Source::default() },
    ]);
    near.to = to(Operation { methods: strings(&["GET"]), ..Operation::default() });
    near.when = when("request.headers[x-role]", &[], &["user"]);
    let engine = engine(&[far, near]);
    let post = PlainHttp {
        method: "POST".to_owned(),
        headers: vec![("X-Role".to_owned(), "user".to_owned())],
        ..PlainHttp::default()
    };
    let plain = Plain { http: Some(post), ..Plain::default() };
    let connection = engine.connect(&plain.connection());
    let explanation = engine.explain(&plain.with_request(|r| engine.capture_http(&connection, r)));
    assert!(!explanation.allowed && explanation.policies.is_empty());
    let shown: Vec<_> = explanation
        .nearest
        .iter()
        .map(|miss| {
            let failed: Vec<_> =
                miss.failed.iter().map(|f| format!("{} {:?} {}", f.field, f.expected, f.actual)).collect();
            (miss.policy.rule, failed)
        })
        .collect();
    assert_eq!(
        shown,
        [
            (
                Some(1),
                vec![
                    r#"to[0].operation.methods ["GET"] POST"#.to_owned(),
                    r#"when[0].notValues ["user"] user"#.to_owned()
                ]
            ),
            (
                Some(0),
                vec![
                    r#"from[0].source.namespaces ["bar", "baz"] foo"#.to_owned(),
                    r#"to[0].operation.ports ["9090"] 8080"#.to_owned(),
                    r#"to[0].operation.methods ["GET", "H*"] POST"#.to_owned(),
                ]
            ),
        ]
    );
    let get = Plain::default();
    let explanation = engine.explain(&get.with_request(|r| engine.capture_http(&connection, r)));
    assert!(explanation.allowed);
    assert_eq!(explanation.policies.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["foo/allow[1]"]);
}

#[test]
fn every_policy_of_a_large_set_is_found_by_its_principal_and_path() {
    let mut policies = Vec::new();
    for number in 0..120 {
        let mut allow = numbered_rule(RuleAction::Allow, number);
        let namespace = format!("ns{}", number % 7);
        allow.from = from(Source { namespaces: vec![namespace], ..Source::default() });
        let path = match number % 4 {
            0 => format!("/api/v1/r{number}"),
            1 => format!("/api/v1/r{number}/*"),
            2 => format!("/r{number}/{{*}}/x"),
            _ => format!("*/r{number}"),
        };
        allow.to = to(Operation { paths: vec![path], ..Operation::default() });
        policies.extend(admit_rule(&allow, &TrustDomains::default()).policies);
    }
    let engine = engine_of(policies, None);
    for number in 0..120 {
        for namespace in 0..7 {
            let path = match number % 4 {
                0 => format!("/api/v1/r{number}"),
                1 => format!("/api/v1/r{number}/a/b/c"),
                2 => format!("/r{number}/q/x"),
                _ => format!("/deep/er/r{number}"),
            };
            let plain = Plain {
                uris: vec![format!("spiffe://cluster.local/ns/ns{namespace}/sa/x")],
                http: Some(PlainHttp { path, ..PlainHttp::default() }),
                ..Plain::default()
            };
            let decision = decide(&engine, &plain);
            assert_eq!(decision.is_allowed(), number % 7 == namespace, "{number} {namespace}");
            if decision.is_allowed() {
                assert_eq!(engine.deciding(&decision).and_then(|p| p.rule), Some(u32::try_from(number).unwrap()));
            }
        }
    }
}

#[test]
fn every_policy_of_a_large_set_is_found_by_what_tells_it_apart() {
    let condition =
        |key: &str, value: String| vec![Condition { key: key.to_owned(), values: vec![value], not_values: vec![] }];
    let mut policies = Vec::new();
    for number in 0..120 {
        let mut allow = numbered_rule(RuleAction::Allow, number);
        let mut operation = Operation { paths: vec!["/api/*".to_owned()], ..Operation::default() };
        match number % 5 {
            0 => allow.when = condition("request.headers[x-tenant]", format!("t{number}")),
            1 => allow.when = condition("request.headers[x-tenant]", format!("t{number}-*")),
            2 => allow.when = condition("request.auth.claims[team]", format!("t{number}")),
            3 => operation.hosts = vec![format!("t{number}.example")],
            _ => operation.hosts = vec![format!("t{number}.example:*")],
        }
        allow.to = to(operation);
        policies.extend(admit_rule(&allow, &TrustDomains::default()).policies);
    }
    let engine = engine_of(policies, None);
    for number in 0..120 {
        for kind in 0..5 {
            let line = |value: String| {
                let headers = ["x-tenant", "x-other", "x-tenant"].map(str::to_owned);
                headers.into_iter().zip(["nobody".to_owned(), value.clone(), value]).collect()
            };
            let mut http = PlainHttp { path: "/api/a".to_owned(), authority: "a".to_owned(), ..PlainHttp::default() };
            match kind {
                0 => http.headers = line(format!("t{number}")),
                1 => http.headers = line(format!("t{number}-eu")),
                2 => {
                    let claims = vec![(vec!["team".to_owned()], vec!["x".to_owned(), format!("t{number}")])];
                    http.jwt = Some(("i".to_owned(), "s".to_owned(), claims));
                }
                3 => http.authority = format!("T{number}.example"),
                _ => http.authority = format!("t{number}.example:8080"),
            }
            let decision = decide(&engine, &Plain { http: Some(http), ..Plain::default() });
            assert_eq!(decision.is_allowed(), number % 5 == kind, "{number} {kind}");
            if decision.is_allowed() {
                assert_eq!(engine.deciding(&decision).and_then(|p| p.rule), Some(u32::try_from(number).unwrap()));
            }
        }
    }
}

#[test]
fn a_wrong_compiled_form_is_found_by_replay_and_cedar_decides_from_then_on() {
    // The text forbids POST; the compiled form, damaged on purpose, forbids nothing.
    let mut deny = rule(RuleAction::Deny);
    deny.to = to(Operation { methods: strings(&["POST"]), ..Operation::default() });
    let sound = admit_rule(&deny, &TrustDomains::default()).policies.remove(0);
    let condition = crate::ir::Node::Const(false);
    let program = crate::ir::Program { actions: crate::ir::Actions::ALL, condition, labels: Vec::new() };
    let wrong = Policy { ir: Bytes::from(crate::ir::encode(&program).unwrap()), ..sound };
    let policies = [wrong, default_permit()];
    let loaded: Vec<_> = policies.iter().map(|p| Arc::new(CompiledPolicy::load(p))).collect();
    let set = PolicySet {
        key: "workload/foo/x".into(),
        policies: policies.iter().map(|p| p.id.clone()).collect(),
        ..PolicySet::default()
    };
    let lookup = |id: &PolicyId| loaded.iter().find(|p| p.policy().id == *id).cloned();
    let engine = PolicyEngine::build(&set, lookup);
    let post =
        Plain { http: Some(PlainHttp { method: "POST".to_owned(), ..PlainHttp::default() }), ..Plain::default() };
    assert!(decide(&engine, &post).is_allowed());
    let connection = engine.connect(&post.connection());
    let captured = post.with_request(|request| engine.capture_http(&connection, request));
    let made = made(&decide(&engine, &post), &engine);
    assert!(matches!(engine.replay(&captured, &made), crate::Replay::Differs(policies) if policies.len() == 1));
    assert!(engine.is_on_cedar());
    assert!(matches!(decide(&engine, &post), Decision::Deny(Denial::Forbidden(_))));
    assert!(decide(&engine, &Plain::default()).is_allowed());
    // A later configuration with the same policy does not trust it either.
    assert!(!decide(&PolicyEngine::build(&set, lookup), &post).is_allowed());
    assert!(loaded[0].fallback_evaluations() > 0);
}

#[test]
fn sound_policies_agree_with_cedar() {
    let mut allow = rule(RuleAction::Allow);
    allow.from = from(Source { ip_blocks: strings(&["10.0.0.0/8"]), ..Source::default() });
    allow.to = to(Operation { paths: strings(&["/get", "/x/{*}"]), ..Operation::default() });
    let engine = engine(&[allow]);
    let plain = Plain::default();
    let connection = engine.connect(&plain.connection());
    let captured = plain.with_request(|request| engine.capture_http(&connection, request));
    let made = made(&decide(&engine, &plain), &engine);
    assert_eq!(engine.replay(&captured, &made), crate::Replay::Agrees);
    let odd = Plain {
        http: Some(PlainHttp { headers: vec![("x".to_owned(), "y".to_owned())], ..PlainHttp::default() }),
        ..Plain::default()
    };
    let mut captured = odd.with_request(|request| engine.capture_http(&connection, request));
    if let Some(http) = &mut captured.http {
        http.path = b"/\xff".to_vec();
    }
    assert_eq!(engine.replay(&captured, &made), crate::Replay::NotComparable);
    assert!(!engine.is_on_cedar());
}

fn made(decision: &Decision, engine: &PolicyEngine) -> crate::MadeDecision {
    let policy = engine.deciding(decision).map(|policy| policy.id.clone());
    crate::MadeDecision { is_allowed: decision.is_allowed(), policy }
}

#[test]
fn a_decision_that_sound_policies_do_not_make_is_found_by_replay() {
    let mut allow = rule(RuleAction::Allow);
    allow.to = to(Operation { paths: strings(&["/get"]), ..Operation::default() });
    let mut deny = numbered_rule(RuleAction::Deny, 1);
    deny.to = to(Operation { methods: strings(&["POST"]), ..Operation::default() });
    let post = PlainHttp { method: "POST".to_owned(), ..PlainHttp::default() };
    let elsewhere = PlainHttp { path: "/x".to_owned(), ..PlainHttp::default() };
    // What the engine says is right; a wrong index would have said the opposite.
    for (http, at_fault) in [(PlainHttp::default(), 1), (post, 2), (elsewhere, 1)] {
        let engine = engine(&[allow.clone(), deny.clone()]);
        let plain = Plain { http: Some(http), ..Plain::default() };
        let captured = plain.with_request(|r| engine.capture_http(&engine.connect(&plain.connection()), r));
        let right = made(&decide(&engine, &plain), &engine);
        assert_eq!(engine.replay(&captured, &right), crate::Replay::Agrees);
        let policy = (!right.is_allowed).then(|| PolicyId::of_rule("foo", "allow", 0));
        let wrong = crate::MadeDecision { is_allowed: !right.is_allowed, policy };
        let crate::Replay::Differs(policies) = engine.replay(&captured, &wrong) else { panic!("{wrong:?}") };
        assert_eq!(policies.len(), at_fault, "{policies:?}");
        assert!(engine.is_on_cedar());
        assert_eq!(decide(&engine, &plain).is_allowed(), right.is_allowed);
    }
}

#[test]
fn a_decision_allocates_nothing() {
    let rules: Vec<_> = (0..50)
        .map(|number| {
            let mut allow = numbered_rule(RuleAction::Allow, number);
            allow.from = from(Source { namespaces: strings(&["foo"]), ..Source::default() });
            allow.to = to(Operation {
                methods: strings(&["GET", "HEAD"]),
                paths: vec![format!("/api/{number}/*"), format!("/{{*}}/{number}")],
                hosts: strings(&["httpbin.foo:8000", "*.example"]),
                ports: strings(&["8080"]),
                ..Operation::default()
            });
            allow.when = when("request.headers[x-tenant]", &["acme", "umb*"], &[]);
            allow
        })
        .collect();
    let engine = engine(&rules);
    let http = PlainHttp {
        path: "/api/49/x".to_owned(),
        headers: vec![("x-tenant".to_owned(), "umbrella".to_owned())],
        ..PlainHttp::default()
    };
    let plain = Plain { http: Some(http), ..Plain::default() };
    let connection = engine.connect(&plain.connection());
    plain.with_request(|request| {
        assert!(engine.decide_http(&connection, request).is_allowed());
        let counted = allocation_counter::measure(|| {
            assert!(engine.decide_http(&connection, request).is_allowed());
        });
        assert_eq!(counted.count_total, 0);
    });
}
