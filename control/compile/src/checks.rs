//! Findings that need all documents together: references that lead nowhere, and what is not served.

use crate::{reports::Reports, resolve::Resolved};

/// Adds all findings.
pub(crate) fn check(resolved: &Resolved, reports: &mut Reports) {
    let _ = (resolved, reports);
}
