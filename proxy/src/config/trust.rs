//! What control tells about the mesh's trust, and who follows it in this process.

use palisade_model::trust::{Standing, Trust};
use tokio::sync::watch;

/// Puts trust in force.
pub trait Trusting: Send + Sync + 'static {
    /// These count from now on; what cannot be put in force is said in the answer. CPU work: call it off the async threads.
    fn trust(&self, trust: Trust) -> Standing;

    /// What is in force, as it changes: with new certificates, too.
    fn standing(&self) -> watch::Receiver<Standing>;
}

/// The next change of what is in force; never, where nobody follows. Cancel-safe.
pub(super) async fn changed(standing: &mut Option<watch::Receiver<Standing>>) -> Standing {
    let Some(receiver) = standing else { return std::future::pending().await };
    if receiver.changed().await.is_err() {
        *standing = None;
        return std::future::pending().await;
    }
    receiver.borrow_and_update().clone()
}
