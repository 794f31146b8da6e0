//! The control plane: documents in, each proxy's slice of the mesh and its certificates out.

pub mod admin;
pub mod admission;
pub mod ca;
pub mod check;
pub mod cluster;
pub mod decisions;
pub mod definitions;
pub mod fleet;
pub mod identity;
pub mod injection;
pub mod jwks;
pub mod leader;
pub mod mesh;
pub mod metrics;
pub mod provisioning;
pub mod replicas;
pub mod rights;
pub mod rotation;
mod run;
pub mod serve;
pub mod settings;
pub mod signer;
pub mod slices;
pub mod source;
mod standalone;
pub mod status;
pub mod token;

pub use run::{run, run_until};
pub use standalone::{NoToken, Standalone, StandaloneError, standalone};
