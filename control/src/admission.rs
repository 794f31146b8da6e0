//! Admission webhooks on 15017: documents are checked and pods are injected by the functions that files go through.

use std::{net::IpAddr, sync::Arc, time::Duration};

use palisade_compile::Mesh;
use tokio::sync::Semaphore;

mod cure;
mod impact;
pub mod options;
mod policies;
pub mod register;
pub mod review;
mod server;
#[cfg(test)]
mod tests;
mod validate;

pub use options::AdmissionOptions;
pub use server::serve;
pub use validate::{Verdict, validate};

use crate::slices::MeshWatch;

/// Reviews that are worked on at a time; more wait, and those that wait longer than [`ANSWER`] are told to come again.
const AT_ONCE: usize = 8;

/// An answer that takes longer is none: the API server has its own limit, and `failurePolicy` decides.
const ANSWER: Duration = Duration::from_secs(4);

/// What all reviews share.
pub struct Admission {
    mesh: MeshWatch,
    revision: String,
    slots: Arc<Semaphore>,
}

impl Admission {
    /// Admission by the newest mesh, for documents of this revision.
    pub fn new(mesh: MeshWatch, revision: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { mesh, revision: revision.into(), slots: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// The newest mesh; `None` before the first is compiled.
    fn mesh(&self) -> Option<Mesh> {
        self.mesh.borrow().as_ref().and_then(|mesh| mesh.mesh().cloned())
    }
}

/// The names and addresses that a webhook's certificate carries.
pub fn serving_names(options: &AdmissionOptions, namespace: &str) -> (Vec<String>, Vec<IpAddr>) {
    let service = format!("{}.{namespace}", options.webhook_service);
    let mut names: Vec<String> = ["", ".svc", ".svc.cluster.local"].map(|suffix| format!("{service}{suffix}")).into();
    let mut addresses = Vec::new();
    let authority = options.webhook_url.as_ref().and_then(|url| url.parse::<http::Uri>().ok());
    if let Some(host) = authority.as_ref().and_then(http::Uri::host) {
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(host.to_owned()),
        }
    }
    (names, addresses)
}
