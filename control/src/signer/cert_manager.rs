//! CertificateRequests of cert-manager, as far as they are used here.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, PostParams},
    discovery::ApiResource,
};
use serde::Deserialize;
use serde_json::json;

use super::{ExternalError, ExternalSigner, LOOK};

/// What is read of one.
#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
    /// PEM in base64.
    #[serde(default)]
    certificate: String,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl ExternalSigner {
    /// Asks, waits, and takes the request away again. Approving is cert-manager's own approver's, or a policy's.
    pub(super) async fn by_cert_manager(
        &self,
        (name, kind, group): (&str, &str, &str),
        csr_pem: &str,
        lifetime: Duration,
    ) -> Result<String, ExternalError> {
        let resource = ApiResource {
            group: "cert-manager.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "cert-manager.io/v1".to_owned(),
            kind: "CertificateRequest".to_owned(),
            plural: "certificaterequests".to_owned(),
        };
        let requests: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let own = format!("palisade-{:016x}", fastrand::u64(..));
        let request = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": own, "namespace": self.namespace, "labels": {"app.kubernetes.io/managed-by": "palisade"}},
            "spec": {
                "request": STANDARD.encode(csr_pem),
                "duration": format!("{}s", lifetime.as_secs()),
                "isCA": false,
                "issuerRef": {"name": name, "kind": kind, "group": group},
                "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
            },
        });
        let request: DynamicObject =
            serde_json::from_value(request).map_err(|error| self.refused(error.to_string()))?;
        requests.create(&PostParams::default(), &request).await.map_err(|error| self.failed(error))?;
        let signed = self.in_time(self.await_issued(&requests, &own)).await;
        if let Err(error) = requests.delete(&own, &DeleteParams::default()).await {
            tracing::warn!(%error, name = own, "a certificate request is left behind");
        }
        signed
    }

    async fn await_issued(&self, requests: &Api<DynamicObject>, name: &str) -> Result<String, ExternalError> {
        loop {
            let request = requests.get(name).await.map_err(|error| self.failed(error))?;
            let status: Status = match request.data.get("status") {
                Some(status) => {
                    serde_json::from_value(status.clone()).map_err(|error| self.refused(error.to_string()))?
                }
                None => Status::default(),
            };
            for Condition { kind, status, reason, message } in &status.conditions {
                let is_refusal = match kind.as_str() {
                    "Denied" | "InvalidRequest" => status == "True",
                    "Ready" => reason == "Failed" || reason == "Denied",
                    _ => false,
                };
                if is_refusal {
                    return Err(self.refused(format!("{reason}: {message}")));
                }
            }
            let is_ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
            if status.conditions.iter().any(is_ready) && !status.certificate.is_empty() {
                let pem = STANDARD.decode(&status.certificate).map_err(|error| self.refused(error.to_string()))?;
                return String::from_utf8(pem).map_err(|error| self.refused(error.to_string()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
