//! The data plane that gateway and sidecar share. The only crate that sees Pingora.

pub mod admin;
pub mod telemetry;
pub mod transport;
