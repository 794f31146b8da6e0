//! Statuses on a real API server, written by real control planes about real proxies.
#![expect(clippy::indexing_slicing, reason = "tests")]

mod addresses;
mod control;
mod fleet;
mod gateways;
mod install;
mod istio;
mod leaders;
mod others;
mod programmed;
mod reaching;
mod replicas;
mod revisions;
mod writes;
