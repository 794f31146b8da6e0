//! Pods of every shape with their sidecars, as `control/tests/injection` holds them; injecting twice is injecting once.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use palisade_control::injection::{InjectionSettings, documents, json_patch};
use palisade_crds::document;
use serde_json::Value;

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/injection");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !file.to_string_lossy().ends_with(".out"));
    files.sort();
    assert!(files.len() > 10);
    files
}

fn injected(text: &str) -> documents::Injected {
    documents::inject_text("in", text, "default", &documents::namespaces(text), &InjectionSettings::default())
}

#[test]
fn golden_pods_get_their_sidecars() {
    for file in inputs() {
        let text = fs::read_to_string(&file).unwrap();
        let result = injected(&text);
        let mut output = String::new();
        for (mark, lines) in [("note", &result.notes), ("error", &result.errors)] {
            for line in lines {
                writeln!(output, "# {mark}: {line}").unwrap();
            }
        }
        output.push_str(&result.text);
        let golden = file.with_extension("out");
        if std::env::var("PALISADE_GOLDEN").as_deref() == Ok("write") {
            fs::write(&golden, &output).unwrap();
        }
        let held = fs::read_to_string(&golden).unwrap_or_default();
        similar_asserts(&held, &output, &file);
    }
}

fn similar_asserts(held: &str, output: &str, file: &Path) {
    let difference = held.lines().zip(output.lines()).position(|(held, output)| held != output);
    assert!(
        held == output,
        "{}: differs from line {:?} on; `make golden` writes it anew",
        file.display(),
        difference.map(|line| line + 1)
    );
}

#[test]
fn injecting_twice_is_injecting_once() {
    for file in inputs() {
        let once = injected(&fs::read_to_string(&file).unwrap());
        let twice = injected(&once.text);
        assert_eq!(once.text, twice.text, "{}", file.display());
    }
}

#[test]
fn what_gets_no_sidecar_keeps_its_bytes() {
    let text = "# a comment\n---\napiVersion:   v1\nkind: Service # b\nmetadata: {name: a}\n...\n---\nkind: [\n";
    let result = injected(text);
    assert_eq!(result.text, text);
    assert_eq!(result.errors.len(), 1, "{:?}", result.errors);
}

#[test]
fn the_patch_makes_the_pod() {
    let mut seen = 0;
    for file in inputs() {
        let text = fs::read_to_string(&file).unwrap();
        let values =
            |text: &str| document::read("in", text.as_bytes()).documents.into_iter().map(|document| document.value);
        for (old, new) in values(&text).zip(values(&injected(&text).text)) {
            let patch = json_patch(&old, &new);
            assert_eq!(applied(old, &patch), new, "{}: {patch:#}", file.display());
            seen += 1;
        }
    }
    assert!(seen > 40);
}

/// RFC 6902, as far as the patches go.
fn applied(mut value: Value, patch: &Value) -> Value {
    for operation in patch.as_array().unwrap() {
        let path = operation["path"].as_str().unwrap();
        if path.is_empty() {
            value = operation["value"].clone();
            continue;
        }
        let (parent, key) = path.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        match (value.pointer_mut(parent).unwrap(), operation["op"].as_str().unwrap()) {
            (Value::Object(fields), "remove") => assert!(fields.shift_remove(&key).is_some()),
            (Value::Object(fields), _) => drop(fields.insert(key, operation["value"].clone())),
            (Value::Array(items), "add") => items.insert(key.parse().unwrap(), operation["value"].clone()),
            (Value::Array(items), "remove") => drop(items.remove(key.parse().unwrap())),
            (Value::Array(items), _) => items[key.parse::<usize>().unwrap()] = operation["value"].clone(),
            (other, operation) => panic!("{operation} in {other}"),
        }
    }
    value
}
