//! Host tables: from a host name to the virtual host whose pattern is the most specific one that takes it.

use std::sync::Arc;

use ahash::AHashMap;
use palisade_model::{
    host::HostPattern,
    resource::{Entry, Resource},
    route::VirtualHost,
};

use super::{
    routes::{IndexedEntry, RouteIndex},
    rules::CompiledRule,
};

/// A virtual host with its route index.
#[derive(Debug)]
pub struct IndexedHost {
    entry: Arc<Entry>,
    host: VirtualHost,
    routes: RouteIndex,
}

/// The virtual hosts of one route table.
#[derive(Debug, Default)]
pub struct HostTable {
    members: Vec<Arc<IndexedHost>>,
    exact: AHashMap<Arc<str>, Arc<IndexedHost>>,
    /// By suffix, which starts with a dot.
    suffixes: AHashMap<Arc<str>, Arc<IndexedHost>>,
    any: Option<Arc<IndexedHost>>,
}

impl IndexedHost {
    /// Indexes a virtual host; `None` when the entry is not one. Entries whose rule `rules` does not know are an error.
    ///
    /// # Errors
    /// Names the missing rule; a closed snapshot has none.
    pub(super) fn build(
        entry: &Arc<Entry>,
        rules: &AHashMap<Arc<str>, Arc<CompiledRule>>,
        previous: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, String> {
        let Resource::VirtualHost(host) = entry.resource() else { return Ok(None) };
        let mut indexed = Vec::with_capacity(host.entries.len());
        for route in host.entries.iter() {
            let rule = rules.get(&route.rule).ok_or_else(|| format!("route rule `{}` is missing", route.rule))?;
            let alternative = usize::try_from(route.alternative).unwrap_or(usize::MAX);
            indexed.push(IndexedEntry { rule: Arc::clone(rule), alternative });
        }
        if let Some(held) = previous.filter(|held| held.is_made_from(entry, &indexed)) {
            return Ok(Some(Arc::clone(held)));
        }
        Ok(Some(Arc::new(Self { entry: Arc::clone(entry), host: host.clone(), routes: RouteIndex::build(indexed) })))
    }

    fn is_made_from(&self, entry: &Entry, indexed: &[IndexedEntry]) -> bool {
        let held = self.routes.entries();
        self.entry.hash() == entry.hash()
            && held.len() == indexed.len()
            && held.iter().zip(indexed).all(|(a, b)| Arc::ptr_eq(&a.rule, &b.rule))
    }

    /// The virtual host as the control plane sent it.
    pub fn host(&self) -> &VirtualHost {
        &self.host
    }

    /// Its routes.
    pub fn routes(&self) -> &RouteIndex {
        &self.routes
    }
}

impl HostTable {
    /// A table of these members, in their order.
    pub(super) fn build(members: Vec<Arc<IndexedHost>>) -> Self {
        let mut table = Self::default();
        for member in &members {
            for domain in member.host.domains.iter() {
                match domain {
                    HostPattern::Exact(name) => {
                        table.exact.insert(Arc::clone(name), Arc::clone(member));
                    }
                    HostPattern::Suffix(suffix) => {
                        table.suffixes.insert(Arc::clone(suffix), Arc::clone(member));
                    }
                    HostPattern::Any => table.any = Some(Arc::clone(member)),
                }
            }
        }
        table.members = members;
        table
    }

    pub(super) fn has_members(&self, members: &[Arc<IndexedHost>]) -> bool {
        self.members.len() == members.len() && self.members.iter().zip(members).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The virtual host that takes `host`, which is lower-case and has no port: exact, then the longest suffix, then `*`.
    /// Costs one look-up per label.
    pub fn find(&self, host: &str) -> Option<&Arc<IndexedHost>> {
        self.named(host).or(self.any.as_ref())
    }

    /// As [`HostTable::find`], without the virtual host that takes everything.
    pub fn named(&self, host: &str) -> Option<&Arc<IndexedHost>> {
        self.exact.get(host).or_else(|| {
            let suffixes = memchr::memchr_iter(b'.', host.as_bytes()).filter(|at| *at > 0);
            suffixes.filter_map(|at| host.get(at..)).find_map(|suffix| self.suffixes.get(suffix))
        })
    }

    /// The members, in canonical order.
    pub fn members(&self) -> &[Arc<IndexedHost>] {
        &self.members
    }
}
