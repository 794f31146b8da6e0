//! The delta protocol: how a proxy comes to hold its slice of the mesh, and control to know that it does.
//!
//! Two state machines without I/O: what arrives and what time it is are arguments, what is to be done comes back. One
//! transaction is in flight at a time; what changes meanwhile is joined into the next one. A refused offer is not sent
//! again before something has changed.

use std::sync::Arc;

mod assembly;
pub mod client;
pub mod offer;
pub mod server;
mod subscribed;
mod withhold;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use offer::{InvalidOffer, Offer, Update, Withheld};
pub use server::Server;
pub use withhold::{Unofferable, retain, withhold};

/// Version of the protocol that both machines speak.
pub const PROTOCOL: u32 = 1;

/// Content bytes per chunk: large enough to cost little, small enough that other streams get their turn.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Largest message that either side accepts.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Largest encoded transaction that a proxy assembles.
pub const MAX_TRANSACTION_BYTES: u64 = 256 * 1024 * 1024;

/// Largest explanation of a decision that a proxy sends.
pub const MAX_EXPLANATION_BYTES: usize = 256 * 1024;

/// Most queries that one proxy may be subscribed to.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;

/// Most roots that a proxy says it trusts.
pub const MAX_ROOTS: usize = 256;

/// A listener that cannot listen although the offer that it is part of is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbound {
    /// Its key.
    pub listener: Arc<str>,
    /// Why, in one line.
    pub message: Arc<str>,
}

/// The other side broke the protocol or went silent: the stream ends. A proxy then comes back with a new hello.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Messages were lost, repeated or reordered.
    #[error("message {received} arrived where {expected} was due")]
    Sequence {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        received: u64,
    },
    /// A message that says nothing, or nothing that this version knows.
    #[error("a message of no known kind")]
    UnknownMessage,
    /// Something came before, or came instead of, what had to come.
    #[error("{0} out of turn")]
    OutOfTurn(&'static str),
    /// A field cannot be read.
    #[error(transparent)]
    Field(#[from] crate::InvalidField),
    /// The other side speaks another protocol.
    #[error("protocol version {received} is not spoken here, only {PROTOCOL}")]
    Protocol {
        /// What it speaks.
        received: u32,
    },
    /// A limit is exceeded.
    #[error("{what}: {amount} exceeds the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        amount: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// A transaction starts from an offer that is not held here.
    #[error("the transaction does not start from what is held here")]
    WrongBase,
    /// What was due did not come in time.
    #[error("{0} did not come in time")]
    Timeout(&'static str),
    /// The pieces of a transaction do not fit together.
    #[error("a piece of a transaction is missing, repeated or too long")]
    Pieces,
}
