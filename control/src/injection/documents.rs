//! Injection into the documents of a text: pods, and the workloads that make them. Everything else keeps its bytes.

use std::collections::BTreeMap;

use palisade_crds::document::{self, Piece};
use serde_json::Value;

use super::{Asked, InjectionSettings, NamespaceOf, inject};

/// A text with its sidecars.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// The text.
    pub text: String,
    /// What was decided about each pod, and what it asks for and does not get.
    pub notes: Vec<String>,
    /// Why pods that should get a sidecar cannot have one; these are in `text` as they were.
    pub errors: Vec<String>,
}

/// Where the pod stands in a workload.
const TEMPLATES: [(&str, &[&str]); 8] = [
    ("Pod", &[]),
    ("Deployment", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// Labels of the namespaces that a text declares.
#[must_use]
pub fn namespaces(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for value in document::pieces(text).into_iter().filter_map(|piece| piece.values.ok()).flatten() {
        let items = value.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![value]);
        for item in items.iter().filter(|item| item.get("kind").and_then(Value::as_str) == Some("Namespace")) {
            let Some(name) = item.pointer("/metadata/name").and_then(Value::as_str) else { continue };
            let labels = item.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
            let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
            found.insert(name.to_owned(), labels);
        }
    }
    found
}

/// Gives sidecars to the pods of a text. `file` names it in notes; `namespaces` are the labels of those that are known: where a pod's
/// is, its labels decide; where it is not, asking for injection is asking for this pod's.
#[must_use]
pub fn inject_text(
    file: &str,
    text: &str,
    default_namespace: &str,
    namespaces: &BTreeMap<String, BTreeMap<String, String>>,
    settings: &InjectionSettings,
) -> Injected {
    let mut injected = Injected::default();
    let mut walk =
        Walk { default_namespace, namespaces, settings, notes: &mut injected.notes, errors: &mut injected.errors };
    for piece in document::pieces(text) {
        let Piece { text, values } = piece;
        let values = match values {
            Ok(values) => values,
            Err((line, problem)) => {
                walk.errors.push(format!("{file}:{line}: {problem}"));
                injected.text.push_str(text);
                continue;
            }
        };
        let mut changed = values.clone();
        for value in &mut changed {
            walk.document(value);
        }
        if changed == values {
            injected.text.push_str(text);
        } else {
            write(text, &changed, &mut injected.text);
        }
    }
    injected
}

struct Walk<'a> {
    default_namespace: &'a str,
    namespaces: &'a BTreeMap<String, BTreeMap<String, String>>,
    settings: &'a InjectionSettings,
    notes: &'a mut Vec<String>,
    errors: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn document(&mut self, value: &mut Value) {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind == "List" || TEMPLATES.iter().any(|(of, _)| kind == format!("{of}List")) {
            for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                self.document(item);
            }
            return;
        }
        let Some((_, path)) = TEMPLATES.iter().find(|(of, _)| *of == kind) else { return };
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default();
        let namespace = text("/metadata/namespace").unwrap_or_else(|| self.default_namespace.to_owned());
        let place = format!("{kind} {namespace}/{name}");
        let Some(pod) = path.iter().try_fold(&mut *value, |value, key| value.get_mut(*key)) else {
            self.errors.push(format!("{place}: {} is missing", path.join(".")));
            return;
        };
        let labels = self.namespaces.get(&namespace).cloned();
        let asked = if labels.is_some() { Asked::ByLabels } else { Asked::Already };
        let namespace = NamespaceOf { name: namespace, labels: labels.unwrap_or_default() };
        match inject(pod, &namespace, Some(&name), asked, self.settings) {
            Ok(injection) => {
                let done = if injection.decision.injects { "injected" } else { "not injected" };
                self.notes.push(format!("{place}: {done}: {}", injection.decision.reason));
                self.notes.extend(injection.warnings.iter().map(|warning| format!("{place}: warning: {warning}")));
                if let Some(injected) = injection.pod {
                    *pod = injected;
                }
            }
            Err(error) => self.errors.push(format!("{place}: {error}")),
        }
    }
}

/// The documents of a piece in the form that the piece had.
fn write(text: &str, values: &[Value], output: &mut String) {
    let is_json = text.trim_start().starts_with('{');
    // The separator and the comments before a document are no part of it.
    let is_head = |line: &&str| {
        line.starts_with("---") && line.trim_end() == "---" || line.starts_with('#') || line.trim().is_empty()
    };
    for line in text.split_inclusive('\n').take_while(is_head) {
        output.push_str(line);
    }
    for (index, value) in values.iter().enumerate() {
        if is_json {
            output.push_str(&format!("{value:#}\n"));
        } else {
            if index > 0 {
                output.push_str("---\n");
            }
            output.push_str(&document::to_yaml(value));
        }
    }
}
