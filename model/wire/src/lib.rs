//! How the model travels: protocol messages that mirror it file by file, encoding, validating decoding, and the delta
//! protocol's two state machines. No I/O, no clock.
//!
//! Decoding trusts nothing: every field is checked, every hash recomputed, and what cannot be understood is an error that
//! names the resource and the field. No bytes panic.

mod authentication;
mod cluster;
mod endpoint;
mod entry;
mod external_authorization;
mod field;
mod listener;
mod membership;
mod origin;
mod policy;
mod resource;
mod route;
pub mod saved;
mod scalar;
mod secret;
mod service;
mod settings;
mod shared;
mod transaction;
mod trust;

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
pub mod certificates;
pub mod decisions;
pub mod delta;
pub mod proto;

#[cfg(test)]
mod tests;

pub use entry::{InvalidEntry, decode_entry, encode_entry};
pub use field::{InvalidField, Problem};
pub use resource::{decode_key, encode_key};
pub use service::{decode_query, encode_query};
pub use transaction::{InvalidTransaction, decode_transaction, encode_transaction};
