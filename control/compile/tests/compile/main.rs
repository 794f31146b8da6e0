//! Documents in, snapshots and findings out.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod access;
mod conditions;
mod cycles;
mod denials;
mod egress;
mod fuzz;
mod gateway_pods;
mod gateways;
mod golden;
mod incremental;
mod inputs;
mod listener_sets;
mod policies;
mod samples;
mod semantics;
mod slices;
mod support;
mod traffic;
