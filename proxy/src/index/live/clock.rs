//! The time by which ejections and warm-up are measured; tests hand in their own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The clock starts here, so that 0 can stand for "never".
const ORIGIN: u64 = 1000;

/// Milliseconds that never go back.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Monotonic(Instant),
    Manual(Arc<AtomicU64>),
}

impl Default for Clock {
    fn default() -> Self {
        Self(Source::Monotonic(Instant::now()))
    }
}

impl Clock {
    /// A clock that stands still but for [`Clock::advance`].
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(ORIGIN))))
    }

    /// Moves a manual clock; another one moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::AcqRel);
        }
    }

    /// Milliseconds since some moment, at least 1.
    pub fn now(&self) -> u64 {
        match &self.0 {
            Source::Monotonic(start) => {
                u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(ORIGIN)
            }
            Source::Manual(now) => now.load(Ordering::Acquire),
        }
    }
}
