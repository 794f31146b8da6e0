//! What tests, tour and benchmarks share: a mesh of real processes, an HTTP client, and load.

#![expect(clippy::indexing_slicing, reason = "test support; indexing a JSON value gives null, it does not panic")]

pub mod bench;
pub mod certificates;
pub mod checkout;
pub mod http;
pub mod istio_sidecar;
pub mod kubernetes;
pub mod load;
pub mod mesh;
pub mod tour;
pub mod wait;
