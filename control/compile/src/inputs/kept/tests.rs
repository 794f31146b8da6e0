//! Inputs that are kept current are those of all documents, whatever came and went before.

use std::{fs, path::Path};

use palisade_crds::document;

use super::*;

/// Every document of the goldens, and some more: each of another object.
fn documents() -> Vec<SourceDocument> {
    let textless = Arc::new(Document::from_value(serde_json::Value::Null));
    let mut read = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "in.yaml") {
                read.extend(document::read("", &fs::read(path).unwrap()).documents);
            }
        }
    }
    let more = "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {topology.kubernetes.io/zone: z}}\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: placed, namespace: foo}\n\
                spec: {nodeName: n, containers: [{name: a, image: a}]}\n---\n\
                apiVersion: v1\nkind: Namespace\nmetadata: {name: foo, labels: {mesh: \"on\"}}\n---\n\
                apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: bad, namespace: foo}\n\
                spec: {action: NONE}\n---\n\
                apiVersion: security.istio.io/v9\nkind: AuthorizationPolicy\nmetadata: {name: odd, namespace: foo}\nspec: {}\n";
    read.extend(document::read("", more.as_bytes()).documents);
    let mut seen = std::collections::BTreeSet::new();
    read.into_iter()
        .map(|document| SourceDocument {
            document: Arc::clone(&textless),
            ..SourceDocument::parse(document, "default")
        })
        .filter(|source| seen.insert(name(source)))
        .collect()
}

fn name(source: &SourceDocument) -> ObjectName {
    ObjectName::of(&head(&source.parsed.meta))
}

fn mesh(config: &str) -> SourceDocument {
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{config}'}}\n"
    );
    let document = document::read("", text.as_bytes()).documents.remove(0);
    let textless = Arc::new(Document::from_value(serde_json::Value::Null));
    SourceDocument { document: textless, ..SourceDocument::parse(document, "default") }
}

/// Both are equal, but for the places of findings: documents of a cluster have none.
#[track_caller]
fn assert_equal(kept: &mut KeptInputs, current: &BTreeMap<ObjectName, SourceDocument>) {
    let kept = kept.inputs();
    let made = Inputs::new(current.values().cloned(), &SourceOptions::default());
    assert!(kept.is_same(&made), "kept: {kept:#?}\nmade: {made:#?}");
    assert_eq!(kept.reports.diagnostics(), made.reports.diagnostics());
}

#[test]
fn what_came_and_went_before_leaves_no_trace() {
    let documents = documents();
    assert!(documents.len() > 40, "{} documents", documents.len());
    let mut kept = KeptInputs::new(SourceOptions::default());
    let mut current = BTreeMap::new();
    let mut state = 7_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for step in 0..3000 {
        let source = &documents[draw(documents.len())];
        if draw(3) == 0 {
            kept.remove(&name(source));
            current.remove(&name(source));
        } else {
            kept.put(&source.parsed);
            current.insert(name(source), source.clone());
        }
        if step % 100 == 0 {
            assert_equal(&mut kept, &current);
        }
    }
    assert_equal(&mut kept, &current);
    for name in std::mem::take(&mut current).into_keys() {
        kept.remove(&name);
    }
    assert_equal(&mut kept, &current);
}

#[test]
fn a_document_that_becomes_another_kind_of_right_or_wrong_replaces_itself() {
    let policy = |version: &str, spec: &str| {
        let text = format!(
            "apiVersion: security.istio.io/{version}\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: foo}}\nspec: {spec}\n"
        );
        let document = document::read("", text.as_bytes()).documents.remove(0);
        let textless = Arc::new(Document::from_value(serde_json::Value::Null));
        SourceDocument { document: textless, ..SourceDocument::parse(document, "default") }
    };
    let mut kept = KeptInputs::new(SourceOptions::default());
    let right = policy("v1", "{mtls: {mode: STRICT}}");
    let wrong = policy("v1", "{mtls: {mode: STRICTEST}}");
    let unknown = policy("v7", "{}");
    for source in [&right, &wrong, &right, &unknown, &wrong, &unknown, &right] {
        kept.put(&source.parsed);
        assert_equal(&mut kept, &[(name(source), source.clone())].into());
    }
}

#[test]
fn settings_of_the_mesh_and_what_they_leave_out_follow_their_config_map() {
    let mut kept = KeptInputs::new(SourceOptions::default());
    let mut current: BTreeMap<ObjectName, SourceDocument> =
        documents().into_iter().map(|source| (name(&source), source)).collect();
    current.values().for_each(|source| kept.put(&source.parsed));
    for config in
        ["trustDomain: a.example", "discoverySelectors: [{matchLabels: {mesh: \"on\"}}]", "trustDomain: [", "{}"]
    {
        let source = mesh(config);
        kept.put(&source.parsed);
        current.insert(name(&source), source);
        assert_equal(&mut kept, &current);
    }
    let source = mesh("{}");
    kept.remove(&name(&source));
    current.remove(&name(&source));
    assert_equal(&mut kept, &current);
}

#[test]
fn what_did_not_change_stays_shared() {
    let mut kept = KeptInputs::new(SourceOptions::default());
    let documents = documents();
    documents.iter().for_each(|source| kept.put(&source.parsed));
    let before = kept.inputs();
    let slice = documents.iter().find(|source| matches!(source.parsed.object, Kind::Pod(_))).unwrap();
    kept.put(&slice.parsed);
    let after = kept.inputs();
    assert!(after.services.is_shared_with(&before.services));
    assert!(after.virtual_services.is_shared_with(&before.virtual_services));
    assert!(!after.pods.is_shared_with(&before.pods));
}
