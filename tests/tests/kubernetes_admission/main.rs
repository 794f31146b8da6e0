//! Definitions, webhooks and injection on a real API server.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod definitions;
mod documents;
mod injection;
mod validation;
mod webhooks;
