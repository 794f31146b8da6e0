//! ListenerSets: listeners that other teams add to a Gateway. Its own come first, then those of older sets.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::gateway_api::{FromListenerNamespaces, Gateway, ListenerSet};

use super::{
    GROUP, Grants, ResolvedGateway, ResolvedSet,
    attach::selects_namespace,
    listeners::{Home, resolve_all},
    shared::{Standing, standing_of, take_down},
};
use crate::{
    inputs::Inputs,
    object::{Object, ObjectKey},
};

/// The Gateway that a ListenerSet names.
pub(crate) fn parent(inputs: &Inputs, set: &ObjectKey) -> Option<ObjectKey> {
    inputs.listener_sets.get(set).and_then(named)
}

fn named(set: &Object<ListenerSet>) -> Option<ObjectKey> {
    let parent = &set.spec.parent_ref;
    let namespace = parent.namespace.as_deref().map_or_else(|| Arc::clone(&set.head.key.namespace), Arc::from);
    (parent.group == GROUP && parent.kind == "Gateway").then(|| ObjectKey::new(namespace, parent.name.as_str()))
}

/// The ListenerSets that a Gateway has and lets, older ones first.
pub(crate) fn attached<'a>(inputs: &'a Inputs, gateway: &Object<Gateway>) -> Vec<&'a Object<ListenerSet>> {
    let mut sets: Vec<&Object<ListenerSet>> = inputs
        .listener_sets
        .values()
        .filter(|set| named(set).as_ref() == Some(&gateway.head.key) && is_allowed(inputs, gateway, set))
        .collect();
    sets.sort_by(|a, b| (a.head.created, &a.head.key).cmp(&(b.head.created, &b.head.key)));
    sets
}

fn is_allowed(inputs: &Inputs, gateway: &Object<Gateway>, set: &Object<ListenerSet>) -> bool {
    let Some(allowed) = &gateway.spec.allowed_listeners else { return false };
    let (own, theirs) = (&gateway.head.key.namespace, &set.head.key.namespace);
    match allowed.namespaces.from {
        FromListenerNamespaces::All => true,
        FromListenerNamespaces::Same => own == theirs,
        FromListenerNamespaces::Selector => selects_namespace(inputs, allowed.namespaces.selector.as_ref(), theirs),
        FromListenerNamespaces::None => false,
    }
}

/// Adds the listeners of all sets to their Gateways.
pub(super) fn attach(inputs: &Inputs, gateways: &mut BTreeMap<ObjectKey, ResolvedGateway>, grants: &Grants) {
    let mut refused: BTreeMap<ObjectKey, Vec<&Object<ListenerSet>>> = BTreeMap::new();
    for set in inputs.listener_sets.values() {
        if let Some(gateway) = named(set) {
            refused.entry(gateway).or_default().push(set);
        }
    }
    for (key, gateway) in gateways {
        let Some(document) = inputs.api_gateways.get(key) else { continue };
        let Some(mut refused) = refused.remove(key) else { continue };
        let mut standing: Vec<Standing> = standing_of(&gateway.listeners);
        for set in attached(inputs, document) {
            refused.retain(|other| other.head.key != set.head.key);
            let home = Home { head: &set.head, set: Some(&set.head.key), listeners: &set.spec.listeners };
            let (mut listeners, mut told) = resolve_all(inputs, document, home, grants);
            let message = "a listener of the Gateway, or of an older ListenerSet, stands in the way";
            take_down(listeners.iter_mut().zip(&mut told), &standing, message);
            standing.extend(standing_of(&listeners));
            gateway.listeners.extend(listeners);
            gateway.sets.push(ResolvedSet { head: set.head.clone(), is_allowed: true, listeners: told });
        }
        let refused = refused.into_iter().map(|set| set.head.clone());
        gateway.sets.extend(refused.map(|head| ResolvedSet { head, is_allowed: false, listeners: Vec::new() }));
    }
}
