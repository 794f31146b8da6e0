//! Edits under way: each carries a marker, by which the proxies that it concerns know it when it arrives.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use memchr::memmem;
use tokio::sync::Notify;

/// What every marker begins with.
const PREFIX: &str = "edit-";
/// Digits of its number.
const DIGITS: usize = 7;

/// All edits, shared by all proxies.
#[derive(Debug, Clone, Default)]
pub(super) struct Markers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    edits: Mutex<BTreeMap<u64, Edit>>,
    arrived: Notify,
    /// Why a proxy's stream ended that should not.
    ended: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Edit {
    began: Instant,
    /// What is edited; a later edit of the same thing may come in place of an earlier one.
    what: usize,
    /// Proxies that have not got it.
    missing: Vec<usize>,
    taken: Vec<Duration>,
}

/// The marker of an edit.
pub(super) fn marker(number: u64) -> String {
    format!("{PREFIX}{number:0DIGITS$}")
}

impl Markers {
    /// An edit of something begins; it concerns these proxies. Edits have ascending numbers.
    pub(super) fn begin(&self, number: u64, what: usize, concerned: Vec<usize>) {
        let edit = Edit { began: Instant::now(), what, missing: concerned, taken: Vec::new() };
        self.lock().insert(number, edit);
    }

    /// A transaction has arrived at a proxy. It has an edit when it has that or a newer one of the same thing.
    pub(super) fn look(&self, proxy: usize, transaction: &[u8]) {
        let now = Instant::now();
        let numbers = memmem::find_iter(transaction, PREFIX.as_bytes()).filter_map(|at| {
            let digits = transaction.get(at + PREFIX.len()..at + PREFIX.len() + DIGITS)?;
            std::str::from_utf8(digits).ok()?.parse::<u64>().ok()
        });
        let mut edits = None;
        let mut is_over = false;
        for number in numbers {
            let edits = edits.get_or_insert_with(|| self.lock());
            let Some(what) = edits.get(&number).map(|edit| edit.what) else { continue };
            for (_, edit) in edits.range_mut(..=number).filter(|(_, edit)| edit.what == what) {
                if let Some(at) = edit.missing.iter().position(|missing| *missing == proxy) {
                    edit.missing.swap_remove(at);
                    edit.taken.push(now - edit.began);
                    is_over |= edit.missing.is_empty();
                }
            }
        }
        drop(edits);
        if is_over {
            self.0.arrived.notify_waiters();
        }
    }

    /// A proxy's stream has ended.
    pub(super) fn failed(&self, why: &str) {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
    }

    /// Waits until an edit has arrived at all proxies that it concerns, and gives how long it took to each of them.
    ///
    /// # Errors
    /// When it has not within `limit`: with the proxies that lack it.
    pub(super) async fn arrived(&self, number: u64, limit: Duration) -> anyhow::Result<Vec<Duration>> {
        let wait = async {
            loop {
                let arrived = self.0.arrived.notified();
                if let Some(taken) = self.take(number) {
                    return taken;
                }
                arrived.await;
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(taken) => Ok(taken),
            Err(_) => {
                let edits = self.lock();
                let missing = edits.get(&number).map(|edit| edit.missing.clone()).unwrap_or_default();
                let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
                anyhow::bail!("edit {number} has not arrived at proxies {missing:?} within {limit:?}; ended: {ended:?}")
            }
        }
    }

    /// What an edit took that has arrived everywhere.
    fn take(&self, number: u64) -> Option<Vec<Duration>> {
        let mut edits = self.lock();
        let is_over = edits.get(&number).is_some_and(|edit| edit.missing.is_empty());
        if is_over { edits.remove(&number).map(|edit| edit.taken) } else { None }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Edit>> {
        self.0.edits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_edit_is_over_when_all_that_it_concerns_have_it() {
        let markers = Markers::default();
        markers.begin(6, 0, vec![1]);
        markers.begin(7, 0, vec![1, 3]);
        markers.look(1, format!("..{}..{}", marker(5), marker(7)).as_bytes());
        markers.look(2, marker(7).as_bytes());
        assert_eq!(markers.arrived(6, Duration::from_secs(1)).await.unwrap().len(), 1, "by a newer one");
        assert!(markers.arrived(7, Duration::from_millis(1)).await.is_err());
        markers.look(3, marker(7).as_bytes());
        assert_eq!(markers.arrived(7, Duration::from_secs(1)).await.unwrap().len(), 2);
    }
}
