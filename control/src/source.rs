//! Where documents come from, and the mesh that they are compiled to as they change.

pub mod files;
mod followed_files;
mod live;
mod watch;

pub use followed_files::LiveError;
pub(crate) use followed_files::follow_files;
pub use watch::WatchError;
