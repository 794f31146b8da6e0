//! Status of documents, written back: by the leader alone, own entries only, and nothing where nothing changed.
//!
//! What an object's status should say comes from the compiled mesh and from what proxies have acknowledged; what it says comes from
//! a watch. Where the two differ, the difference is written, at a pace that a fight with another controller or a thousand changes at
//! once cannot raise.

mod acks;
mod kinds;
mod merge;
mod observed;
mod pace;
mod patch;
mod writer;

pub use acks::FleetAcks;
pub use writer::{StatusWriter, Written};

/// Field manager of all status writes.
pub const FIELD_MANAGER: &str = "palisade-status";

/// Name of the Lease of the replica that writes status.
pub const LEASE_NAME: &str = "palisade-control-leader";
