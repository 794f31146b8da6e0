//! The transport on real sockets: full duplex, trailers, cancellation, restarts, limits, through one and two proxies.
#![expect(unreachable_pub, reason = "a test crate")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod child;
mod duplex;
mod floods;
mod h1;
mod h2;
mod h2spec;
mod life;
mod support;
mod upstream;
