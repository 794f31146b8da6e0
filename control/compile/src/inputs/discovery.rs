//! Namespaces that are part of the mesh (`discoverySelectors`): what is in others is invisible, services and policies alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::{
    Object as Kind, Parsed,
    istio::{NamespaceSelector, SelectorRequirement},
};

use crate::{inputs::SourceDocument, settings::MeshSettings};

/// The namespaces that are part of the mesh, where not all are.
pub(super) struct Visible<'a> {
    root: Arc<str>,
    selected: BTreeSet<&'a str>,
}

impl<'a> Visible<'a> {
    /// Those that a selector takes; `None` = there are no selectors, and all are.
    pub(super) fn new(
        settings: &MeshSettings,
        labels: impl Iterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
    ) -> Option<Self> {
        let selectors = &settings.discovery_selectors;
        let is_selected = |labels| selectors.iter().any(|selector| selects(selector, labels));
        let selected = || labels.filter(|(_, labels)| is_selected(labels)).map(|(name, _)| name).collect();
        (!selectors.is_empty()).then(|| Self { root: Arc::clone(&settings.root_namespace), selected: selected() })
    }

    /// Whether what is in a namespace is part of the mesh. The root namespace, whose policies are the whole mesh's, always is,
    /// and so are objects that belong to none.
    pub(super) fn has(&self, namespace: &str) -> bool {
        namespace.is_empty() || *self.root == *namespace || self.selected.contains(namespace)
    }
}

/// Drops documents that are no part of the mesh.
pub(super) fn retain(documents: &mut Vec<SourceDocument>, settings: &MeshSettings) {
    let namespaces: Vec<Arc<Parsed>> = documents
        .iter()
        .filter(|source| matches!(source.parsed.object, Kind::Namespace(_)))
        .map(|source| Arc::clone(&source.parsed))
        .collect();
    let labels = namespaces.iter().map(|parsed| (parsed.meta.name.as_str(), &parsed.meta.labels));
    if let Some(visible) = Visible::new(settings, labels) {
        documents.retain(|source| visible.has(&source.parsed.meta.namespace));
    }
}

/// Whether all conditions hold. One with an operator that is none holds nowhere.
fn selects(selector: &NamespaceSelector, labels: &BTreeMap<String, String>) -> bool {
    let NamespaceSelector { match_labels, match_expressions } = selector;
    crate::object::selects(match_labels, labels)
        && match_expressions.iter().all(|SelectorRequirement { key, operator, values }| {
            let label = labels.get(key);
            match operator.as_str() {
                "In" => label.is_some_and(|label| values.contains(label)),
                "NotIn" => label.is_none_or(|label| !values.contains(label)),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use palisade_crds::document;

    use crate::inputs::{Inputs, SourceOptions};

    fn services(selectors: &str) -> Vec<String> {
        let mut text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data: {{mesh: 'discoverySelectors: {selectors}'}}\n"
        );
        for (namespace, labels) in [("a", "mesh: \"on\""), ("b", "env: prod, mesh: \"off\""), ("istio-system", "")] {
            text += &format!(
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{{labels}}}}}\n"
            );
        }
        for namespace in ["a", "b", "istio-system", "undeclared"] {
            text += &format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: {namespace}}}\n\
                 spec: {{ports: [{{port: 80}}]}}\n"
            );
        }
        let inputs = Inputs::from_texts(document::read("", text.as_bytes()), "default", &SourceOptions::default());
        inputs.services.keys().map(|key| key.namespace.to_string()).collect()
    }

    #[test]
    fn only_selected_namespaces_and_the_root_are_part_of_the_mesh() {
        for (selectors, expected) in [
            ("[]", ["a", "b", "istio-system", "undeclared"].as_slice()),
            ("[{matchLabels: {mesh: \"on\"}}]", &["a", "istio-system"]),
            ("[{matchLabels: {mesh: \"on\"}}, {matchLabels: {env: prod}}]", &["a", "b", "istio-system"]),
            ("[{matchExpressions: [{key: env, operator: Exists}]}]", &["b", "istio-system"]),
            ("[{matchExpressions: [{key: env, operator: DoesNotExist}]}]", &["a", "istio-system"]),
            ("[{matchExpressions: [{key: mesh, operator: In, values: [\"off\", x]}]}]", &["b", "istio-system"]),
            ("[{matchExpressions: [{key: mesh, operator: NotIn, values: [\"off\"]}]}]", &["a", "istio-system"]),
            ("[{matchLabels: {mesh: \"on\"}, matchExpressions: [{key: env, operator: Exists}]}]", &["istio-system"]),
            ("[{matchExpressions: [{key: env, operator: Like}]}]", &["istio-system"]),
        ] {
            assert_eq!(services(selectors), expected, "{selectors}");
        }
    }
}
