//! Telemetry: one record per request or connection, and its readers (access log, metrics).

pub mod access_log;
pub mod bounded_file;
mod line;
pub mod metrics;
pub mod policies;
pub mod record;
pub mod shadow;
pub mod trace;

pub use access_log::AccessLog;
pub use metrics::{Copied, Metrics};
pub use record::{Direction, Record};
pub use shadow::ShadowRecord;
pub use trace::TraceContext;
