//! Recent denials by their ids, with what each was decided from: the memory behind `/why/ID`.

use std::{collections::VecDeque, sync::Arc};

use jiff::Timestamp;
use palisade_model::reason::Reason;
use palisade_policy::{CapturedRequest, PolicyEngine};
use parking_lot::Mutex;

/// Denials kept. At about 1 KiB each this bounds the memory to 4 MiB.
const KEPT: usize = 4096;

/// The last denials, oldest first.
#[derive(Debug, Default)]
pub struct RecentDenials {
    kept: Mutex<VecDeque<Arc<Denied>>>,
}

/// One denial.
#[derive(Debug)]
pub struct Denied {
    /// Its id.
    pub id: Box<str>,
    /// When it was decided.
    pub time: Timestamp,
    /// The reason that the log gives.
    pub reason: Reason,
    /// What it was decided from.
    pub captured: Box<CapturedRequest>,
    /// Who decided: the engine of that time, so that the explanation is of that decision.
    pub engine: Arc<PolicyEngine>,
}

impl RecentDenials {
    /// Remembers a denial, and forgets the oldest when there are too many.
    pub fn remember(&self, denied: Denied) {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::new(denied));
    }

    /// A denial by its id.
    pub fn find(&self, id: &str) -> Option<Arc<Denied>> {
        self.kept.lock().iter().rev().find(|denied| *denied.id == *id).map(Arc::clone)
    }
}
