//! Where documents come from, and the mesh that they are compiled to as they change.

pub mod files;
mod live;
mod watch;

pub use live::{Following, LiveError, LiveFiles, start, start_with_keys};
pub use watch::WatchError;
