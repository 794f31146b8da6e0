//! What a proxy is subscribed to: bounded, and what has not been used for the longest time goes first.

use std::collections::{BTreeMap, BTreeSet};

use palisade_model::service::Query;

/// Most queries that a proxy keeps: below what control takes, so that control has to refuse none.
pub const KEPT_SUBSCRIPTIONS: usize = 8_000;

/// How many go at a time, so that a full set does not cost a message and a look at all of them with each new query.
const BATCH: usize = KEPT_SUBSCRIPTIONS / 16;

/// Queries, and when each was used last.
#[derive(Debug, Default)]
pub(super) struct Subscribed {
    queries: BTreeSet<Query>,
    /// The round in which each was used last.
    used: BTreeMap<Query, u64>,
    round: u64,
}

/// What changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: Vec<Query>,
    pub(super) removed: Vec<Query>,
}

impl Subscribed {
    pub(super) fn queries(&self) -> &BTreeSet<Query> {
        &self.queries
    }

    /// Adds queries; each counts as used now. Where there are too many, those unused for longest go. O(n log n) when some do.
    pub(super) fn add(&mut self, queries: impl IntoIterator<Item = Query>) -> Change {
        self.round += 1;
        let mut change = Change::default();
        for query in queries {
            self.used.insert(query.clone(), self.round);
            if self.queries.insert(query.clone()) {
                change.added.push(query);
            }
        }
        let surplus = self.queries.len().saturating_sub(KEPT_SUBSCRIPTIONS);
        if surplus > 0 {
            let mut by_age: Vec<(u64, Query)> =
                self.used.iter().map(|(query, round)| (*round, query.clone())).collect();
            by_age.sort();
            // What is asked for now goes only where that alone is too much.
            let others = by_age.iter().filter(|(round, _)| *round != self.round).count();
            let going = surplus.max((surplus + BATCH).min(others));
            let going: BTreeSet<Query> = by_age.into_iter().take(going).map(|(_, query)| query).collect();
            change.added.retain(|query| !going.contains(query));
            change.removed = self.remove(going);
        }
        change
    }

    /// Notes that these are in use.
    pub(super) fn touch(&mut self, queries: impl IntoIterator<Item = Query>) {
        self.round += 1;
        for query in queries {
            if let Some(used) = self.used.get_mut(&query) {
                *used = self.round;
            }
        }
    }

    /// Removes queries; gives those that were there.
    pub(super) fn remove(&mut self, queries: impl IntoIterator<Item = Query>) -> Vec<Query> {
        let held = queries.into_iter().filter(|query| self.queries.remove(query)).collect::<Vec<_>>();
        for query in &held {
            self.used.remove(query);
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(numbers: std::ops::Range<usize>) -> Vec<Query> {
        numbers.map(|number| Query::Host(format!("h{number}.example").into())).collect()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_when_there_are_too_many() {
        let mut subscribed = Subscribed::default();
        let first = subscribed.add(hosts(0..KEPT_SUBSCRIPTIONS));
        assert_eq!((first.added.len(), first.removed.len()), (KEPT_SUBSCRIPTIONS, 0));
        subscribed.touch(hosts(0..10));
        let change = subscribed.add(hosts(90_000..90_001));
        assert_eq!(change.added, hosts(90_000..90_001));
        assert_eq!(change.removed.len(), BATCH + 1);
        assert_eq!(subscribed.queries().len(), KEPT_SUBSCRIPTIONS - BATCH);
        for query in hosts(0..10).iter().chain(&hosts(90_000..90_001)) {
            assert!(subscribed.queries().contains(query), "{query} is in use");
        }
    }

    #[test]
    fn no_number_of_queries_at_once_exceeds_the_bound() {
        let mut subscribed = Subscribed::default();
        let change = subscribed.add(hosts(0..KEPT_SUBSCRIPTIONS + 500));
        assert_eq!(subscribed.queries().len(), KEPT_SUBSCRIPTIONS);
        assert_eq!(change.added.len(), KEPT_SUBSCRIPTIONS);
        assert!(change.added.iter().all(|query| subscribed.queries().contains(query)));
    }

    #[test]
    fn what_is_removed_is_forgotten() {
        let mut subscribed = Subscribed::default();
        subscribed.add(hosts(0..2));
        assert_eq!(subscribed.remove(hosts(1..3)), hosts(1..2));
        assert_eq!((subscribed.queries().len(), subscribed.used.len()), (1, 1));
        subscribed.touch(hosts(0..5));
        assert_eq!(subscribed.used.len(), 1, "nothing is used that was not asked for");
    }
}
