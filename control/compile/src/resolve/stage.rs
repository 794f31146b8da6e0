//! Steps of resolving that are taken over from the mesh before while what they read is equal (architecture rule 9).

use std::sync::Arc;

use crate::{
    inputs::{Input, Inputs},
    reports::Reports,
};

/// The result of a step, with what it was made from.
#[derive(Debug)]
pub(crate) struct Stage<T> {
    /// All that the step could see.
    seen: Inputs,
    /// What it made.
    value: Arc<T>,
    /// What it found.
    found: Reports,
}

impl<T> Stage<T> {
    /// The result for these inputs: that of `previous` if everything in `reads` is equal, else a new one. `make` sees what
    /// `reads` names and nothing else, so that a result cannot depend on more. A step that is given another step's result
    /// names what that one reads as well.
    pub(crate) fn of(
        previous: Option<&Self>,
        inputs: &Inputs,
        reads: &[&[Input]],
        reports: &mut Reports,
        make: impl FnOnce(&Inputs, &mut Reports) -> T,
    ) -> Self {
        let seen = inputs.only(reads);
        if let Some(held) = previous.filter(|held| held.seen.is_same(&seen)) {
            reports.add_all(&held.found);
            return Self { seen, value: Arc::clone(&held.value), found: held.found.clone() };
        }
        let mut found = Reports::unplaced();
        let value = Arc::new(make(&seen, &mut found));
        reports.add_all(&found);
        Self { seen, value, found }
    }

    /// All that it could see.
    pub(crate) fn seen(&self) -> &Inputs {
        &self.seen
    }

    /// What it made.
    pub(crate) fn value(&self) -> Arc<T> {
        Arc::clone(&self.value)
    }
}
