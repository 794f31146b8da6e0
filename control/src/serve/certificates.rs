//! The certificate service: signs the caller's key for the caller's proven identity.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use palisade_wire::certificates::IDENTITY_METADATA;
use palisade_wire::proto::istio_auth::{
    IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService,
};
use tonic::{Request, Response, Status};

use super::{
    Shared,
    caller::{PeerProof, Purpose},
};
use crate::{
    ca::SignError,
    metrics::{CertificateLabels, CertificateResult, Refusal},
    signer::ExternalError,
};

/// Longest lifetime that may be asked for, as Istio's `MAX_WORKLOAD_CERT_TTL`.
const MAX_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

pub(crate) struct Certificates(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let result = self.create(&request).await;
        let outcome = if result.is_ok() { CertificateResult::Signed } else { CertificateResult::Refused };
        self.0.metrics.certificates.get_or_create(&CertificateLabels { result: outcome }).inc();
        result
    }
}

impl Certificates {
    async fn create(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let shared = &self.0;
        let proof = request.extensions().get::<PeerProof>().cloned().unwrap_or_default();
        let (caller, _) = shared.authenticate(request.metadata(), &proof, Purpose::Certificate).await?;
        let who = match &caller.pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => caller.identity.to_string(),
        };
        shared.budgets.certificate(who, Instant::now()).map_err(|exhausted| {
            shared.metrics.refuse(Refusal::Limit);
            Status::resource_exhausted(format!("certificates: {exhausted}"))
        })?;
        let IstioCertificateRequest { csr, validity_duration, metadata: _ } = request.get_ref();
        let lifetime = match u64::try_from(*validity_duration) {
            Ok(0) => shared.certificate_lifetime,
            Ok(seconds) if Duration::from_secs(seconds) <= MAX_LIFETIME => {
                // The operator's lifetime is the longest: agents that ask for Istio's 24 h get it where it is shorter.
                Duration::from_secs(seconds).min(shared.certificate_lifetime)
            }
            Ok(_) | Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "a lifetime of {validity_duration} s: 0 to {} are allowed",
                    MAX_LIFETIME.as_secs()
                )));
            }
        };
        let authority = shared.authority.current();
        let cert_chain = match &shared.signer {
            None => authority.sign(csr, &caller.identity, lifetime, SystemTime::now()).map_err(unsigned)?,
            Some(signer) => signer.sign(csr, &caller.identity, lifetime, &authority).await.map_err(by_another)?,
        };
        tracing::info!(identity = %caller.identity, lifetime_s = lifetime.as_secs(), "certificate signed");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn unsigned(error: SignError) -> Status {
    match error {
        SignError::Request(_) | SignError::Key(_) => Status::invalid_argument(error.to_string()),
        SignError::Expired | SignError::Sign(_) | SignError::Random => {
            tracing::error!(%error, "cannot sign");
            Status::internal(error.to_string())
        }
    }
}

/// What a signer's silence or refusal means to the caller. A request that says something else is told what to say.
fn by_another(error: ExternalError) -> Status {
    tracing::warn!(%error, "no certificate");
    let text = error.to_string();
    match error {
        ExternalError::Request(error) => unsigned(error),
        ExternalError::Names { identity, .. } => {
            let mut status = Status::failed_precondition(text);
            if let Ok(identity) = identity.to_string().parse() {
                status.metadata_mut().insert(IDENTITY_METADATA, identity);
            }
            status
        }
        ExternalError::Api { .. } | ExternalError::Refused { .. } | ExternalError::Silent { .. } => {
            Status::unavailable(text)
        }
        ExternalError::Answer { .. } => Status::internal(text),
    }
}
