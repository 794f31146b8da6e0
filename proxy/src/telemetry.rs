//! Telemetry: one record per request or connection, and its readers (access log, metrics).

pub mod access_log;
pub mod metrics;
pub mod record;
pub mod trace;

pub use access_log::AccessLog;
pub use metrics::{Copied, Metrics};
pub use record::{Direction, Record};
pub use trace::TraceContext;
