//! The control plane: documents in, each proxy's slice of the mesh and its certificates out.

pub mod ca;
pub mod fleet;
pub mod metrics;
pub mod serve;
pub mod slices;
pub mod source;
pub mod token;
