//! The transport on real sockets: full duplex, trailers, cancellation, restarts, limits, through one and two proxies.
#![allow(unreachable_pub, reason = "a test crate")]

mod child;
mod duplex;
mod h1;
mod h2;
mod life;
mod support;
mod upstream;
