//! Golden tests: documents to snapshots, findings and Cedar text, the same bytes under shuffled input.
//!
//! Each folder of `tests/golden` holds `in.yaml`, `proxies` (one `sidecar|gateway NAMESPACE/NAME [HOST…]` a line) and the
//! results. `PALISADE_GOLDEN=write` writes the results anew.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use palisade_compile::{Compiled, ProxyRef, SourceDocument};
use palisade_model::resource::Resource;
use serde_json::{Value, json};

use crate::support;

/// Files of a folder's results by name.
type Results = BTreeMap<String, String>;

#[test]
fn documents_compile_to_what_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| case.is_dir()) {
        let text = fs::read_to_string(case.join("in.yaml")).unwrap();
        let proxies = fs::read_to_string(case.join("proxies")).unwrap();
        let documents = support::documents("in.yaml", &text);
        let expected = results(documents.clone(), &proxies);
        for seed in 1..6 {
            assert_eq!(expected, results(shuffled(documents.clone(), seed), &proxies), "order matters in {case:?}");
        }
        for (name, content) in &expected {
            let path = case.join(name);
            if std::env::var("PALISADE_GOLDEN").as_deref() == Ok("write") {
                fs::write(&path, content).unwrap();
            } else if fs::read_to_string(&path).ok().as_ref() != Some(content) {
                wrong.push(path.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "differs; `PALISADE_GOLDEN=write` rewrites: {wrong:#?}");
}

fn results(documents: Vec<SourceDocument>, proxies: &str) -> Results {
    let compiled = support::compile_all(documents);
    let mut results = Results::new();
    let mut cedar = BTreeMap::new();
    for line in proxies.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, name, hosts @ ..] = words.as_slice() else { panic!("`{line}`: KIND NAMESPACE/NAME [HOST…]") };
        let (namespace, pod) = name.split_once('/').unwrap();
        let proxy =
            if *kind == "gateway" { ProxyRef::gateway(namespace, pod) } else { ProxyRef::sidecar(namespace, pod) };
        let snapshot = support::snapshot(&compiled, &proxy, hosts);
        let mut resources = BTreeMap::new();
        for (key, entry) in snapshot.entries() {
            if let Resource::Policy(policy) = entry.resource() {
                cedar.insert(policy.id.to_string(), policy.cedar.to_string());
            }
            let mut value = serde_json::to_value(entry.resource()).unwrap();
            if let Some(policy) = value.get_mut("policy").and_then(Value::as_object_mut) {
                // The compiled form is the policy crate's own; the text stands in policies.cedar.
                policy.retain(|field, _| !matches!(field.as_str(), "ir" | "ir_version" | "cedar"));
            }
            let origins: Vec<String> = entry.meta().origins.iter().map(ToString::to_string).collect();
            resources.insert(key.to_string(), json!({"origins": origins, "resource": value}));
        }
        let content = serde_json::to_string_pretty(&resources).unwrap() + "\n";
        results.insert(format!("{kind}-{namespace}-{pod}.json"), content);
    }
    results.insert("reports.jsonl".to_owned(), reports(&compiled));
    results.insert("status.json".to_owned(), support::statuses(&compiled));
    let cedar: String = cedar.into_iter().fold(String::new(), |mut all, (id, text)| {
        writeln!(all, "// {id}\n{text}\n").unwrap();
        all
    });
    results.insert("policies.cedar".to_owned(), cedar);
    results
}

fn reports(compiled: &Compiled) -> String {
    let mut lines = String::new();
    for diagnostic in compiled.reports.diagnostics() {
        writeln!(lines, "{}", serde_json::to_string(diagnostic).unwrap()).unwrap();
    }
    for (object, conditions) in &compiled.reports.conditions() {
        for condition in conditions {
            writeln!(lines, "{}", json!({"object": object, "condition": condition})).unwrap();
        }
    }
    for ((object, listener), count) in &compiled.reports.attached_routes() {
        writeln!(lines, "{}", json!({"object": object, "listener": listener, "attachedRoutes": count})).unwrap();
    }
    lines
}

/// Another order, the same for the same seed.
fn shuffled(mut documents: Vec<SourceDocument>, seed: u64) -> Vec<SourceDocument> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for last in (1..documents.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(state >> 33).unwrap() % (last + 1);
        documents.swap(last, other);
    }
    documents
}
