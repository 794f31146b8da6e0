//! Benchmarks with real processes. Each prints a table; `docs/benchmarks.md` keeps them with date and method.

pub mod control;
pub mod dns;
pub mod edge;
mod http1;
pub mod latency;
pub mod load;
pub mod measure;
pub mod memory;
pub mod policies;
pub mod process;
pub mod propagation;
pub mod sidecars;
pub mod stand;
pub mod table;
pub mod upstream;
