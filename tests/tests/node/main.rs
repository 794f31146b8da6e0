//! The real node: pods run, find each other, and are reached from outside.
#![expect(clippy::indexing_slicing, reason = "tests")]

mod bookinfo;
mod pods;
mod support;
mod workloads;
