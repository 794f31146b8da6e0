//! Who callers are, and the root they all trust, on a real API server.

mod bundle;
mod callers;
mod rights;
mod root;
mod tokens;
