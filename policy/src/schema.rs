//! The mesh's Cedar schema, as published and as parsed.

/// The schema's text: what hand-written policies may talk about.
pub const SCHEMA: &str = include_str!("mesh.cedarschema");
