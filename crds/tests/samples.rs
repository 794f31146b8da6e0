//! Istio's own sample documents are read without a finding. The folder is the one that `ISTIO_SAMPLES` names.

#![expect(clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};

use palisade_crds::{Object, Severity, document, parse};

fn yaml_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            yaml_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
}

#[test]
fn samples_are_read_without_a_finding() {
    let Some(folder) = std::env::var_os("ISTIO_SAMPLES") else {
        eprintln!("skipped: ISTIO_SAMPLES is not set");
        return;
    };
    let mut files = Vec::new();
    yaml_files(Path::new(&folder), &mut files);
    files.sort();
    assert!(files.len() >= 10, "only {} sample files in {}", files.len(), Path::new(&folder).display());
    for file in files {
        let text = std::fs::read(&file).expect("a readable sample");
        let documents = document::read(&file.display().to_string(), &text);
        assert_eq!(documents.unreadable, [], "{}", file.display());
        assert!(!documents.documents.is_empty(), "{}", file.display());
        for document in documents.documents {
            let parsed = parse(&document, "default");
            for issue in &parsed.issues {
                assert!(
                    issue.severity == Severity::Info,
                    "{}:{:?} {} {}: {}",
                    document.file,
                    document.line_of_issue(issue),
                    issue.code,
                    issue.path,
                    issue.message
                );
            }
            match parsed.object {
                Object::Broken(broken) => panic!("{}: {}", document.file, broken.message),
                Object::Unknown { group, kind } => panic!("{}: {group} {kind} is not known", document.file),
                _ => {}
            }
        }
    }
}
