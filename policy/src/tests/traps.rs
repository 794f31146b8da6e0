//! Traps that are known: text that breaks out, lists that are too long, bytes that are hostile.

use proptest::prelude::*;

use super::facts::{Plain, decide, engine_of, from, is_allowed, rule, strings, to};
use crate::{
    Condition, Operation, RuleAction, RuleSpec, Source, TrustDomains, admit_rule,
    check::{Warnings, check, text_literals},
    ir::{Node, Program, decode, encode},
};

/// A rule with one string in every field that takes any string.
fn everywhere(value: &str) -> RuleSpec {
    let one = vec![value.to_owned()];
    let mut spec = rule(RuleAction::Allow);
    spec.id = palisade_model::policy::PolicyId(value.into());
    spec.source.as_mut().unwrap().name = value.into();
    spec.from = Some(vec![Source {
        principals: one.clone(),
        not_namespaces: one.clone(),
        request_principals: one.clone(),
        ..Source::default()
    }]);
    spec.to =
        to(Operation { hosts: one.clone(), methods: one.clone(), not_paths: one.clone(), ..Operation::default() });
    spec.when = ["request.headers[x]", "request.auth.claims[a]", "connection.sni"]
        .into_iter()
        .map(|key| Condition { key: key.to_owned(), values: one.clone(), not_values: Vec::new() })
        .collect();
    spec.when.push(Condition {
        key: format!("request.headers[{value}]"),
        values: strings(&["v"]),
        not_values: Vec::new(),
    });
    spec
}

/// Puts a text into every field that takes any, and looks for what is there beside it.
pub(super) fn stays_inside(value: &str) {
    let admitted = admit_rule(&everywhere(value), &TrustDomains::default());
    // A value may be a broken path template; everything else is some text.
    if crate::form::Template::is_template(value) {
        return;
    }
    assert_eq!(admitted.problems, []);
    for policy in &admitted.policies {
        let checked = check(&policy.cedar, Warnings::Accept).unwrap();
        assert_eq!(checked.policy.annotation("id"), Some(value));
        let source = format!("AuthorizationPolicy foo/{value}");
        assert_eq!(checked.policy.annotation("source"), Some(source.as_str()));
        assert_eq!(checked.policy.annotations().count(), 2);
        if !value.contains('*') {
            let literals = text_literals(&checked.tree);
            assert!(literals.contains(&value), "{}", policy.cedar);
            // Nothing else came into being: every literal is the value, a part of it, or one of the rule's own words.
            for literal in literals {
                let is_known = literal == value
                    || value.contains(literal)
                    || literal == value.to_ascii_lowercase()
                    || ["x", "v", "a"].contains(&literal)
                    || literal == format!("principals={value}")
                    || literal == format!("namespaces={value}");
                assert!(is_known, "{literal:?} in {}", policy.cedar);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_text_breaks_out_of_its_literal(value in "(\\PC|[\"\\\\*\\n\\r\\t\\x00'{}();/u]){1,12}") {
        stays_inside(&value);
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_programs_do_no_harm(flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6), cut in any::<u16>()) {
        let mut allow = rule(RuleAction::Allow);
        allow.from = from(Source { principals: strings(&["a/*", "cluster.local/ns/a/sa/b"]), ip_blocks: strings(&["10.0.0.0/8"]), ..Source::default() });
        allow.to = to(Operation { paths: strings(&["/a/{*}", "/b*"]), ..Operation::default() });
        let mut bytes = admit_rule(&allow, &TrustDomains::default()).policies.remove(0).ir.to_vec();
        let length = bytes.len();
        for (at, xor) in flips {
            bytes[usize::from(at) % length] ^= xor;
        }
        bytes.truncate(length - usize::from(cut) % 8);
        if let Ok(program) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&program).unwrap()).unwrap(), program);
        }
    }
}

#[test]
fn programs_survive_the_journey() {
    for seed in 0..60 {
        let mut rng = super::random::Rng::new(seed + 5_000);
        let rule = super::random::rule(&mut rng, 0);
        for policy in admit_rule(&rule, &TrustDomains::default()).policies {
            let program = decode(&policy.ir).unwrap();
            assert_eq!(encode(&program).unwrap(), policy.ir);
            // Every test behind the scope knows its field.
            let (mut named, mut unnamed) = (0, 0);
            program.condition.for_each_test(&mut |_, label| {
                if program.labels.get(usize::from(label)).is_some() { named += 1 } else { unnamed += 1 }
            });
            assert_eq!(unnamed, 1, "only `resource is` has no field: {named} {}", policy.cedar);
        }
    }
}

#[test]
fn programs_that_nest_too_deep_or_share_nodes_are_refused() {
    let deep = (0..200).fold(Node::Const(true), |node, _| Node::Not(Box::new(node)));
    let program = Program { actions: crate::ir::Actions::ALL, condition: deep, labels: Vec::new() };
    assert!(encode(&program).is_err());
    // actions 7, no labels, 100,000 times `Not` behind one constant.
    let mut bytes = vec![7, 0, 0xa1, 0x8d, 0x06, 0, 1];
    bytes.extend(std::iter::repeat_n(3, 100_000));
    assert!(decode(&bytes).is_err());
    // A claim of four thousand million steps.
    assert!(decode(&[7, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]).is_err());
    // `All` of more than there is.
    assert!(decode(&[7, 0, 1, 1, 9]).is_err());
}

#[test]
fn a_deny_with_thousands_of_blocks_denies_on_a_small_stack() {
    let blocks: Vec<String> = (0..4_000).map(|i| format!("11.{}.{}.0/24", i / 256, i % 256)).collect();
    let mut deny = rule(RuleAction::Deny);
    deny.from = from(Source { ip_blocks: blocks, ..Source::default() });
    let policies = admit_rule(&deny, &TrustDomains::default());
    assert_eq!(policies.problems, []);
    let text = policies.policies[0].cedar.clone();
    let mut all = policies.policies;
    all.push(crate::default_permit());
    let decided = std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(move || {
            let engine = engine_of(all, None);
            let inside = Plain { source_ip: "11.15.159.9".parse().unwrap(), ..Plain::default() };
            let outside = Plain { source_ip: "11.15.160.9".parse().unwrap(), ..Plain::default() };
            (decide(&engine, &inside).is_allowed(), decide(&engine, &outside).is_allowed())
        })
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(decided, (false, true));
    assert!(check(&text, Warnings::Refuse).is_ok(), "the balanced text passes the depth limit");
}

#[test]
fn a_rule_reads_as_a_person_would_write_it() {
    let mut allow = rule(RuleAction::Allow);
    allow.from =
        from(Source { principals: strings(&["cluster.local/ns/foo/sa/sleep", "*/sa/ops"]), ..Source::default() });
    allow.to = Some(vec![
        Operation {
            methods: strings(&["GET", "HEAD"]),
            paths: strings(&["/v1/*", "/items/{*}/tags"]),
            ..Operation::default()
        },
        Operation { ports: strings(&["8080"]), hosts: strings(&["A.com"]), ..Operation::default() },
    ]);
    allow.when = super::facts::when("request.headers[X-Tenant]", &["acme"], &[]);
    let text = admit_rule(&allow, &TrustDomains::default()).policies.remove(0).cedar;
    let expected = r#"@id("foo/allow[0]")
@source("AuthorizationPolicy foo/allow")
permit (
  principal,
  action in [Mesh::Action::"http", Mesh::Action::"grpc"],
  resource is Mesh::Workload
) when {
  (
    principal in Mesh::ServiceAccount::"cluster.local/ns/foo/sa/sleep" ||
    context.matched.contains("principals=*/sa/ops")
  ) &&
  (
    (
      ["GET", "HEAD"].contains(context.http.method) &&
      (context.http.path like "/v1/*" || context.http.matched.contains("paths=/items/{*}/tags"))
    ) ||
    (context.http.authority == "a.com" && context.destination.port == 8080)
  ) &&
  context.http.headers.hasTag("x-tenant") &&
  context.http.headers.getTag("x-tenant").contains("acme")
};
"#;
    assert_eq!(&*text, expected, "{text}");
}

#[test]
fn a_rule_that_contradicts_itself_matches_nothing_and_breaks_nothing() {
    let mut deny = rule(RuleAction::Deny);
    deny.from = from(Source { principals: strings(&["*"]), not_principals: strings(&["*"]), ..Source::default() });
    assert!(is_allowed(&[deny], &Plain::default()));
}

#[test]
fn guards_hold_however_many_conditions_there_are() {
    let mut allow = rule(RuleAction::Allow);
    let keys = (0..40).map(|i| match i % 4 {
        0 => format!("request.headers[x-{i}]"),
        1 => format!("request.auth.claims[c][{i}]"),
        2 => "connection.sni".to_owned(),
        _ => "request.auth.principal".to_owned(),
    });
    allow.when =
        keys.map(|key| Condition { key, values: strings(&["a", "b*"]), not_values: strings(&["z", "*y"]) }).collect();
    let admitted = admit_rule(&allow, &TrustDomains::default());
    assert_eq!(admitted.problems, []);
    let program = decode(&admitted.policies[0].ir).unwrap();
    assert!(crate::index::is_infallible(&program));
    assert!(check(&admitted.policies[0].cedar, Warnings::Refuse).is_ok());
}
