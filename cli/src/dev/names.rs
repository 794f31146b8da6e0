//! The names that the network's own DNS server knows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use palisade_sidecar::dns::{Answer, Names};

use super::plan::NamePlan;

/// Clones show the same names; replaced whole when documents change.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    names: Arc<RwLock<Arc<BTreeMap<String, NamePlan>>>>,
}

impl Table {
    pub(super) fn replace(&self, names: BTreeMap<String, NamePlan>) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }
}

impl Names for Table {
    async fn resolve(&self, name: &str) -> Answer {
        let names = Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner));
        match names.get(name) {
            Some(NamePlan::Addresses(addresses)) => Answer::Addresses(addresses.clone()),
            Some(NamePlan::Alias(target)) => Answer::Alias(target.clone()),
            None => Answer::Unknown,
        }
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let names = Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner));
        let has = |plan: &NamePlan| matches!(plan, NamePlan::Addresses(addresses) if addresses.contains(&address));
        names.iter().find(|(_, plan)| has(plan)).map(|(name, _)| name.clone())
    }
}
