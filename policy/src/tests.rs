//! Tests of the crate as a whole: semantics by table, a naive interpreter, Cedar's own authorizer, and the traps that are known.

mod cedar;
mod cedar_document;
mod engine;
mod facts;
mod fail_closed;
mod fuzz;
mod inputs;
mod istio;
mod naive;
mod random;
mod symbolic;
mod traps;
