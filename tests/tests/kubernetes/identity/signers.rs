//! Certificates that somebody else signs: the test plays the signer of the Kubernetes API, and cert-manager.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    discovery::ApiResource,
};
use palisade_control::{
    identity::{bundle::NAME, root::load_or_create},
    signer::{ExternalError, ExternalSigner},
};
use palisade_proxy::config::{IdentityClient, TokenSource};
use palisade_tests::{certificates::authority, kubernetes::Cluster, wait::until};
use rcgen::{CertificateParams, CertificateSigningRequestParams, DistinguishedName, Issuer, KeyPair, SanType};
use tokio_util::task::AbortOnDropHandle;

use super::control::Control;

const SOON: Duration = Duration::from_secs(30);
const SYSTEM: &str = "signers-system";
const SIGNER: &str = "signers.test/mesh";
const IDENTITY: &str = "spiffe://cluster.local/ns/signers/sa/default";

/// As much of cert-manager's kind as its client needs.
const CERT_MANAGER: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: certificaterequests.cert-manager.io
  annotations: {api-approved.kubernetes.io: unapproved}
spec:
  group: cert-manager.io
  scope: Namespaced
  names: {kind: CertificateRequest, plural: certificaterequests, singular: certificaterequest}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [issuerRef, request]
            properties:
              request: {type: string, format: byte}
              duration: {type: string}
              isCA: {type: boolean}
              issuerRef:
                type: object
                required: [name]
                properties: {name: {type: string}, kind: {type: string}, group: {type: string}}
              usages: {type: array, items: {type: string}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

/// An authority that signs whatever it is asked.
#[derive(Clone)]
struct Authority {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> anyhow::Result<Self> {
        let (certificate, key) = authority(name)?;
        Ok(Self { certificate, key })
    }

    fn sign(&self, csr: &str) -> anyhow::Result<String> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        Ok(CertificateSigningRequestParams::from_pem(csr)?.signed_by(&issuer)?.pem())
    }
}

fn certificate_requests(client: Client) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "cert-manager.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "cert-manager.io/v1".to_owned(),
        kind: "CertificateRequest".to_owned(),
        plural: "certificaterequests".to_owned(),
    };
    Api::namespaced_with(client, SYSTEM, &resource)
}

/// Signs approved requests, as a signer's controller.
async fn sign_approved(client: Client, by: Authority) -> anyhow::Result<()> {
    let requests = Api::<CertificateSigningRequest>::all(client);
    loop {
        for request in requests.list(&ListParams::default()).await? {
            let status = request.status.clone().unwrap_or_default();
            let is_approved = status.conditions.iter().flatten().any(|condition| condition.type_ == "Approved");
            if request.spec.signer_name != SIGNER || !is_approved || status.certificate.is_some() {
                continue;
            }
            let certificate = by.sign(std::str::from_utf8(&request.spec.request.0)?)?;
            let patch = serde_json::json!({"status": {"certificate": STANDARD.encode(certificate)}});
            let name = request.metadata.name.context("no name")?;
            // Whoever asked may have gone.
            drop(requests.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Signs or denies what is asked of the issuers `good` and `evil`.
async fn be_cert_manager(client: Client, by: Authority) -> anyhow::Result<()> {
    let requests = certificate_requests(client);
    loop {
        for request in requests.list(&ListParams::default()).await? {
            let text = |pointer: &str| request.data.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default();
            if request.data.get("status").is_some() {
                continue;
            }
            let csr = String::from_utf8(STANDARD.decode(text("/spec/request"))?)?;
            let status = match text("/spec/issuerRef/name") {
                "good" => serde_json::json!({
                    "certificate": STANDARD.encode(by.sign(&csr)?),
                    "conditions": [{"type": "Ready", "status": "True", "reason": "Issued", "message": "done"}],
                }),
                "evil" => serde_json::json!({
                    "conditions": [{"type": "Denied", "status": "True", "reason": "Policy", "message": "not today"}],
                }),
                // Nobody is there.
                _ => continue,
            };
            let name = request.metadata.name.clone().context("no name")?;
            let patch = serde_json::json!({"status": status});
            drop(requests.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn request(uri: &str) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_of_the_cluster_or_cert_manager_signs_and_nobody_steps_in() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace(SYSTEM).await?;
    cluster.namespace("signers").await?;
    let (ours, theirs) = (Authority::new("control's own")?, Authority::new("theirs")?);
    // Control's own certificates are of its own authority; the other's root is trusted beside it.
    let roots = format!("{}{}", ours.certificate, theirs.certificate);
    let secret = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: cacerts, namespace: {SYSTEM}}}, stringData: {{ca-cert.pem: {:?}, ca-key.pem: {:?}, root-cert.pem: {roots:?}}}}}",
        ours.certificate, ours.key
    );
    cluster.apply(&secret).await?;
    cluster.apply(CERT_MANAGER).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await?;
    cluster
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: a-1, namespace: signers}, spec: {containers: [{name: app, image: 'a:1'}]}}")
        .await?;
    let client = cluster.client().await?;
    let authority = load_or_create(&client, SYSTEM, &"cluster.local".parse()?, SystemTime::now()).await?;
    let sign = async |name: &str, csr: &str| {
        let signer = ExternalSigner::new(client.clone(), SYSTEM, name.parse().map_err(anyhow::Error::msg)?);
        let identity = IDENTITY.parse()?;
        anyhow::Ok(signer.sign(csr, &identity, Duration::from_secs(3600), &authority).await)
    };
    let of_kubernetes = format!("kubernetes:{SIGNER}");

    // Nobody is there: an error, and no other root.
    let silent = sign(&of_kubernetes, &request(IDENTITY)?).await?;
    ensure!(matches!(silent, Err(ExternalError::Silent { .. })), "{silent:?}");
    let silent = sign("cert-manager:away", &request(IDENTITY)?).await?;
    ensure!(matches!(silent, Err(ExternalError::Silent { .. })), "{silent:?}");

    let _signing = AbortOnDropHandle::new(tokio::spawn(sign_approved(client.clone(), theirs.clone())));
    let _issuing = AbortOnDropHandle::new(tokio::spawn(be_cert_manager(client.clone(), theirs.clone())));
    for name in [&of_kubernetes, "cert-manager:good"] {
        let chain = sign(name, &request(IDENTITY)?).await?.with_context(|| name.to_owned())?;
        ensure!(chain.len() == 2 && chain.last() == Some(&roots), "{chain:?}");
        let others = sign(name, &request("spiffe://cluster.local/ns/signers/sa/admin")?).await?;
        ensure!(matches!(others, Err(ExternalError::Names { .. })), "{name}: {others:?}");
    }
    let denied = sign("cert-manager:evil", &request(IDENTITY)?).await?;
    ensure!(denied.as_ref().is_err_and(|error| error.to_string().contains("not today")), "{denied:?}");
    let left = certificate_requests(client.clone()).list(&ListParams::default()).await?;
    ensure!(left.items.is_empty(), "requests are left behind: {left:?}");

    // The whole way: a proxy, which learns what to ask for.
    let folder = tempfile::tempdir()?;
    let control =
        Control::start_with(&cluster, folder.path(), SYSTEM, "one", &[&format!("--signer={of_kubernetes}")]).await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "signers");
    let map = until("the roots", SOON, async || Ok(maps.get(NAME).await?)).await?;
    let file = folder.path().join("roots.pem");
    fs::write(&file, map.data.context("no data")?.get("root-cert.pem").context("no roots")?)?;
    let token = cluster.token("signers", "default", "palisade", Some("a-1")).await?;
    let token: Arc<str> = token.into();
    let issued = until("a certificate", SOON, async || {
        let (dialer, token) = (control.dialer(&file)?, TokenSource::Fixed(Arc::clone(&token)));
        Ok(IdentityClient { dialer, token, lifetime: None }.request().await?)
    })
    .await
    .with_context(|| control.said())?;
    ensure!(issued.bundle_pem() == roots, "{}", issued.bundle_pem());
    Ok(())
}
