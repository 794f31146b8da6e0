//! Which Gateway API Gateways a pod serves: the one that its label names, and those that name a Service which leads to it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    infrastructure::{label_value, named_services},
    inputs::{GATEWAY_NAME_LABEL, Inputs, is_served_class},
    object::{ObjectKey, selects},
};

/// Labels that a Service's pods have.
type Selector = BTreeMap<String, String>;

/// The Gateways of our classes, by what leads to them.
#[derive(Debug, Default)]
pub(crate) struct ServedGateways {
    /// By namespace and value of the label.
    by_label: BTreeMap<(Arc<str>, String), ObjectKey>,
    /// By namespace of the Services that they name, with the selectors of these.
    by_service: BTreeMap<Arc<str>, Vec<(Selector, ObjectKey)>>,
}

impl ServedGateways {
    /// Those of these inputs.
    pub(crate) fn new(inputs: &Inputs) -> Self {
        let mut found = Self::default();
        for gateway in inputs.api_gateways.values() {
            if !is_served_class(inputs, &gateway.spec.gateway_class_name) {
                continue;
            }
            let key = &gateway.head.key;
            found.by_label.insert((Arc::clone(&key.namespace), label_value(&key.name)), key.clone());
            for service in named_services(inputs, gateway).into_iter().filter_map(|(_, service)| service) {
                let is_foreign = inputs.settings.gateways_in_own_namespace && service.namespace != key.namespace;
                let selector = inputs.services.get(&service).map(|service| service.spec.selector.clone());
                // Endpoints that somebody writes prove nothing about pods.
                let Some(selector) = selector.filter(|selector| !selector.is_empty() && !is_foreign) else { continue };
                found.by_service.entry(service.namespace).or_default().push((selector, key.clone()));
            }
        }
        found
    }

    /// The Gateways that pods of a namespace with these labels serve; the one that the label names comes first.
    pub(crate) fn by(&self, namespace: &Arc<str>, labels: &BTreeMap<String, String>) -> Vec<ObjectKey> {
        let named = labels.get(GATEWAY_NAME_LABEL).map(|name| (Arc::clone(namespace), name.clone()));
        let named = named.and_then(|name| self.by_label.get(&name));
        let selected = self.by_service.get(namespace).into_iter().flatten();
        let selected = selected.filter(|(selector, _)| selects(selector, labels)).map(|(_, key)| key);
        let mut all: Vec<ObjectKey> = Vec::new();
        for key in named.into_iter().chain(selected) {
            if !all.contains(key) {
                all.push(key.clone());
            }
        }
        all
    }
}
