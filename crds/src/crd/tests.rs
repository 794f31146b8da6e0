//! The generated files are not stale, the schemas are structural, and Istio's say what Istio's own say.

mod flat;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::*;
use crate::document;
use crate::object::{KNOWN_KINDS, known_kind};
use flat::flat;

/// The release of Istio that the list of fields was made from, as a Go module.
const ISTIO_MODULE: &str = "istio.io/istio@v0.0.0-20260827124520-eed52ebb66ad";

fn is_writing() -> bool {
    std::env::var("PALISADE_GOLDEN").as_deref() == Ok("write")
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("generated").join(name)
}

#[test]
fn golden_files_are_not_stale() {
    for (name, definitions) in [("palisade", palisade()), ("istio", istio())] {
        let folder = folder(name);
        let mut expected = BTreeSet::new();
        for definition in &definitions {
            let path = folder.join(format!("{}.yaml", definition.name));
            let text = format!(
                "# Generated from crds/src; `PALISADE_GOLDEN=write cargo test -p palisade-crds` writes it anew.\n{}",
                definition.to_yaml()
            );
            if is_writing() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let held = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(held == text, "stale: `make golden` writes {}", path.display());
            expected.insert(path);
        }
        let held: BTreeSet<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(held, expected);
    }
}

#[test]
fn the_yaml_says_what_the_object_says() {
    for definition in palisade().into_iter().chain(istio()) {
        let text = definition.to_yaml();
        let read = document::read("crd.yaml", text.as_bytes());
        assert!(read.documents[0].value == definition.object, "{}", definition.name);
        assert!(text.len() < 1_000_000, "{}: etcd takes no more than 1.5 MiB", definition.name);
        let typed: CustomResourceDefinition = serde_json::from_value(definition.object).unwrap();
        assert_eq!(typed.spec.versions.iter().filter(|version| version.storage).count(), 1);
    }
}

#[test]
fn every_known_kind_of_clusters_is_defined_at_all_its_versions() {
    let defined: Vec<Value> = palisade().into_iter().chain(istio()).map(|definition| definition.object).collect();
    let versions = |group: &str, kind: &str| -> Option<Vec<String>> {
        let found = defined
            .iter()
            .find(|object| object["spec"]["group"] == group && object["spec"]["names"]["kind"] == kind)?;
        let versions = found["spec"]["versions"].as_array().unwrap();
        Some(versions.iter().map(|version| version["name"].as_str().unwrap().to_owned()).collect())
    };
    for kind in KNOWN_KINDS.iter().filter(|kind| kind.is_istio()) {
        let expected = kind.versions.iter().map(|version| (*version).to_owned()).collect();
        assert_eq!(versions(kind.group, kind.kind), Some(expected), "{}", kind.kind);
    }
    assert!(versions(crate::palisade::GROUP, "CedarPolicy").is_some());
    for object in &defined {
        let (group, kind) = (&object["spec"]["group"], &object["spec"]["names"]["kind"]);
        assert!(known_kind(group.as_str().unwrap(), kind.as_str().unwrap()).is_some(), "{group} {kind}");
    }
}

/// What the API server calls structural: each place has a type, and logical parts only narrow what is declared beside them.
#[test]
fn schemas_are_structural_and_described() {
    fn check(schema: &Value, path: &str) {
        let has_type = schema["type"].is_string()
            || schema["x-kubernetes-int-or-string"] == true
            || schema["x-kubernetes-preserve-unknown-fields"] == true;
        assert!(has_type, "{path} has no type");
        let is_inner = path.ends_with("[]") || path.ends_with("{}") || path.ends_with("metadata");
        assert!(
            is_inner || schema["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{path} is not described"
        );
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            check(field, &format!("{path}.{name}"));
        }
        for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(inner) = schema.get(key) {
                check(inner, &format!("{path}{mark}"));
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required {
            assert!(
                schema["properties"].get(name.as_str().unwrap()).is_some(),
                "{path} requires {name}, which it does not have"
            );
        }
    }
    for definition in palisade().into_iter().chain(istio()) {
        for version in definition.object["spec"]["versions"].as_array().unwrap() {
            check(&version["schema"]["openAPIV3Schema"], &definition.name);
        }
    }
}

/// What Istio's own definitions say of each field, without their texts: one line a field.
fn istio_own() -> Option<Vec<String>> {
    let cache = std::env::var("GOMODCACHE")
        .map(PathBuf::from)
        .ok()
        .or_else(|| std::env::var("HOME").ok().map(|home| Path::new(&home).join("go/pkg/mod")))?;
    let file = cache.join(ISTIO_MODULE).join("manifests/charts/base/files/crd-all.gen.yaml");
    let text = std::fs::read(file).ok()?;
    let documents = document::read("crd-all.gen.yaml", &text).documents;
    Some(flat(documents.into_iter().map(|document| document.value)))
}

/// Where ours differ from that release: fields that Istio's API has by now, and what its webhook refuses where its schema does not.
const DIFFERENCES: &[&str] = &[
    "AuthorizationPolicy spec.rules[].from[] object",
    "AuthorizationPolicy spec.rules[].to[] object",
    "loadBalancer.backendUtilization",
    "match.listener.filterChain.transportSocket ",
    "tls.ecdhCurves",
    "RequestAuthentication spec.jwtRules[].presence ",
    "WorkloadGroup spec.probe.httpGet.httpHeaders[]",
];

/// `istio_fields.txt` was made from Istio's file; where that file is on this machine it must still say the same.
#[test]
fn golden_fields_of_istio_are_the_same_here() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/crd/tests/istio_fields.txt");
    if let Some(own) = istio_own() {
        let text = own.join("\n") + "\n";
        if is_writing() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == text,
            "stale: `make golden` writes {}",
            path.display()
        );
    }
    let theirs = std::fs::read_to_string(&path).unwrap();
    let theirs: BTreeSet<&str> = theirs.lines().collect();
    assert!(theirs.len() > 1000);
    let ours = flat(istio().into_iter().map(|definition| definition.object));
    let ours: BTreeSet<&str> = ours.iter().map(String::as_str).collect();
    let differences: Vec<String> = theirs
        .difference(&ours)
        .map(|line| format!("- {line}"))
        .chain(ours.difference(&theirs).map(|line| format!("+ {line}")))
        .filter(|line| !DIFFERENCES.iter().any(|known| line.contains(known)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
