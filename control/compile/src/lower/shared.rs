//! Entries that are equal are one: made, hashed and held once for all proxies, and across meshes.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use palisade_model::{
    hash::HashError,
    resource::{Entry, Meta, Resource, ResourceKey, ResourceKind},
};
use parking_lot::Mutex;

/// Different contents of one key that are looked for: clients of different namespaces see a few.
const VARIANTS: usize = 8;

/// The entries that some snapshot holds.
#[derive(Debug, Default)]
pub(crate) struct SharedEntries(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<ResourceKey, Vec<Weak<Entry>>>,
    /// Size at which entries that nobody holds any more are looked for.
    sweep_at: usize,
}

impl SharedEntries {
    /// The entry of this content: one that exists, or a new one. Which of both makes no difference but for the cost.
    pub(crate) fn entry(&self, resource: Resource, meta: Meta) -> Result<Arc<Entry>, HashError> {
        if !is_shareable(resource.kind()) {
            return Entry::new(resource, meta).map(Arc::new);
        }
        let key = resource.key();
        let variants: Vec<Weak<Entry>> = self.0.lock().entries.get(&key).cloned().unwrap_or_default();
        let same = |held: &Arc<Entry>| *held.resource() == resource && *held.meta() == meta;
        if let Some(held) = variants.iter().filter_map(Weak::upgrade).find(same) {
            return Ok(held);
        }
        let entry = Arc::new(Entry::new(resource, meta)?);
        self.0.lock().remember(key, &entry);
        Ok(entry)
    }
}

impl Table {
    fn remember(&mut self, key: ResourceKey, entry: &Arc<Entry>) {
        let variants = self.entries.entry(key).or_default();
        variants.retain(|held| held.strong_count() > 0);
        if variants.len() == VARIANTS {
            variants.remove(0);
        }
        variants.push(Arc::downgrade(entry));
        if self.entries.len() > self.sweep_at {
            self.entries.retain(|_, variants| variants.iter().any(|held| held.strong_count() > 0));
            self.sweep_at = (self.entries.len() * 2).max(1024);
        }
    }
}

/// What is particular about each proxy is looked for in vain.
fn is_shareable(kind: ResourceKind) -> bool {
    !matches!(kind, ResourceKind::Settings | ResourceKind::Inbound | ResourceKind::Listener)
}

#[cfg(test)]
mod tests {
    use palisade_model::secret::Secret;

    use super::*;

    fn secret(content: &str) -> Resource {
        Resource::Secret(Secret { key: "s".into(), certificate: Some(content.into()), private_key: None, ca: None })
    }

    #[test]
    fn equal_entries_are_one_and_others_are_not() {
        let shared = SharedEntries::default();
        let entry = |content: &str| shared.entry(secret(content), Meta::default()).unwrap();
        let (first, second, third) = (entry("a"), entry("a"), entry("b"));
        assert!(Arc::ptr_eq(&first, &second));
        assert_ne!(first.hash(), third.hash());
        let hash = first.hash();
        drop((first, second));
        assert_eq!(entry("a").hash(), hash, "a new one, the old one is gone");
    }
}
