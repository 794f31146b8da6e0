//! Palisade's own kinds, group `palisade.dev`, version `v1alpha1`.

mod cedar_policy;
mod policy_test;

pub use cedar_policy::*;
pub use policy_test::*;

/// The API group of Palisade's kinds.
pub const GROUP: &str = "palisade.dev";
