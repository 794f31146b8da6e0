//! Serving proxies on 15012: configuration and certificates, one gRPC server, over TLS or a pipe.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use palisade_wire::{
    delta::MAX_MESSAGE_BYTES,
    proto::{
        istio_auth::istio_certificate_service_server::IstioCertificateServiceServer,
        v1::{
            configuration_server::ConfigurationServer, decision_reports_server::DecisionReportsServer,
            replicas_server::ReplicasServer,
        },
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, metadata::MetadataMap, transport::Server};

use crate::{
    ca::LiveAuthority,
    decisions::DecisionHub,
    fleet::Fleet,
    identity::{Proven, TokenError, Verifier},
    metrics::{Metrics, Refusal},
    replicas::{self, Replicas, Sharing},
    signer::ExternalSigner,
    slices::{MeshWatch, Slices},
};

mod accept;
mod budget;
mod caller;
mod certificates;
mod delta;
mod identity;
mod reports;
mod shown;

pub use identity::{ServingIdentity, ServingIdentityError};

use accept::Connection;
use budget::Budgets;
pub(crate) use caller::PeerProof;
use caller::{Caller, Purpose, Refused, bearer, prove};

/// Connections at a time: one per proxy, and room for those that come back.
const MAX_CONNECTIONS: usize = 20_000;

/// Streams on one connection: one for configuration, one for decision records, a few for certificates.
const MAX_STREAMS: u32 = 16;

/// Largest certificate request message.
const MAX_CERTIFICATE_MESSAGE: usize = 128 * 1024;

/// How long open streams get to end when the server drains.
const DRAIN: Duration = Duration::from_secs(5);

/// Time for one proxy to leave when the server drains, and the time in which all have left: within [`DRAIN`].
const LEAVE: Duration = Duration::from_millis(5);
const LEAVE_ALL: Duration = Duration::from_secs(3);

/// What all connections share.
pub struct Shared {
    pub(crate) mesh: MeshWatch,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) authority: Arc<LiveAuthority>,
    pub(crate) verifier: Verifier,
    pub(crate) metrics: Metrics,
    pub(crate) decisions: Arc<DecisionHub>,
    pub(crate) replicas: Replicas,
    pub(crate) certificate_lifetime: Duration,
    /// Who signs in place of the authority.
    pub(crate) signer: Option<ExternalSigner>,
    pub(crate) budgets: Budgets,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The gRPC server.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

impl Shared {
    /// Everything that serving needs. Cancelling `stop` drains.
    pub fn new(
        mesh: MeshWatch,
        authority: Arc<LiveAuthority>,
        verifier: Verifier,
        certificate_lifetime: Duration,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Self::signed_by(None, mesh, authority, verifier, certificate_lifetime, metrics, stop)
    }

    /// As [`Shared::new`], with certificates of workloads that somebody else signs.
    pub(crate) fn signed_by(
        signer: Option<ExternalSigner>,
        mesh: MeshWatch,
        authority: Arc<LiveAuthority>,
        verifier: Verifier,
        certificate_lifetime: Duration,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            signer,
            mesh,
            fleet: Arc::default(),
            authority,
            verifier,
            decisions: DecisionHub::new(metrics.clone()),
            replicas: Replicas::default(),
            metrics,
            certificate_lifetime,
            budgets: Budgets::new(Instant::now()),
            stop,
            tasks: TaskTracker::new(),
        })
    }

    /// Until the stream of a proxy is to end because the server drains: each at another moment, so that those who take over are
    /// not met by all at once.
    pub(crate) async fn turn_to_leave(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(spread(self.fleet.len()).mul_f64(fastrand::f64())).await;
    }

    /// The connected proxies.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Decision records.
    pub fn decisions(&self) -> &Arc<DecisionHub> {
        &self.decisions
    }

    /// The authority.
    pub fn authority(&self) -> &Arc<LiveAuthority> {
        &self.authority
    }

    /// Proves a caller against the newest mesh.
    pub(crate) async fn authenticate(
        &self,
        metadata: &MetadataMap,
        proof: &PeerProof,
        purpose: Purpose,
    ) -> Result<(Caller, Arc<dyn Slices>), Status> {
        self.budgets.may_try(proof.address, Instant::now()).map_err(|exhausted| {
            self.metrics.refuse(Refusal::Limit);
            Status::resource_exhausted(format!("failed proofs: {exhausted}"))
        })?;
        let refused =
            match self.token(metadata).await.and_then(|token| Ok((self.judged(proof, token.is_some())?, token))) {
                Ok((proof, token)) => {
                    // After the review: what is newest now.
                    let mesh = self.mesh.borrow().clone();
                    let mesh = mesh.ok_or_else(|| Status::unavailable("no configuration is compiled yet"))?;
                    match prove(token, &proof, purpose, &*mesh) {
                        Ok(caller) => return Ok((caller, mesh)),
                        Err(refused) => refused,
                    }
                }
                Err(refused) => refused,
            };
        self.metrics.refuse(match &refused {
            Refused::Token(TokenError::Unavailable(_)) => Refusal::Unreviewed,
            refused if refused.is_unauthenticated() => Refusal::Unauthenticated,
            _ => Refusal::Forbidden,
        });
        if !matches!(refused, Refused::Token(TokenError::Unavailable(_))) {
            self.budgets.failed(proof.address, Instant::now());
        }
        tracing::warn!(error = %refused, "caller refused");
        Err(refused.into())
    }

    /// What a connection proves by the trust of this moment. A certificate that does not count any more proves nothing; a token
    /// beside it goes on to: that is how its holder comes to another certificate.
    pub(crate) fn judged(&self, proof: &PeerProof, has_token: bool) -> Result<PeerProof, Refused> {
        if proof.certificates.is_empty() {
            return Ok(proof.clone());
        }
        match self.authority.current().judge(&proof.certificates, SystemTime::now()) {
            Ok(()) => Ok(proof.clone()),
            Err(error) if has_token => {
                tracing::info!(%error, "a certificate that does not count is shown beside a token");
                Ok(PeerProof { certificates: Arc::from([]), ..proof.clone() })
            }
            Err(error) => Err(Refused::Certificate(error)),
        }
    }

    /// What the token of a call proves, if there is one.
    async fn token(&self, metadata: &MetadataMap) -> Result<Option<Proven>, Refused> {
        match bearer(metadata)? {
            Some(token) => Ok(Some(self.verifier.verify(&token, SystemTime::now()).await?)),
            None => Ok(None),
        }
    }
}

/// Over which time so many proxies leave.
fn spread(proxies: usize) -> Duration {
    LEAVE.saturating_mul(u32::try_from(proxies).unwrap_or(u32::MAX)).min(LEAVE_ALL)
}

/// Serves TLS connections until `stop`, then drains.
///
/// # Errors
/// When the server fails; single connections that fail do not end it.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, identity: &ServingIdentity) -> Result<(), ServeError> {
    let connections = accept::accept(
        listener,
        identity.config(),
        MAX_CONNECTIONS,
        shared.metrics.clone(),
        shared.stop.clone(),
        &shared.tasks,
    );
    serve_connections(shared, connections).await
}

/// Serves pipes until `stop`: the very same server, without a network.
///
/// # Errors
/// When the server fails.
pub async fn serve_pipes(
    shared: Arc<Shared>,
    pipes: mpsc::Receiver<tokio::io::DuplexStream>,
) -> Result<(), ServeError> {
    serve_stream(shared, ReceiverStream::new(pipes).map(Connection::pipe)).await
}

async fn serve_connections(shared: Arc<Shared>, connections: mpsc::Receiver<Connection>) -> Result<(), ServeError> {
    serve_stream(shared, ReceiverStream::new(connections)).await
}

async fn serve_stream(
    shared: Arc<Shared>,
    connections: impl futures::Stream<Item = Connection> + Send,
) -> Result<(), ServeError> {
    let delta = ConfigurationServer::new(delta::Delta(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let certificates = IstioCertificateServiceServer::new(certificates::Certificates(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_CERTIFICATE_MESSAGE);
    let reports = DecisionReportsServer::new(reports::Reports(Arc::clone(&shared)))
        .max_decoding_message_size(palisade_wire::decisions::MAX_MESSAGE_BYTES);
    let sharing = ReplicasServer::new(Sharing(Arc::clone(&shared)))
        .max_decoding_message_size(replicas::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(replicas::MAX_MESSAGE_BYTES);
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(delta)
        .add_service(reports)
        .add_service(sharing)
        .add_service(certificates);
    let stop = shared.stop.clone();
    let incoming = connections.map(Ok::<_, std::io::Error>);
    let serving = server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::pin!(serving);
    tokio::select! {
        biased;
        result = &mut serving => result?,
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => {
            tracing::warn!("connections were still open at the end of the drain");
        }
    }
    shared.tasks.close();
    // Tasks end by themselves once `stop` is cancelled; a stuck one must not keep the process.
    if tokio::time::timeout(DRAIN, shared.tasks.wait()).await.is_err() {
        tracing::warn!("tasks were still running at the end of the drain");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_leave_at_a_rate_and_all_before_the_drain_ends() {
        assert_eq!(spread(0), Duration::ZERO);
        assert_eq!(spread(100), Duration::from_millis(500));
        assert_eq!(spread(20_000), LEAVE_ALL);
        assert!(spread(usize::MAX) < DRAIN);
    }
}
