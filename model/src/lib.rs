//! What a mesh means: the immutable model that documents compile to and proxies apply.
//!
//! Pure: no clock, no I/O, no async runtime. A proxy holds one [`snapshot::Snapshot`] of [`resource::Resource`]s and moves
//! to the next by a [`transaction::Transaction`].

pub mod authentication;
pub mod cluster;
pub mod endpoint;
pub mod external_authorization;
pub mod feature;
pub mod hash;
pub mod host;
pub mod identity;
pub mod listener;
pub mod membership;
pub mod origin;
pub mod policy;
pub mod reason;
pub mod reserved;
pub mod resource;
pub mod route;
pub mod secret;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod transaction;
pub mod trust;
pub mod variables;
