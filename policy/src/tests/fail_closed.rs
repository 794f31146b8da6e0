//! The ways in which Cedar by itself lets a request through that a forbid was meant to stop, one test each.

use std::{sync::Arc, thread};

use bytes::Bytes;
use palisade_model::{
    origin::Origin,
    policy::{Effect, Policy, PolicyId, PolicyMode, PolicySet},
};

use super::facts::{Plain, PlainHttp, decide, from, is_allowed, rule, strings};
use crate::{
    CedarAdmission, CedarDocument, CompiledPolicy, Decision, Denial, MAX_TEXT_BYTES, PolicyEngine, RuleAction, Source,
    admit_cedar, check_text, default_permit,
};

/// A forbid as the wire carries it from a control plane that checks nothing: its text and no compiled form.
fn engine_with(text: &str) -> PolicyEngine {
    let policy = Policy {
        id: PolicyId("a/forbid".into()),
        source: None,
        rule: None,
        effect: Effect::Forbid,
        mode: PolicyMode::Enforce,
        cedar: text.into(),
        ir_version: 0,
        ir: Bytes::new(),
    };
    let policies = [policy, default_permit()];
    let set = PolicySet {
        key: "workload/foo/x".into(),
        policies: policies.iter().map(|p| p.id.clone()).collect(),
        ..PolicySet::default()
    };
    PolicyEngine::build(&set, |id| policies.iter().find(|p| p.id == *id).map(|p| Arc::new(CompiledPolicy::load(p))))
}

fn admit(text: &str) -> CedarAdmission {
    let source = Origin {
        group: "palisade.dev".into(),
        kind: "CedarPolicy".into(),
        namespace: "foo".into(),
        name: "p".into(),
        uid: "".into(),
        generation: 0,
    };
    admit_cedar(&CedarDocument { source: &source, text, links: &[], mode: PolicyMode::Enforce })
}

/// A forbid over so many address blocks, written as people write it. The last one holds 10.0.0.4.
fn flat_chain(blocks: usize) -> String {
    let of = |i: usize| format!("context.source.ip.isInRange(ip(\"11.{}.{}.0/24\"))", i / 256, i % 256);
    let mut chain: Vec<String> = (1..blocks).map(of).collect();
    chain.push("context.source.ip.isInRange(ip(\"10.0.0.0/24\"))".to_owned());
    format!("forbid(principal, action, resource) when {{ {} }};", chain.join(" || "))
}

/// Conditions without a compiled form: whatever they hold, Cedar itself has to say.
fn on_cedar(condition: &str) -> String {
    format!("forbid(principal, action, resource) when {{ if {condition} then true else false }};")
}

fn tcp() -> Plain {
    Plain { http: None, ..Plain::default() }
}

#[test]
fn the_chain_of_468_ranges_denies_at_admission_and_at_load_on_every_stack() {
    for (blocks, stack_kib) in [(31, 256), (218, 1024), (468, 2048), (468, 256), (4_000, 256), (10_000, 2048)] {
        let run = move || {
            let text = flat_chain(blocks);
            let admission = admit(&text);
            // Short chains are sound; long ones are broken and say so. Either way nobody passes whom they name.
            assert_eq!(admission.inbound.deny_all.is_some(), blocks > 64, "{blocks}: {:?}", admission.findings);
            assert_eq!(admission.findings.is_empty(), blocks <= 64, "{blocks}");
            let engine = engine_with(&text);
            for plain in [Plain::default(), tcp()] {
                assert!(!decide(&engine, &plain).is_allowed(), "{blocks} blocks on {stack_kib} KiB");
            }
        };
        thread::Builder::new().stack_size(stack_kib * 1024).spawn(run).unwrap().join().unwrap();
    }
}

#[test]
fn a_missing_attribute_is_refused_at_admission_and_denies_at_load() {
    for (condition, absent) in [
        ("context.tls.sni == \"evil.example\"", Plain { sni: None, is_tls: false, ..Plain::default() }),
        ("principal.namespace == \"evil\"", Plain { uris: Vec::new(), ..Plain::default() }),
    ] {
        for text in [format!("forbid(principal, action, resource) when {{ {condition} }};"), on_cedar(condition)] {
            let findings = check_text(&text).expect_err(&text);
            assert!(!findings.is_empty(), "{text}");
            assert!(admit(&text).inbound.deny_all.is_some(), "{text}");
            let engine = engine_with(&text);
            assert!(matches!(decide(&engine, &absent), Decision::Deny(Denial::Failed(_))), "{text}");
        }
    }
}

/// `principal in X` is quietly false in Cedar when the principal is no entity of the store: here every peer is one.
#[test]
fn no_peer_is_missing_from_the_entities() {
    let peers = [
        ("a mesh peer", Plain::default(), r#"principal in Mesh::Namespace::"foo""#),
        ("its trust domain", Plain::default(), r#"principal in Mesh::TrustDomain::"cluster.local""#),
        ("a partner", Plain { uris: strings(&["spiffe://partner.example/app"]), ..Plain::default() }, {
            r#"principal in Mesh::TrustDomain::"partner.example""#
        }),
        (
            "a foreign certificate with a mesh name",
            Plain {
                uris: strings(&["spiffe://partner.example/app", "spiffe://other.example/ns/evil/sa/x"]),
                ..Plain::default()
            },
            r#"principal in Mesh::Namespace::"evil""#,
        ),
        ("nobody", Plain { uris: Vec::new(), ..Plain::default() }, "principal is Mesh::Anonymous"),
    ];
    for (name, plain, condition) in peers {
        let compiled = format!("forbid(principal, action, resource) when {{ {condition} }};");
        for text in [compiled, on_cedar(condition)] {
            for plain in [plain.clone(), Plain { http: None, ..plain.clone() }] {
                let decision = decide(&engine_with(&text), &plain);
                assert!(matches!(decision, Decision::Deny(Denial::Forbidden(_))), "{name}: {text} {decision:?}");
            }
        }
    }
}

#[test]
fn an_ipv4_mapped_address_is_in_the_ipv4_block() {
    let mapped = "::ffff:10.0.0.4".parse().unwrap();
    let as_peer = Plain { source_ip: mapped, ..Plain::default() };
    let as_client = Plain { http: Some(PlainHttp { remote_ip: mapped, ..PlainHttp::default() }), ..Plain::default() };
    let mut by_peer = rule(RuleAction::Deny);
    by_peer.from = from(Source { ip_blocks: strings(&["10.0.0.0/8"]), ..Source::default() });
    let mut by_client = rule(RuleAction::Deny);
    by_client.from = from(Source { remote_ip_blocks: strings(&["10.0.0.0/8"]), ..Source::default() });
    assert!(!is_allowed(&[by_peer], &as_peer) && !is_allowed(&[by_client], &as_client));
    // Cedar's own `ip()` takes neither form; it is given the IPv4 address.
    for (attribute, plain) in [("context.source.ip", as_peer), ("context.source.remoteIp", as_client)] {
        let text = on_cedar(&format!("{attribute}.isInRange(ip(\"10.0.0.0/8\"))"));
        assert!(matches!(decide(&engine_with(&text), &plain), Decision::Deny(Denial::Forbidden(_))), "{text}");
    }
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_and_denies() {
    let long = format!(
        "forbid(principal, action, resource) when {{ context.source.ip == ip(\"9.9.9.9\") /*{}*/ }};",
        "x".repeat(MAX_TEXT_BYTES)
    );
    let deep = |open: &str, close: &str, inner: &str| {
        format!("forbid(principal, action, resource) when {{ {}{inner}{} }};", open.repeat(70), close.repeat(70))
    };
    for (name, text) in [
        ("a long text", long),
        ("many statements", "forbid(principal is Mesh::Anonymous, action, resource);\n".repeat(513)),
        ("brackets", deep("(", ")", "false")),
        ("negations", deep("!(", ")", "false")),
        ("lists", deep("[", "].isEmpty()", "[1].isEmpty()")),
        ("branches", deep("if false then true else (", ")", "false")),
    ] {
        let admission = admit(&text);
        assert!(!admission.findings.is_empty(), "{name}");
        assert!(admission.inbound.deny_all.is_some(), "{name}: {:?}", admission.findings);
    }
}

#[test]
fn what_has_no_compiled_form_is_reported_by_policy() {
    let text = format!("{}\nforbid(principal is Mesh::Anonymous, action, resource);", on_cedar("context has tls"));
    let admission = admit(&text);
    assert_eq!(admission.findings, []);
    let reported: Vec<&str> = admission.uncompiled.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(reported, ["CedarPolicy/foo/p[0]"]);
    assert!(admission.uncompiled.iter().all(|(_, reason)| !reason.is_empty()));
}
