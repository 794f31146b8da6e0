//! The authority as it changes: everybody who signs or trusts asks for the present one.

use std::sync::Arc;

use tokio::sync::watch;

use super::CertificateAuthority;

/// The authority in force. Cloning what it gives is cheap; a change is a new one.
pub struct LiveAuthority(watch::Sender<Arc<CertificateAuthority>>);

impl LiveAuthority {
    /// Begins with this one.
    pub fn new(authority: CertificateAuthority) -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Arc::new(authority))))
    }

    /// The one in force.
    pub fn current(&self) -> Arc<CertificateAuthority> {
        Arc::clone(&self.0.borrow())
    }

    /// Follows it.
    pub fn follow(&self) -> watch::Receiver<Arc<CertificateAuthority>> {
        self.0.subscribe()
    }

    /// From now on it is this one.
    pub(crate) fn replace(&self, authority: CertificateAuthority) {
        self.0.send_replace(Arc::new(authority));
    }
}
