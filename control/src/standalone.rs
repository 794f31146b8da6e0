//! The control plane inside another process: the same source, server and protocol, over pipes instead of TLS.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use palisade_compile::SourceOptions;
use palisade_model::settings::WorkloadRef;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    ca::{CaError, CertificateAuthority, LiveAuthority},
    identity::Verifier,
    jwks::{Fetcher, KeyKeeper},
    metrics::Metrics,
    serve::{Shared, serve_pipes},
    source::{self, LiveError},
    token::{BoundPod, MintError, TokenKey, TokenKeyError},
};

/// CA certificates that servers of token keys are verified with.
const CA_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Connections that wait to be served.
const BACKLOG: usize = 16;

/// Lifetime of tokens and certificates: the process is not expected to outlive it.
const LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A control plane in this process. It ends with its cancellation token.
pub struct Standalone {
    /// One end of a new pipe goes here; the other is a connection to control.
    pub connect: mpsc::Sender<DuplexStream>,
    shared: Arc<Shared>,
    tokens: TokenKey,
}

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// The documents.
    #[error(transparent)]
    Source(#[from] LiveError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The token key.
    #[error(transparent)]
    Key(#[from] TokenKeyError),
    /// Nothing was compiled.
    #[error("nothing is compiled")]
    Empty,
}

/// Why a pod has no token.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    /// There is no such pod.
    #[error("pod {namespace}/{name} is not in the documents", namespace = .0.namespace, name = .0.name)]
    UnknownPod(WorkloadRef),
    /// It cannot be signed.
    #[error(transparent)]
    Mint(#[from] MintError),
}

/// Starts a control plane for documents, with an authority in `ca_dir`.
///
/// # Errors
/// When documents or authority cannot be read.
pub fn standalone(
    files: Vec<PathBuf>,
    namespace: &str,
    options: SourceOptions,
    ca_dir: &Path,
    stop: CancellationToken,
) -> Result<Standalone, StandaloneError> {
    let metrics = Metrics::new();
    let (keeper, feed) = KeyKeeper::new(Fetcher::new(Path::new(CA_CERTIFICATES)), Some(ca_dir), metrics.clone());
    let (live, mesh) = source::follow_files(files, namespace, options, metrics.clone(), Some(feed))?;
    let trust_domain = mesh.borrow().as_ref().map(|mesh| mesh.trust_domain().clone()).ok_or(StandaloneError::Empty)?;
    let authority = LiveAuthority::new(CertificateAuthority::load_or_create(ca_dir, &trust_domain, SystemTime::now())?);
    let tokens = TokenKey::generate()?;
    let verifier = Verifier::Local(tokens.clone());
    let shared = Shared::new(mesh, authority, verifier, LIFETIME.min(MAX_CERTIFICATE), metrics, stop.clone());
    let (connect, pipes) = mpsc::channel(BACKLOG);
    let serving = Arc::clone(&shared);
    shared.tasks.spawn(live.follow(stop.clone()));
    shared.tasks.spawn(keeper.run(stop));
    // The server waits for the tasks of `shared`, so it is not one of them; it ends with `stop`.
    drop(tokio::spawn(async move {
        if let Err(error) = serve_pipes(serving, pipes).await {
            tracing::error!(%error, "the control plane in this process ended");
        }
    }));
    Ok(Standalone { connect, shared, tokens })
}

const MAX_CERTIFICATE: Duration = Duration::from_secs(90 * 24 * 3600);

impl Standalone {
    /// The token of a pod of the documents.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn token(&self, pod: &WorkloadRef) -> Result<Arc<str>, NoToken> {
        let mesh = self.shared.mesh.borrow().clone();
        let workload = mesh.and_then(|mesh| mesh.workload(pod)).ok_or_else(|| NoToken::UnknownPod(pod.clone()))?;
        let bound = BoundPod {
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
            uid: workload.uid,
            service_account: workload.service_account,
        };
        Ok(self.tokens.mint(&bound, SystemTime::now(), LIFETIME)?.into())
    }

    /// What its server shares: fleet, metrics, reports.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
