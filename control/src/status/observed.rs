//! Statuses as they are, by a watch of each kind.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Resource,
    core::ApiResource,
    runtime::{WatchStreamExt, watcher},
};
use palisade_compile::{ObjectName, Revisions};
use serde::Deserialize;
use serde_json::Value;

/// What is read of an object.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Seen {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) status: Option<Value>,
}

/// What is kept of an object.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// `metadata.uid`.
    pub(super) uid: String,
    /// `metadata.generation`.
    pub(super) generation: i64,
    /// `metadata.resourceVersion`.
    pub(super) version: String,
    /// The control plane that it is for, as its label says.
    pub(super) revision: Option<Box<str>>,
    /// Its status as JSON text: there are many, and each is looked at seldom.
    status: Box<str>,
}

/// All objects of the kinds that are watched.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: HashMap<ObjectName, Observed>,
    /// Objects of a list that is not whole yet, by kind.
    listing: HashMap<usize, HashSet<ObjectName>>,
}

/// Something a watch has to say: of which kind, and what.
pub(super) type Told = (usize, Result<watcher::Event<Seen>, watcher::Error>);

/// Follows a kind; it is called `index` in what comes.
pub(super) fn follow(client: &Client, resource: &ApiResource, index: usize) -> BoxStream<'static, Told> {
    let api: Api<Seen> = Api::all_with(client.clone(), resource);
    watcher(api, watcher::Config::default()).default_backoff().map(move |event| (index, event)).boxed()
}

impl Store {
    /// Takes an event of a kind; the objects that are different now.
    pub(super) fn take(&mut self, index: usize, kind: &ApiResource, event: watcher::Event<Seen>) -> Vec<ObjectName> {
        match event {
            watcher::Event::Init => {
                self.listing.insert(index, HashSet::new());
                Vec::new()
            }
            watcher::Event::InitApply(seen) => {
                let name = name_of(kind, &seen.metadata);
                self.listing.entry(index).or_default().insert(name.clone());
                self.put(name, &seen).into_iter().collect()
            }
            watcher::Event::InitDone => {
                let listed = self.listing.remove(&index).unwrap_or_default();
                self.objects
                    .retain(|name, _| *name.group != *kind.group || *name.kind != *kind.kind || listed.contains(name));
                Vec::new()
            }
            watcher::Event::Apply(seen) => {
                let name = name_of(kind, &seen.metadata);
                if let Some(listing) = self.listing.get_mut(&index) {
                    listing.insert(name.clone());
                }
                self.put(name, &seen).into_iter().collect()
            }
            watcher::Event::Delete(seen) => {
                let name = name_of(kind, &seen.metadata);
                self.objects.remove(&name);
                vec![name]
            }
        }
    }

    /// An object as it is; whether that is news. Older news than what is known are none.
    pub(super) fn put(&mut self, name: ObjectName, seen: &Seen) -> Option<ObjectName> {
        let ObjectMeta { uid, generation, resource_version, .. } = &seen.metadata;
        let version = resource_version.clone().unwrap_or_default();
        let uid = uid.clone().unwrap_or_default();
        if let Some(held) = self.objects.get(&name) {
            let is_older = match (number(&held.version), number(&version)) {
                (Some(held), Some(new)) => new <= held,
                _ => held.version == version,
            };
            if held.uid == uid && is_older {
                return None;
            }
        }
        let status = seen.status.as_ref().map(ToString::to_string).unwrap_or_else(|| "{}".to_owned()).into();
        let revision = seen.metadata.labels.as_ref().and_then(|labels| labels.get(Revisions::LABEL));
        let revision = revision.map(|label| label.as_str().into());
        let observed = Observed { uid, generation: generation.unwrap_or(0), version, revision, status };
        self.objects.insert(name.clone(), observed);
        Some(name)
    }

    /// An object as it was seen last.
    pub(super) fn get(&self, name: &ObjectName) -> Option<&Observed> {
        self.objects.get(name)
    }

    /// An object that is gone.
    pub(super) fn remove(&mut self, name: &ObjectName) {
        self.objects.remove(name);
    }
}

impl Observed {
    /// Its status.
    pub(super) fn status(&self) -> Value {
        serde_json::from_str(&self.status).unwrap_or_default()
    }
}

fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}

fn name_of(kind: &ApiResource, metadata: &ObjectMeta) -> ObjectName {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    ObjectName {
        group: kind.group.as_str().into(),
        kind: kind.kind.as_str().into(),
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
    }
}

impl Resource for Seen {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        dt.kind.as_str().into()
    }

    fn group(dt: &ApiResource) -> Cow<'_, str> {
        dt.group.as_str().into()
    }

    fn version(dt: &ApiResource) -> Cow<'_, str> {
        dt.version.as_str().into()
    }

    fn api_version(dt: &ApiResource) -> Cow<'_, str> {
        dt.api_version.as_str().into()
    }

    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        dt.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
