//! What users write: documents, the typed kinds in them, and everything that admission would say about them. Pure: no clock, no I/O.
//!
//! - [`document::read`] turns a text into [`Document`]s, each with the lines of its fields.
//! - [`parse`] turns a document into a [`Parsed`]: its [`Meta`], a typed [`Object`], and all [`Issue`]s with code, path and severity.
//! - [`istio`], [`gateway_api`], [`kubernetes`] and [`palisade`] hold the types, one file per kind. A field that means something when it is
//!   absent has that meaning already; where absent and empty differ it is an `Option`.
//! - [`istio::MeshConfig::parse`] reads the mesh configuration out of its ConfigMap.

#[macro_use]
mod schema;

mod cel;
pub mod codes;
pub mod compatibility;
pub mod crd;
pub mod document;
mod duration;
pub mod gateway_api;
pub mod grpc_status;
mod issue;
pub mod istio;
pub mod kubernetes;
pub mod object;
pub mod palisade;
mod path;
pub mod re2;
mod validate;

pub use codes::Code;
pub use document::{Document, Documents};
pub use duration::{Duration, InvalidDuration};
pub use issue::{Issue, Severity, one_line};
pub use object::{Broken, BrokenTarget, Meta, Object, Parsed, parse};
pub use path::{Path, Segment};
pub use schema::{Bytes, IntOrString};
