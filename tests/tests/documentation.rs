//! The documentation says what the code does: reasons are listed, and every YAML that a user may copy compiles.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_compile::{ControlSettings, Inputs, SourceDocument, SourceOptions, compile};
use palisade_crds::{Severity, document};
use palisade_model::reason::Reason;
use palisade_tests::checkout;

/// Codes that say a field or kind has no effect: an example must not use one.
const UNSUPPORTED: [&str; 2] = ["PLS0301", "PLS0302"];

#[test]
fn the_reference_page_lists_every_reason_and_no_other() {
    let page = fs::read_to_string(checkout::root().join("docs/reference/reasons.md")).unwrap();
    let listed: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|line| line.split('`').next()).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(listed, reasons);
}

#[test]
fn every_advisory_has_the_test_that_the_page_names() {
    let root = checkout::root();
    let page = fs::read_to_string(root.join("docs/reference/advisories.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let named: Vec<&str> = rows.filter_map(|row| row.rsplit('`').nth(1)).collect();
    assert!(named.len() > 20, "{named:?}");
    let sources = ["cli/tests", "control/src", "policy/src", "proxy/src"].iter();
    let sources: Vec<String> = sources
        .flat_map(|folder| files(&root.join(folder), "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for name in named {
        let is_there = sources.iter().any(|text| text.contains(&format!("fn {name}() {{")));
        assert!(is_there, "`{name}` is no test");
    }
}

#[test]
fn every_proof_has_the_tests_that_the_page_names() {
    let root = checkout::root();
    let page = fs::read_to_string(root.join("docs/reference/proof.md")).unwrap();
    // Of each row what its last cell has between backticks; words with a slash are files.
    let cells = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.trim_end_matches(" |").rsplit(" | ").next());
    let named: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let (paths, names): (Vec<&str>, Vec<&str>) = named.into_iter().partition(|word| word.contains('/'));
    assert!(names.len() > 100, "{}", names.len());
    for path in paths {
        assert!(root.join(path).exists(), "`{path}` is not there");
    }
    let sources = ["cli", "control", "crds", "gateway", "model", "policy", "proxy", "sidecar", "tests"].iter();
    let sources: Vec<String> = sources
        .flat_map(|folder| files(&root.join(folder), "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for name in names {
        let is_there = sources.iter().any(|text| text.contains(&format!("fn {name}(")));
        assert!(is_there, "`{name}` is no test");
    }
}

#[test]
fn every_example_of_the_documentation_compiles() {
    let mut pages = files(&checkout::root().join("docs"), "md");
    pages.push(checkout::root().join("README.md"));
    let mut examples = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let blocks: Vec<String> =
            yaml_blocks(&text).into_iter().filter(|block| block.contains("apiVersion:")).collect();
        examples += blocks.len();
        let sources: Vec<(String, String)> =
            blocks.into_iter().map(|block| (page.display().to_string(), block)).collect();
        assert_eq!(complaints(&sources), Vec::<String>::new(), "{}", page.display());
    }
    assert!(examples > 0, "no page has an example");
}

#[test]
fn every_document_of_the_demo_compiles_and_the_broken_one_does_not() {
    let demo = checkout::root().join("deploy/demo");
    let read = |path: &PathBuf| (path.display().to_string(), fs::read_to_string(path).unwrap());
    let base: Vec<_> = files(&demo.join("documents"), "yaml").iter().map(read).collect();
    assert_eq!(complaints(&base), Vec::<String>::new());
    for folder in ["egress", "policy-tests"] {
        let sources: Vec<_> = files(&demo.join(folder), "yaml").iter().map(read).collect();
        assert_eq!(complaints(&sources), Vec::<String>::new(), "{folder}");
    }
    for step in files(&demo.join("steps"), "yaml") {
        let (name, text) = read(&step);
        // A step takes the place of the document of its name, as far as it defines the same objects.
        let found = complaints(&[(name.clone(), text)]);
        assert_eq!(found.is_empty(), !name.ends_with("/broken.yaml"), "{name}: {found:?}");
    }
}

#[test]
fn the_plain_yaml_of_an_installation_is_read_without_complaint() {
    let files = files(&checkout::root().join("deploy/kubernetes"), "yaml");
    assert!(files.len() > 1, "{files:?}");
    let sources: Vec<_> =
        files.iter().map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap())).collect();
    assert_eq!(complaints(&sources), Vec::<String>::new());
}

/// Errors, and warnings about what has no effect.
fn complaints(sources: &[(String, String)]) -> Vec<String> {
    let mut documents = Vec::new();
    let mut found = Vec::new();
    for (name, text) in sources {
        let read = document::read(name, text.as_bytes());
        found.extend(read.unreadable.iter().map(|unreadable| format!("{}: {}", unreadable.line, unreadable.message)));
        documents.extend(read.documents.into_iter().map(|document| SourceDocument::parse(document, "default")));
    }
    let options = SourceOptions { control: ControlSettings::default(), is_files: true };
    let compiled = compile(&Arc::new(Inputs::new(documents, &options)));
    let is_bad = |code: &str, severity: Severity| severity == Severity::Error || UNSUPPORTED.contains(&code);
    let diagnostics = compiled.reports.diagnostics().into_iter();
    found.extend(diagnostics.filter(|diagnostic| is_bad(diagnostic.code, diagnostic.severity)).map(|d| {
        format!("{} {} {}/{} {}: {}", d.code, d.object.kind, d.object.namespace, d.object.name, d.path, d.message)
    }));
    found
}

/// Blocks between "```yaml" and "```".
fn yaml_blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        let fence = line.trim();
        if let Some(text) = block.as_mut() {
            if fence == "```" {
                blocks.extend(block.take());
            } else {
                text.push_str(line);
                text.push('\n');
            }
        } else if fence == "```yaml" {
            block = Some(String::new());
        }
    }
    blocks
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}
