//! Admission webhooks on 15017: documents are checked and pods are injected by the functions that files go through.

use std::{net::IpAddr, sync::Arc, time::Duration};

use kube::Client;
use palisade_compile::{Mesh, Revisions};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

mod cure;
mod impact;
mod injecting;
pub mod options;
mod policies;
pub mod register;
pub mod review;
mod server;
#[cfg(test)]
mod tests;
mod validate;

pub use injecting::inject_pod;
pub use options::AdmissionOptions;
pub use server::serve;
pub use validate::{Verdict, validate};

use crate::{
    ca::LiveAuthority,
    injection::InjectionSettings,
    serve::{ServingIdentity, ServingIdentityError},
    slices::MeshWatch,
};

/// Reviews that are worked on at a time; more wait, and those that wait longer than [`ANSWER`] are told to come again.
const AT_ONCE: usize = 8;
/// Reviews that are read at a time, which bounds the memory that callers can take.
const READ_AT_ONCE: usize = 32;

/// An answer that takes longer is none: the API server has its own limit, and `failurePolicy` decides.
const ANSWER: Duration = Duration::from_secs(4);

/// Lifetime of the webhooks' certificate.
const SERVING_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What all reviews share.
pub struct Admission {
    mesh: MeshWatch,
    revisions: Revisions,
    injection: InjectionSettings,
    readers: Semaphore,
    slots: Semaphore,
}

impl Admission {
    /// Admission by the newest mesh, for documents of this revision.
    pub fn new(mesh: MeshWatch, revisions: impl Into<Revisions>, injection: InjectionSettings) -> Arc<Self> {
        let revisions = revisions.into();
        let injection = InjectionSettings { revision: revisions.name().to_string(), ..injection };
        let (readers, slots) = (Semaphore::new(READ_AT_ONCE), Semaphore::new(AT_ONCE));
        Arc::new(Self { mesh, revisions, injection, readers, slots })
    }

    /// The newest mesh; `None` before the first is compiled.
    fn mesh(&self) -> Option<Mesh> {
        self.mesh.borrow().as_ref().and_then(|mesh| mesh.mesh().cloned())
    }
}

/// Why there is no admission.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The address is not to be had.
    #[error("webhooks cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No certificate.
    #[error("webhooks: {0}")]
    Identity(#[from] ServingIdentityError),
}

/// What [`start`] needs of the control plane.
pub struct Surroundings {
    /// Where webhooks are registered.
    pub client: Client,
    /// The control plane's own namespace.
    pub namespace: String,
    /// The newest mesh.
    pub mesh: MeshWatch,
    /// Who signs the webhooks' certificate.
    pub authority: Arc<LiveAuthority>,
    /// Ends everything.
    pub stop: CancellationToken,
}

/// Serves the webhooks with a certificate of the mesh's authority, renews it, and keeps the API server told, until `stop`.
///
/// # Errors
/// When the address is taken or no certificate is to be had.
pub async fn start(
    options: AdmissionOptions,
    injection: InjectionSettings,
    surroundings: Surroundings,
) -> Result<JoinHandle<()>, AdmissionError> {
    let Surroundings { client, namespace, mesh, authority, stop } = surroundings;
    let address = options.webhook;
    let failed = |source| AdmissionError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let (names, addresses) = serving_names(&options, &namespace);
    let identity = ServingIdentity::issue(&authority.current(), names, addresses, SERVING_LIFETIME)?;
    let tls = identity.anonymous_config()?;
    let admission = Admission::new(mesh, options.revisions(), injection);
    tracing::info!(%address, revision = %options.revision, "webhooks ready");
    Ok(tokio::spawn(async move {
        let changes = authority.follow();
        let keep = async {
            if !options.webhook_unregistered {
                register::keep(client, options, namespace, changes, stop.clone()).await;
            }
        };
        tokio::join!(serve(admission, listener, tls, stop.clone()), identity.renew(&authority, stop.clone()), keep);
    }))
}

/// The names and addresses that the webhooks' certificate carries.
fn serving_names(options: &AdmissionOptions, namespace: &str) -> (Vec<String>, Vec<IpAddr>) {
    let service = format!("{}.{namespace}", options.webhook_service);
    let mut names: Vec<String> = ["", ".svc", ".svc.cluster.local"].map(|suffix| format!("{service}{suffix}")).into();
    let mut addresses = Vec::new();
    let url = options.webhook_url.as_ref().and_then(|url| url.parse::<http::Uri>().ok());
    if let Some(host) = url.as_ref().and_then(http::Uri::host) {
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(host.to_owned()),
        }
    }
    (names, addresses)
}
