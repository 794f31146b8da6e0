//! Benchmarks with real processes. Each prints a table; `docs/benchmarks.md` keeps them with date and method.

pub mod propagation;
