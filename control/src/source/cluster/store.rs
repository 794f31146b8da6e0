//! Objects of a cluster as inputs: parsed when they change, and kept as they are while they do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_compile::{Inputs, KeptInputs, ObjectName, Reference, ReferenceKind, Revisions, SourceOptions};
use palisade_crds::{Document, gateway_api, palisade};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::{
    kinds::Kind,
    pending::{Changes, Name, Text, Told, Watched},
};

/// All objects, by watch.
#[derive(Debug)]
pub(super) struct Store {
    inputs: KeptInputs,
    /// Objects for other revisions of the control plane are left out; `None` = none are.
    revisions: Option<Revisions>,
    /// Kinds that are served; `None` = not known yet.
    served: Option<BTreeSet<Kind>>,
    held: BTreeMap<Watched, Held>,
}

/// The objects of one watch.
#[derive(Debug, Default)]
struct Held {
    /// Listed once, or known to be unreadable.
    is_answered: bool,
    /// Digest of each object's JSON.
    objects: BTreeMap<Name, [u8; 32]>,
}

impl Store {
    /// Nothing is known yet.
    pub(super) fn new(options: SourceOptions) -> Self {
        let revisions = options.control.revisions.clone();
        Self { inputs: KeptInputs::new(options), revisions, served: None, held: BTreeMap::new() }
    }

    /// Takes changes in; whether any document is another one now.
    pub(super) fn take(&mut self, changes: Changes) -> bool {
        let Changes { told, served } = changes;
        let mut is_different = false;
        if let Some(served) = served {
            is_different |= self.served.is_none();
            self.served = Some(served);
        }
        for (watched, told) in told {
            is_different |= self.take_told(watched, told);
        }
        is_different
    }

    fn take_told(&mut self, watched: Watched, told: Told) -> bool {
        match told {
            Told::Listed(listed) => {
                let held = self.held.entry(watched.clone()).or_default();
                let mut is_different = !std::mem::replace(&mut held.is_answered, true);
                let gone: Vec<Name> = held.objects.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
                for name in gone {
                    is_different |= self.remove(&watched, &name);
                }
                for (name, text) in listed {
                    is_different |= self.put(&watched, name, &text);
                }
                is_different
            }
            Told::Changed(changed) => {
                let mut is_different = false;
                for (name, text) in changed {
                    is_different |= match text {
                        Some(text) => self.put(&watched, name, &text),
                        None => self.remove(&watched, &name),
                    };
                }
                is_different
            }
            Told::Unreadable => {
                let held = self.held.entry(watched).or_default();
                !std::mem::replace(&mut held.is_answered, true)
            }
            Told::Ended => {
                let names = self.held.get(&watched).map(|held| held.objects.keys().cloned().collect::<Vec<_>>());
                let names = names.unwrap_or_default();
                for name in &names {
                    self.remove(&watched, name);
                }
                self.held.remove(&watched);
                !names.is_empty()
            }
        }
    }

    /// Holds an object; whether it is another one than before.
    fn put(&mut self, watched: &Watched, name: Name, text: &Text) -> bool {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, text.bytes()).as_ref());
        let held = self.held.entry(watched.clone()).or_default();
        if held.objects.get(&name) == Some(&sum) {
            return false;
        }
        let value = match text.value() {
            Ok(value) => value,
            // It was written here: there is no such text.
            Err(error) => {
                tracing::error!(namespace = %name.0, name = %name.1, %error, "an object cannot be read, it stays as it was");
                return false;
            }
        };
        held.objects.insert(name.clone(), sum);
        if self.is_foreign(watched, &value) {
            // It may have been ours before.
            self.inputs.remove(&object_name(watched, &name));
            return true;
        }
        self.inputs.put(&Arc::new(palisade_crds::parse(&Document::from_value(value), "default")));
        true
    }

    /// Forgets an object; whether there was one.
    fn remove(&mut self, watched: &Watched, name: &Name) -> bool {
        let is_gone = self.held.get_mut(watched).is_some_and(|held| held.objects.remove(name).is_some());
        if is_gone {
            self.inputs.remove(&object_name(watched, name));
        }
        is_gone
    }

    /// Whether an object is for another control plane: its label says so. Pods, Services and the like are everybody's.
    fn is_foreign(&self, watched: &Watched, value: &Value) -> bool {
        let Watched::Kind(kind) = watched else { return false };
        let has_revision =
            kind.group == gateway_api::GROUP || kind.group == palisade::GROUP || kind.group.ends_with(".istio.io");
        let labels = value.pointer("/metadata/labels");
        let label = labels.and_then(|labels| labels.get(Revisions::LABEL)).and_then(Value::as_str);
        has_revision && self.revisions.as_ref().is_some_and(|revisions| !revisions.reads(label))
    }

    /// Whether every kind that is served was listed: before that, what is missing might be a policy.
    pub(super) fn is_complete(&self) -> bool {
        let is_listed = |kind: &Kind| self.is_answered(&Watched::Kind(*kind));
        self.served.as_ref().is_some_and(|served| served.iter().all(is_listed))
    }

    /// Those of some objects that the API server was not heard about yet.
    pub(super) fn unknown(&self, references: &BTreeSet<Reference>) -> BTreeSet<Reference> {
        let is_unknown = |reference: &&Reference| !self.is_answered(&Watched::Referenced((*reference).clone()));
        references.iter().filter(is_unknown).cloned().collect()
    }

    fn is_answered(&self, watched: &Watched) -> bool {
        self.held.get(watched).is_some_and(|held| held.is_answered)
    }

    /// Everything that there is to compile.
    pub(super) fn inputs(&mut self) -> Inputs {
        self.inputs.inputs()
    }
}

fn object_name(watched: &Watched, name: &Name) -> ObjectName {
    let (group, kind) = match watched {
        Watched::Kind(Kind { group, kind }) => (*group, *kind),
        Watched::Referenced(Reference { kind: ReferenceKind::Secret, .. }) => ("", "Secret"),
        Watched::Referenced(Reference { kind: ReferenceKind::ConfigMap, .. }) => ("", "ConfigMap"),
    };
    let (namespace, name) = (Arc::clone(&name.0), Arc::clone(&name.1));
    ObjectName { group: group.into(), kind: kind.into(), namespace, name }
}

#[cfg(test)]
mod tests;
