//! Objects that run Gateways, as the cluster has them: followed by the label that they are made with.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Client, ResourceExt,
    core::DynamicObject,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;

use super::objects::{GATEWAY_NAME, Kind, MADE_FROM, MANAGED_BY, MANAGER};

/// The name that writes carry.
pub(super) const FIELD_MANAGER: &str = "palisade-gateways";

/// An object by kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ObjectRef {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What is kept of an object.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// `metadata.uid`.
    pub(super) uid: String,
    /// UID of the Gateway that owns it, or of whatever else does; `None` = nobody.
    pub(super) owner: Option<String>,
    /// Value of the label that names its Gateway.
    pub(super) gateway: String,
    /// What it says it was made from.
    pub(super) made_from: String,
    /// It was made here, or somebody has handed it over.
    pub(super) is_ours: bool,
    /// Somebody deletes it.
    pub(super) is_ending: bool,
    /// What it says, status apart, as JSON.
    content: Box<str>,
}

/// Something that a watch has to say.
pub(super) type Told = (Kind, Result<watcher::Event<DynamicObject>, watcher::Error>);

/// All objects that are followed.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: HashMap<ObjectRef, Held>,
    listing: HashMap<Kind, HashSet<ObjectRef>>,
    known: HashSet<Kind>,
}

/// Follows the objects of a kind.
pub(super) fn follow(client: &Client, kind: Kind) -> BoxStream<'static, Told> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER},{GATEWAY_NAME}"));
    watcher(api, ours).default_backoff().map(move |event| (kind, event)).boxed()
}

impl Held {
    /// Of an object as the API gives it.
    pub(super) fn of(mut object: DynamicObject) -> Self {
        let is_label = object.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
        let has_name = object.labels().contains_key(GATEWAY_NAME);
        let is_written = |entry: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
        };
        let is_ours = is_label && has_name || object.managed_fields().iter().any(is_written);
        let owner = object.owner_references().iter().find(|owner| owner.controller == Some(true));
        let owner = owner.map(|owner| owner.uid.clone());
        let text = |map: &std::collections::BTreeMap<String, String>, key| map.get(key).cloned().unwrap_or_default();
        let (gateway, made_from) = (text(object.labels(), GATEWAY_NAME), text(object.annotations(), MADE_FROM));
        let uid = object.uid().unwrap_or_default();
        let is_ending = object.metadata.deletion_timestamp.is_some();
        object.metadata.managed_fields = None;
        object.metadata.resource_version = None;
        object.metadata.generation = None;
        if let Some(data) = object.data.as_object_mut() {
            data.shift_remove("status");
        }
        // What a controller notes about its own work is no change.
        object.annotations_mut().remove("deployment.kubernetes.io/revision");
        let content = serde_json::to_string(&object).unwrap_or_default().into();
        Self { uid, owner, gateway, made_from, is_ours, is_ending, content }
    }

    /// Whether all that an object is to say is said.
    pub(super) fn says(&self, wanted: &Value) -> bool {
        serde_json::from_str::<Value>(&self.content).is_ok_and(|held| covers(&held, wanted))
    }

    /// Whether both say the same.
    pub(super) fn is_as(&self, content: &str) -> bool {
        *self.content == *content
    }

    /// The keys of its selector, where that is a plain map.
    pub(super) fn selector(&self) -> Vec<String> {
        let content: Value = serde_json::from_str(&self.content).unwrap_or_default();
        let selector = content.pointer("/spec/selector").and_then(Value::as_object);
        let is_plain = |selector: &&serde_json::Map<String, Value>| selector.values().all(Value::is_string);
        selector.filter(is_plain).into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }

    /// What it says.
    pub(super) fn content(&self) -> &str {
        &self.content
    }
}

/// Whether `held` has everything that `wanted` has. Items of lists are looked for by order: servers may add to an item, not to a list.
fn covers(held: &Value, wanted: &Value) -> bool {
    match (held, wanted) {
        (Value::Object(held), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| held.get(key).is_some_and(|held| covers(held, wanted)))
        }
        (Value::Array(held), Value::Array(wanted)) => {
            held.len() == wanted.len() && held.iter().zip(wanted).all(|(held, wanted)| covers(held, wanted))
        }
        (held, wanted) => held == wanted,
    }
}

impl Store {
    /// Takes an event; namespaces and labels of the Gateways whose objects are different now.
    pub(super) fn take(&mut self, kind: Kind, event: watcher::Event<DynamicObject>) -> Vec<(String, String)> {
        match event {
            watcher::Event::Init => {
                self.listing.insert(kind, HashSet::new());
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                let name = name(kind, &object);
                self.listing.entry(kind).or_default().insert(name.clone());
                self.put(name, Held::of(object)).into_iter().collect()
            }
            watcher::Event::InitDone => {
                self.known.insert(kind);
                let listed = self.listing.remove(&kind).unwrap_or_default();
                let gone = self.objects.keys().filter(|name| name.kind == kind && !listed.contains(*name));
                let gone: Vec<ObjectRef> = gone.cloned().collect();
                gone.iter().filter_map(|name| self.remove(name)).collect()
            }
            watcher::Event::Apply(object) => self.put(name(kind, &object), Held::of(object)).into_iter().collect(),
            watcher::Event::Delete(object) => self.remove(&name(kind, &object)).into_iter().collect(),
        }
    }

    /// Whether all kinds have been listed.
    pub(super) fn is_complete(&self) -> bool {
        self.known.len() == Kind::ALL.len()
    }

    /// An object as it is now; the Gateway that it is of, if it says something else than before.
    pub(super) fn put(&mut self, name: ObjectRef, held: Held) -> Option<(String, String)> {
        let gateway = (name.namespace.clone(), held.gateway.clone());
        let before = self.objects.get(&name);
        let is_same = before.is_some_and(|before| before.is_as(&held.content) && before.is_ending == held.is_ending);
        self.objects.insert(name, held);
        (!is_same).then_some(gateway)
    }

    /// An object that is gone; the Gateway that it was of.
    pub(super) fn remove(&mut self, name: &ObjectRef) -> Option<(String, String)> {
        let held = self.objects.remove(name)?;
        Some((name.namespace.clone(), held.gateway))
    }

    /// An object.
    pub(super) fn get(&self, name: &ObjectRef) -> Option<&Held> {
        self.objects.get(name)
    }

    /// The objects of a Gateway, by namespace and label.
    pub(super) fn of_gateway<'a>(
        &'a self,
        namespace: &'a str,
        label: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectRef, &'a Held)> {
        self.objects.iter().filter(move |(name, held)| name.namespace == namespace && held.gateway == label)
    }
}

pub(super) fn name(kind: Kind, object: &DynamicObject) -> ObjectRef {
    ObjectRef { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_servers_add_is_no_difference_and_what_they_change_is() {
        let wanted = json!({"spec": {"ports": [{"port": 80}], "type": "LoadBalancer"}});
        let held = json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}], "type": "LoadBalancer", "clusterIP": "10.0.0.1"}});
        assert!(covers(&held, &wanted));
        assert!(!covers(&json!({"spec": {"ports": [{"port": 80}, {"port": 81}], "type": "LoadBalancer"}}), &wanted));
        assert!(!covers(&json!({"spec": {"ports": [{"port": 81}], "type": "LoadBalancer"}}), &wanted));
    }
}
