//! The data plane that gateway and sidecar share. The only crate that sees Pingora.

pub mod admin;
pub mod answer;
pub mod config;
pub mod http;
pub mod index;
pub mod names;
pub mod process;
pub mod request;
pub mod runtime;
pub mod serve;
pub mod telemetry;
pub mod tls;
pub mod transport;
