//! What a mesh means: the immutable model that documents compile to and proxies apply.
//!
//! Pure: no clock, no I/O, no async runtime.

pub mod identity;
pub mod origin;
pub mod policy;
pub mod reason;
