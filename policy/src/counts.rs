//! What engines count: errors and fallbacks of a process, matches of audited and dry-run documents.

use std::sync::atomic::{AtomicU64, Ordering};

/// Sums over all policies that a process has ever loaded, so that they never fall when policies come and go.
#[derive(Debug, Default)]
pub struct EngineTotals {
    errors: AtomicU64,
    fallbacks: AtomicU64,
    replays: AtomicU64,
    mismatches: AtomicU64,
}

/// How often an audited or dry-run document matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordedCounts {
    /// Requests and connections that it matched.
    pub matched: u64,
    /// Requests and connections whose answer would have been another one, had this document alone been enforced as well. Always 0 for
    /// an audited document.
    pub changed: u64,
}

/// [`RecordedCounts`] while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Recordings {
    matched: AtomicU64,
    changed: AtomicU64,
}

impl EngineTotals {
    /// Evaluations that failed. Each one decided as a denial (forbid) or as no match (permit).
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Evaluations by Cedar itself, because a policy has no compiled form or is no longer trusted.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// Decisions that were made again on Cedar.
    pub fn replays(&self) -> u64 {
        self.replays.load(Ordering::Relaxed)
    }

    /// Policies that Cedar judged otherwise than their compiled form. Any is a defect: report it.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Ordering::Relaxed)
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_fallback(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_replay(&self, mismatches: u64) {
        self.replays.fetch_add(1, Ordering::Relaxed);
        self.mismatches.fetch_add(mismatches, Ordering::Relaxed);
    }
}

impl Recordings {
    pub(crate) fn count(&self, is_match: bool, is_change: bool) {
        if is_match {
            self.matched.fetch_add(1, Ordering::Relaxed);
        }
        if is_change {
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> RecordedCounts {
        RecordedCounts { matched: self.matched.load(Ordering::Relaxed), changed: self.changed.load(Ordering::Relaxed) }
    }
}
