//! The mesh root in a cluster: in a Secret that all replicas share, made by whichever comes first.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    string::FromUtf8Error,
    time::{Duration, SystemTime},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Error,
    api::{ObjectMeta, PostParams},
};
use palisade_model::identity::TrustDomain;

use crate::ca::{CERTIFICATE, CHAIN, CaError, CertificateAuthority, KEY, Material, ROOTS};

/// The Secret that an operator plugs in, as for Istio; an istiod in the same namespace uses it too.
pub const PLUGGED_IN: &str = "cacerts";

/// The Secret of a root that was made here.
pub const OWN: &str = "palisade-ca";

/// Names of an authority in a Secret of type `kubernetes.io/tls`, as cert-manager fills it. Istio takes them too.
const TLS_CERTIFICATE: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TLS_ROOTS: &str = "ca.crt";

const CONFLICT: u16 = 409;

/// Waits between tries: doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The API server cannot be asked, or lets nobody.
    #[error("Secret `{secret}`: {source}")]
    Api {
        /// The Secret.
        secret: String,
        /// Why.
        source: Box<Error>,
    },
    /// Something is missing in a Secret. It stays as it is.
    #[error("Secret `{secret}` has no `{key}`")]
    Missing {
        /// The Secret.
        secret: String,
        /// The key.
        key: &'static str,
    },
    /// Something in a Secret is not text.
    #[error("Secret `{secret}`: `{key}` is not PEM: {source}")]
    Text {
        /// The Secret.
        secret: String,
        /// The key.
        key: &'static str,
        /// Where.
        source: FromUtf8Error,
    },
    /// What a Secret holds cannot be used.
    #[error(transparent)]
    Unusable(#[from] CaError),
}

/// The authority that all replicas share: of the Secret [`PLUGGED_IN`] if there is one, else of [`OWN`], which is created
/// if it is not there. A Secret that is there is never written.
///
/// # Errors
/// When the API server cannot be asked, or a Secret is incomplete or damaged.
pub async fn load_or_create(
    client: &Client,
    namespace: &str,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateAuthority, RootError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |name: &str| {
        let secret = format!("{namespace}/{name}");
        move |source| RootError::Api { secret, source: Box::new(source) }
    };
    if let Some(secret) = secrets.get_opt(PLUGGED_IN).await.map_err(failed(PLUGGED_IN))? {
        return authority(secret, namespace, PLUGGED_IN, now);
    }
    if let Some(secret) = secrets.get_opt(OWN).await.map_err(failed(OWN))? {
        return authority(secret, namespace, OWN, now);
    }
    match secrets.create(&PostParams::default(), &secret(Material::generate(trust_domain, now)?)).await {
        Ok(secret) => {
            tracing::info!(secret = %format!("{namespace}/{OWN}"), "mesh root created");
            authority(secret, namespace, OWN, now)
        }
        // Another replica was first. Its root is everybody's.
        Err(Error::Api(status)) if status.code == CONFLICT => {
            authority(secrets.get(OWN).await.map_err(failed(OWN))?, namespace, OWN, now)
        }
        Err(error) => Err(failed(OWN)(error)),
    }
}

/// As [`load_or_create`], and again for as long as the API server is the reason that there is none.
///
/// # Errors
/// When a Secret is incomplete or damaged: somebody must see to that.
pub async fn await_root(
    client: &Client,
    namespace: &str,
    trust_domain: &TrustDomain,
) -> Result<CertificateAuthority, RootError> {
    let mut wait = FIRST_RETRY;
    loop {
        match load_or_create(client, namespace, trust_domain, SystemTime::now()).await {
            Err(error @ RootError::Api { .. }) => {
                tracing::warn!(%error, retry_ms = wait.as_millis(), "no mesh root yet");
                tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                wait = (wait * 2).min(LAST_RETRY);
            }
            result => return result,
        }
    }
}

fn secret(material: Material) -> Secret {
    let Material { certificate, key, roots, chain } = material;
    let mut data = BTreeMap::from([(CERTIFICATE, certificate), (KEY, key), (ROOTS, roots)]);
    data.extend(chain.map(|chain| (CHAIN, chain)));
    let data = data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret {
        metadata: ObjectMeta {
            name: Some(OWN.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "palisade".to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

fn authority(secret: Secret, namespace: &str, name: &str, now: SystemTime) -> Result<CertificateAuthority, RootError> {
    let place = format!("{namespace}/{name}");
    let mut data = secret.data.unwrap_or_default();
    let is_tls = !data.contains_key(CERTIFICATE) && data.contains_key(TLS_CERTIFICATE);
    let mut text = |key: &'static str| match data.remove(key) {
        Some(ByteString(bytes)) => {
            let failed = |source| RootError::Text { secret: place.clone(), key, source };
            String::from_utf8(bytes).map(Some).map_err(failed)
        }
        None => Ok(None),
    };
    let missing = |key| RootError::Missing { secret: place.clone(), key };
    let material = if is_tls {
        let certificate = text(TLS_CERTIFICATE)?.ok_or_else(|| missing(TLS_CERTIFICATE))?;
        Material {
            chain: Some(certificate.clone()),
            certificate,
            key: text(TLS_KEY)?.ok_or_else(|| missing(TLS_KEY))?,
            roots: text(TLS_ROOTS)?.ok_or_else(|| missing(TLS_ROOTS))?,
        }
    } else {
        Material {
            certificate: text(CERTIFICATE)?.ok_or_else(|| missing(CERTIFICATE))?,
            key: text(KEY)?.ok_or_else(|| missing(KEY))?,
            roots: text(ROOTS)?.ok_or_else(|| missing(ROOTS))?,
            chain: text(CHAIN)?,
        }
    };
    Ok(material.authority(&PathBuf::from(format!("Secret {place}")), now)?)
}
