//! Configuration and identity from control: the delta client, its subscriptions, and the workload's certificate.
//!
//! Everything outlives control: the last snapshot and certificate stay in force while it is away. Standalone is the same
//! code over a [`Pipe`].

mod backoff;
pub mod client;
pub mod dial;
pub mod identity;
mod pipe;
mod reports;
pub mod saved;
mod subscriptions;
mod trust;

#[cfg(test)]
mod tests;

pub use client::{Applied, Applier, ApplyRejection, ConfigClient, ConfigState, Explainer};
pub use dial::{Credentials, DialError, Dialer, TlsDialer, TokenSource};
pub use identity::{IdentityClient, IssuedIdentity};
pub use pipe::Pipe;
pub use reports::Outbox;
pub use saved::{StateFolder, StateFolderError};
pub use subscriptions::{Resolution, Subscriptions};
pub use trust::Trusting;
