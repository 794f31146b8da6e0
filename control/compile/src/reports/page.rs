//! The reference page of all diagnostic codes is what the code says.

use std::fmt::Write as _;

use palisade_crds::{Code as DocumentCode, Severity};

use super::Code;

const HEAD: &str = "# Diagnostics

Every code that `palisade analyze` and status messages use. Codes never change their meaning. An `error` is what admission rejects: the
schema of the kind, or the validating webhook of Istio or of the Gateway API. A `warning` is admitted and does not do what it seems to;
an `info` is worth knowing. This page is written by a test from the tables in the code; `PALISADE_GOLDEN=write cargo test -p
palisade-compile` writes it anew. What there is to say about policies in more words is in [policy lints](policy-lints.md).

| code | | what it means |
|---|---|---|
";

fn page() -> String {
    let mut rows: Vec<(&str, Severity, String)> = DocumentCode::ALL
        .iter()
        .map(|code| (code.id(), code.severity(), format!("**{}**: {}", code.title(), code.explanation())))
        .collect();
    // Both tables have a code for fields that are not served.
    let compiled = Code::ALL.iter().filter(|code| !DocumentCode::ALL.iter().any(|other| other.id() == code.id()));
    rows.extend(compiled.map(|code| (code.id(), code.severity(), code.meaning().trim().to_owned())));
    rows.sort_by_key(|(id, ..)| *id);
    let mut page = HEAD.to_owned();
    for (id, severity, text) in rows {
        // Writing to a text cannot fail.
        let _ = writeln!(page, "| {id} | {} | {text} |", severity.as_str());
    }
    page
}

#[test]
fn the_page_is_not_stale() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/diagnostics.md");
    let page = page();
    if std::env::var("PALISADE_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(path, &page).unwrap();
    }
    let held = std::fs::read_to_string(path).unwrap_or_default();
    assert!(held == page, "stale; `PALISADE_GOLDEN=write cargo test -p palisade-compile` writes {path}");
}

/// Each finding about policies has a section of its own, under its own severity.
#[test]
fn policy_lints_have_a_section() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/policy-lints.md");
    let text = std::fs::read_to_string(path).unwrap();
    for code in Code::ALL.iter().filter(|code| code.id().starts_with("PLS04")) {
        let word = if code.severity() == Severity::Info { "note" } else { code.severity().as_str() };
        let has_section = text
            .lines()
            .any(|line| line.starts_with(&format!("## {}: ", code.id())) && line.ends_with(&format!("({word})")));
        assert!(has_section, "{} has no section for a {word} in {path}", code.id());
    }
}
