//! Capability negotiation: what a proxy cannot understand is not sent in a weaker form, it stays on what it had.
//!
//! Control leaves out what needs an unknown feature together with everything that would mean something else without it.
//! The proxy, which alone knows what it had, keeps its own older versions of exactly those resources.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::{
    hash::HashError,
    origin::Origin,
    resource::{Entries, Entry, Feature, Resource, ResourceKey, ResourceKind},
    snapshot::{InvalidSnapshot, Snapshot, references},
};

use super::offer::{Offer, Withheld};

/// Why nothing at all can be offered to a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unofferable {
    /// The proxy-wide settings need a feature that it lacks.
    #[error("the proxy's settings need the feature `{}`, which it lacks", .0.0)]
    Settings(Feature),
    /// What remains is not a snapshot.
    #[error(transparent)]
    Snapshot(#[from] InvalidSnapshot),
    /// The list cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// What of `target` a proxy with `features` may be sent.
///
/// Withheld is: what needs a missing feature; what else was made from the same user's object; everything that refers to
/// something withheld; all virtual hosts of a table of which one is withheld, and all inbound ports if one is, because a
/// request for the missing one would fall through to a neighbour. Endpoints stay current.
///
/// # Errors
/// When not even settings remain.
pub fn withhold(target: &Arc<Snapshot>, features: &BTreeSet<Feature>) -> Result<Offer, Unofferable> {
    let lacking =
        |entry: &Entry| -> BTreeSet<Feature> { entry.meta().requires.difference(features).cloned().collect() };
    let mut out: BTreeMap<ResourceKey, BTreeSet<Feature>> = target
        .entries()
        .iter()
        .map(|(key, entry)| (key.clone(), lacking(entry)))
        .filter(|(_, missing)| !missing.is_empty())
        .collect();
    if out.is_empty() {
        return Ok(Offer::whole(Arc::clone(target)));
    }
    if let Some((_, missing)) = out.iter().find(|(key, _)| key.kind == ResourceKind::Settings) {
        return Err(Unofferable::Settings(missing.first().cloned().unwrap_or(Feature("".into()))));
    }
    let shapers: BTreeSet<Origin> = out
        .keys()
        .filter_map(|key| target.entries().get(key))
        .filter_map(|entry| entry.meta().origins.first())
        .cloned()
        .collect();
    for (key, entry) in target.entries() {
        let is_same_document = entry.meta().origins.first().is_some_and(|origin| shapers.contains(origin));
        if is_same_document && !matches!(key.kind, ResourceKind::Endpoints | ResourceKind::Settings) {
            out.entry(key.clone()).or_default();
        }
    }
    let mut keys: BTreeSet<ResourceKey> = out.keys().cloned().collect();
    grow(target.entries(), &mut keys);
    let remaining: Entries = target
        .entries()
        .iter()
        .filter(|(key, _)| !keys.contains(*key))
        .map(|(key, entry)| (key.clone(), Arc::clone(entry)))
        .collect();
    let withheld = keys
        .into_iter()
        .filter_map(|key| {
            let entry = target.entries().get(&key)?;
            Some(Withheld {
                origins: Arc::clone(&entry.meta().origins),
                missing: out.remove(&key).unwrap_or_default(),
                table: table_of(entry),
                key,
            })
        })
        .collect();
    Ok(Offer::partial(Arc::new(Snapshot::new(remaining)?), withheld)?)
}

/// What a proxy that held `held` applies of an offer: the offer, and its own older versions of what was withheld.
///
/// # Errors
/// Never for an offer that [`withhold`] made and a `held` that is closed; the check is made all the same.
pub fn retain(held: Option<&Snapshot>, offer: &Offer) -> Result<Arc<Snapshot>, InvalidSnapshot> {
    let Some(held) = held else { return Ok(Arc::clone(offer.snapshot())) };
    if offer.withheld().is_empty() {
        return Ok(Arc::clone(offer.snapshot()));
    }
    let mut frozen: BTreeSet<ResourceKey> = offer.withheld().iter().map(|item| item.key.clone()).collect();
    let mut tables: BTreeSet<Arc<str>> = offer.withheld().iter().filter_map(|item| item.table.clone()).collect();
    loop {
        let inbound = frozen.iter().any(|key| key.kind == ResourceKind::Inbound);
        let before = frozen.len();
        for snapshot in [held, &**offer.snapshot()] {
            let groups = snapshot.entries().iter().filter(|(key, entry)| {
                (inbound && key.kind == ResourceKind::Inbound) || table_of(entry).is_some_and(|t| tables.contains(&t))
            });
            frozen.extend(groups.map(|(key, _)| key.clone()));
        }
        // A virtual host names alternatives of its rules by index: an old host needs the rules that it was made with.
        let rules: Vec<ResourceKey> = frozen
            .iter()
            .filter(|key| key.kind == ResourceKind::VirtualHost)
            .filter_map(|key| held.entries().get(key))
            .flat_map(|entry| references(entry.resource()))
            .filter(|rule| {
                let hash = |snapshot: &Snapshot| snapshot.entries().get(rule).map(|entry| entry.hash());
                hash(offer.snapshot()).is_some_and(|new| Some(new) != hash(held))
            })
            .collect();
        frozen.extend(rules);
        grow(offer.snapshot().entries(), &mut frozen);
        tables.extend(frozen.iter().filter_map(|key| offer.snapshot().entries().get(key)).filter_map(|e| table_of(e)));
        if frozen.len() == before {
            break;
        }
    }
    let mut entries: Entries = offer
        .snapshot()
        .entries()
        .iter()
        .filter(|(key, _)| !frozen.contains(*key))
        .map(|(key, entry)| (key.clone(), Arc::clone(entry)))
        .collect();
    let mut wanted: Vec<ResourceKey> = frozen.into_iter().collect();
    while let Some(key) = wanted.pop() {
        if entries.contains_key(&key) {
            continue;
        }
        if let Some(entry) = held.entries().get(&key) {
            wanted.extend(references(entry.resource()));
            entries.insert(key, Arc::clone(entry));
        }
    }
    Ok(Arc::new(Snapshot::new(entries)?))
}

/// Adds everything that cannot stand without what is in `keys`.
fn grow(entries: &Entries, keys: &mut BTreeSet<ResourceKey>) {
    let mut referrers: BTreeMap<ResourceKey, Vec<&ResourceKey>> = BTreeMap::new();
    let mut tables: BTreeMap<Arc<str>, Vec<&ResourceKey>> = BTreeMap::new();
    for (key, entry) in entries {
        for to in references(entry.resource()) {
            referrers.entry(to).or_default().push(key);
        }
        if let Some(table) = table_of(entry) {
            tables.entry(table).or_default().push(key);
        }
    }
    let inbound: Vec<&ResourceKey> = entries.keys().filter(|key| key.kind == ResourceKind::Inbound).collect();
    let mut fresh: Vec<ResourceKey> = keys.iter().cloned().collect();
    while let Some(key) = fresh.pop() {
        let table = entries.get(&key).and_then(|entry| table_of(entry));
        let with_it = referrers
            .get(&key)
            .into_iter()
            .chain(table.as_ref().and_then(|table| tables.get(table)))
            .chain((key.kind == ResourceKind::Inbound).then_some(&inbound))
            .flatten();
        for other in with_it {
            if keys.insert((*other).clone()) {
                fresh.push((*other).clone());
            }
        }
    }
}

fn table_of(entry: &Entry) -> Option<Arc<str>> {
    match entry.resource() {
        Resource::VirtualHost(host) => Some(Arc::clone(&host.table)),
        _ => None,
    }
}
