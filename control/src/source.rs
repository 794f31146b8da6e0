//! Where documents come from, and the mesh that they are compiled to as they change.

mod cluster;
pub mod files;
mod followed_files;
mod live;
mod watch;

pub(crate) use cluster::follow_cluster;
pub use cluster::{AccessRule, access_rules, cluster_mesh};
pub use followed_files::LiveError;
pub(crate) use followed_files::follow_files;
pub use watch::WatchError;
