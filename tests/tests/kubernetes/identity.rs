//! Who callers are, and the root they all trust, on a real API server.

mod bundle;
mod callers;
mod control;
mod rights;
mod root;
mod rotation;
mod signers;
mod tokens;
