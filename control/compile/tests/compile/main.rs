//! Documents in, snapshots and findings out.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod golden;
mod inputs;
mod samples;
mod semantics;
mod support;
