//! CertificateSigningRequests of the Kubernetes API.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{ExternalError, ExternalSigner, LOOK};

/// What the API takes at least.
const SHORTEST: Duration = Duration::from_secs(600);

const FORBIDDEN: u16 = 403;

impl ExternalSigner {
    /// Asks, approves where that is allowed, waits, and takes the request away again.
    pub(super) async fn by_kubernetes(
        &self,
        signer: &str,
        csr_pem: &str,
        lifetime: Duration,
    ) -> Result<String, ExternalError> {
        let requests = Api::<CertificateSigningRequest>::all(self.client.clone());
        let name = format!("palisade-{:016x}", fastrand::u64(..));
        let seconds = i32::try_from(lifetime.max(SHORTEST).as_secs()).unwrap_or(i32::MAX);
        let request = CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some([("app.kubernetes.io/managed-by".to_owned(), "palisade".to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(csr_pem.as_bytes().to_vec()),
                signer_name: signer.to_owned(),
                expiration_seconds: Some(seconds),
                usages: Some(
                    ["digital signature", "key encipherment", "server auth", "client auth"].map(str::to_owned).into(),
                ),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        requests.create(&PostParams::default(), &request).await.map_err(|error| self.failed(error))?;
        let signed = self.in_time(self.await_signed(&requests, &name)).await;
        if let Err(error) = requests.delete(&name, &DeleteParams::default()).await {
            tracing::debug!(%error, name, "a certificate signing request is left behind; the API server removes it");
        }
        signed
    }

    async fn await_signed(
        &self,
        requests: &Api<CertificateSigningRequest>,
        name: &str,
    ) -> Result<String, ExternalError> {
        let approved = json!({"status": {"conditions": [{
            "type": "Approved", "status": "True", "reason": "PalisadeProven", "message": "palisade-control has proven the workload",
        }]}});
        match requests.patch_approval(name, &PatchParams::default(), &Patch::Merge(&approved)).await {
            Ok(_) => {}
            // Somebody else approves.
            Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
                tracing::debug!(name, message = %status.message, "approving is another's");
            }
            Err(error) => return Err(self.failed(error)),
        }
        loop {
            let status = requests.get(name).await.map_err(|error| self.failed(error))?.status.unwrap_or_default();
            for condition in status.conditions.iter().flatten() {
                if condition.type_ == "Denied" || condition.type_ == "Failed" {
                    let why = condition.message.clone().or_else(|| condition.reason.clone());
                    return Err(self.refused(format!("{}: {}", condition.type_, why.unwrap_or_default())));
                }
            }
            if let Some(ByteString(certificate)) = status.certificate.filter(|certificate| !certificate.0.is_empty()) {
                return String::from_utf8(certificate).map_err(|error| self.refused(error.to_string()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
