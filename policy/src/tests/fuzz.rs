//! Fuzz targets: text that becomes Cedar, Cedar that becomes policies, templates of paths, compiled forms.

use palisade_model::{origin::Origin, policy::PolicyMode};

use super::{
    facts::{Plain, PlainHttp, decide, engine, rule, to},
    inputs::{Inputs, run},
    naive, traps,
};
use crate::{
    CedarDocument, CompiledPolicy, Operation, RuleAction, TrustDomains, admit_cedar, admit_rule,
    decision_id::DecisionId,
    ir::{decode, encode},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Pieces that matter to what is tested, one for each byte, so that few inputs are plain noise.
fn pieces(bytes: &[u8], alphabet: &[&str]) -> String {
    bytes.iter().map(|byte| alphabet[usize::from(*byte) % alphabet.len()]).collect()
}

#[test]
fn cedar_escaping() {
    const ALPHABET: &[&str] = &[
        "\"",
        "\\",
        "\n",
        "\r",
        "\t",
        "\0",
        "'",
        "*",
        "\\*",
        "\\u{0}",
        "\\x41",
        "{",
        "}",
        "(",
        ")",
        ";",
        "//",
        "/*",
        "@id(",
        "permit",
        "forbid",
        "when",
        "||",
        "&&",
        "true",
        "a",
        "Z",
        " ",
        "\u{e4}",
        "\u{202e}",
        "\u{1f600}",
        "\u{feff}",
    ];
    run(Inputs { root: ROOT, name: "cedar_escaping", few: 1_000, longest: 24, ..Inputs::default() }, |bytes| {
        let text = pieces(bytes, ALPHABET);
        if !text.is_empty() {
            traps::stays_inside(&text);
        }
        let raw = String::from_utf8_lossy(bytes);
        if !raw.is_empty() {
            traps::stays_inside(&raw);
        }
    });
}

#[test]
fn path_templates() {
    const ALPHABET: &[&str] = &[
        "/", "/", "/{*}", "/{**}", "{*}", "{**}", "*", "a", "b", "%2f", ".", "..", ";", "{", "}", "~", "!", "\u{e4}",
        "//", "-",
    ];
    run(Inputs { root: ROOT, name: "path_templates", few: 3_000, longest: 40, ..Inputs::default() }, |bytes| {
        // The first half is the template, the second the path.
        let (template, path) = bytes.split_at(bytes.len() / 2);
        let (template, path) = (pieces(template, ALPHABET), format!("/{}", pieces(path, ALPHABET)));
        let mut deny = rule(RuleAction::Deny);
        deny.to = to(Operation { paths: vec![template], ..Operation::default() });
        let is_sound = admit_rule(&deny, &TrustDomains::default()).problems.is_empty();
        let http = PlainHttp { path, ..PlainHttp::default() };
        let plain = Plain { http: Some(http), ..Plain::default() };
        let rules = [deny];
        let is_allowed = decide(&engine(&rules), &plain).is_allowed();
        // A broken template denies its target.
        let expected = is_sound && naive::decide(&rules, &["cluster.local"], &plain, &mut naive::Coverage::new());
        assert_eq!(is_allowed, expected, "{rules:?}\n{plain:?}");
    });
}

#[test]
fn cedar_text() {
    const ALPHABET: &[&str] = &[
        "permit",
        "forbid",
        "(",
        ")",
        "principal",
        "action",
        "resource",
        ",",
        ";",
        " ",
        "\n",
        " when { ",
        " unless { ",
        " }",
        "==",
        " in ",
        "Mesh::Namespace::\"a\"",
        "Mesh::Action::\"http\"",
        "context.http.path",
        " like \"/a*\"",
        "context has jwt",
        " && ",
        " || ",
        "!",
        "if true then false else true",
        "\"",
        "\\",
        "//",
        "@id(\"x\")",
        "?principal",
        "[",
        "]",
        "-1",
        "ip(\"10.0.0.1\")",
        "context.source.ip",
        ".isInRange(",
        "\u{e4}",
        "permit(principal, action, resource);",
        "forbid(principal, action, resource);",
    ];
    let source = Origin {
        group: "palisade.dev".into(),
        kind: "CedarPolicy".into(),
        namespace: "foo".into(),
        name: "p".into(),
        uid: "".into(),
        generation: 0,
    };
    run(Inputs { root: ROOT, name: "cedar_text", few: 2_000, longest: 64, ..Inputs::default() }, |bytes| {
        for text in [pieces(bytes, ALPHABET), String::from_utf8_lossy(bytes).into_owned()] {
            let document = CedarDocument { source: &source, text: &text, links: &[], mode: PolicyMode::Enforce };
            let admission = admit_cedar(&document);
            let lines = text.lines().count().max(1);
            for finding in &admission.findings {
                assert!(finding.line.is_none_or(|line| (1..=lines + 1).contains(&line)), "{finding:?} in {text:?}");
                assert!(!finding.message.is_empty() && !finding.message.contains('\n'), "{finding:?}");
            }
            for policy in admission.inbound.policies.iter().chain(&admission.egress.policies) {
                assert_eq!(CompiledPolicy::load(policy).problem(), None, "{text:?}");
            }
        }
    });
}

#[test]
fn compiled_forms() {
    run(Inputs { root: ROOT, name: "compiled_forms", few: 20_000, longest: 256, ..Inputs::default() }, |bytes| {
        if let Ok(program) = decode(bytes) {
            assert_eq!(decode(&encode(&program).unwrap()).unwrap(), program);
        }
        let _ = std::str::from_utf8(bytes).map(|text| text.parse::<DecisionId>());
    });
}
