//! Whether an object may be written: what `palisade analyze` calls an error is refused, what it warns of is a warning.

use palisade_compile::{
    Diagnostic, Inputs, Mesh, ObjectName, Revisions, SourceDocument, SourceOptions, compile, compile_after,
};
use palisade_crds::{Document, Object, Severity};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, sync::Arc};

use super::{
    cure::cure,
    impact,
    review::{Request, Response},
};

/// Errors that a refusal lists.
const MAX_ERRORS: usize = 8;

/// What is decided about a request.
pub type Verdict = Response;

/// Decides about a request. Pure: equal arguments give equal answers, and nothing is remembered, so a dry run is as any other.
///
/// `mesh` is the newest one, which says whom a policy concerns; without one that is left out.
pub fn validate(request: &Request, mesh: Option<&Mesh>, revisions: &Revisions) -> Verdict {
    if !request.sub_resource.is_empty() {
        return Verdict::default();
    }
    match (request.operation.as_str(), &request.object, &request.old_object) {
        ("CREATE", Some(object), _) => check(request, object, mesh, revisions),
        ("UPDATE", Some(object), old) => {
            // An object that is on its way out must be able to lose its finalizers, whatever it says.
            let is_going = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
            if is_going || old.as_ref().is_some_and(|old| says_the_same(old, object)) {
                return Verdict::default();
            }
            check(request, object, mesh, revisions)
        }
        ("DELETE", _, Some(old)) => Verdict {
            warnings: document(request, old).map_or_else(Vec::new, |source| {
                if is_of(&source, revisions) { impact::of_removal(&source.parsed, mesh) } else { Vec::new() }
            }),
            ..Verdict::default()
        },
        _ => Verdict::default(),
    }
}

/// Whether nothing that is checked changed: an older object that is no longer valid can still be labelled by its controllers.
fn says_the_same(old: &Value, new: &Value) -> bool {
    let part = |object: &Value, pointer: &str| object.pointer(pointer).cloned().unwrap_or(Value::Null);
    let is_other = |key: &&String| !["apiVersion", "metadata", "status"].contains(&key.as_str());
    let content = |object: &Value| -> Map<String, Value> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| is_other(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    content(old) == content(new)
        && ["/metadata/annotations", "/metadata/labels"].iter().all(|pointer| part(old, pointer) == part(new, pointer))
}

/// The object as a document. One whose name the API server has yet to choose gets one that is as valid.
fn document(request: &Request, object: &Value) -> Option<SourceDocument> {
    let mut object = object.clone();
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let is_named = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if !is_named {
        let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
        let name = if request.name.is_empty() { format!("{prefix}00000") } else { request.name.clone() };
        metadata.insert("name".to_owned(), name.into());
    }
    let namespace = if request.namespace.is_empty() { "default" } else { &request.namespace };
    Some(SourceDocument::parse(Document::from_value(object), namespace))
}

/// Whether the object is for this control plane.
fn is_of(source: &SourceDocument, revisions: &Revisions) -> bool {
    revisions.owns(source.parsed.meta.labels.get(Revisions::LABEL).map(String::as_str))
}

fn check(request: &Request, object: &Value, mesh: Option<&Mesh>, revisions: &Revisions) -> Verdict {
    let Some(source) = document(request, object) else {
        return Verdict { refusal: Some("`metadata` is missing".to_owned()), ..Verdict::default() };
    };
    if !is_of(&source, revisions) {
        return Verdict::default();
    }
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for issue in &source.parsed.issues {
        let place = if issue.path.segments().is_empty() { String::new() } else { format!("{}: ", issue.path) };
        match issue.severity {
            Severity::Error => {
                let cure = cure(issue.code).map(|cure| format!("; {cure}")).unwrap_or_default();
                errors.push(format!("{place}{} ({}){cure}", issue.message, issue.code));
            }
            Severity::Warning => warnings.push(format!("{place}{} ({})", issue.message, issue.code)),
            Severity::Info => {}
        }
    }
    if errors.is_empty() && matches!(source.parsed.object, Object::CedarPolicy(_)) {
        errors = cedar_errors(&source);
    }
    if errors.is_empty()
        && let Some(mesh) = mesh
    {
        warnings.extend(in_company(&source, mesh));
    }
    if errors.is_empty() {
        warnings.extend(impact::of_writing(&source.parsed, mesh));
    }
    Verdict { refusal: refusal(&errors), warnings, patch: None }
}

/// What is to be said about a document among all others: references that lead nowhere, principals that nobody has, rules that never
/// match. The mesh is compiled as it would be, which costs what the document changes.
fn in_company(source: &SourceDocument, mesh: &Mesh) -> Vec<String> {
    let meta = &source.parsed.meta;
    let name = ObjectName {
        group: meta.group.as_str().into(),
        kind: meta.kind.as_str().into(),
        namespace: meta.namespace.as_str().into(),
        name: meta.name.as_str().into(),
    };
    // What is wrong with the document alone is said already, and what was wrong with the one before it is no more.
    let older = mesh.inputs().reports.diagnostics();
    let older = older.into_iter().filter(|found| found.object == name).map(|found| found.message.clone());
    let before: BTreeSet<String> =
        source.parsed.issues.iter().map(|issue| issue.message.clone()).chain(older).collect();
    let reports = compile_after(mesh, mesh.inputs().with(source)).reports;
    let is_new = |found: &Diagnostic| {
        found.severity != Severity::Info && found.object == name && !before.contains(&found.message)
    };
    let told = |found: &Diagnostic| {
        let place = if found.path.is_empty() { String::new() } else { format!("{}: ", found.path) };
        format!("{place}{} ({})", found.message, found.code)
    };
    reports.diagnostics().into_iter().filter(|found| is_new(found)).map(told).collect()
}

/// What the policy compiler says about the text of a CedarPolicy, which takes no other document.
fn cedar_errors(source: &SourceDocument) -> Vec<String> {
    let inputs = Arc::new(Inputs::new([source.clone()], &SourceOptions::default()));
    let reports = compile(&inputs).reports;
    let is_error = |severity| severity == Severity::Error;
    reports
        .diagnostics()
        .into_iter()
        .filter(|diagnostic| is_error(diagnostic.severity))
        .map(|diagnostic| {
            format!("{}: {} ({}); correct the policy", diagnostic.path, diagnostic.message, diagnostic.code)
        })
        .collect()
}

fn refusal(errors: &[String]) -> Option<String> {
    if errors.is_empty() {
        return None;
    }
    let mut lines: Vec<String> = errors.iter().take(MAX_ERRORS).cloned().collect();
    if let Some(rest @ 1..) = errors.len().checked_sub(MAX_ERRORS) {
        lines.push(format!("and {rest} more"));
    }
    Some(lines.join("\n"))
}
