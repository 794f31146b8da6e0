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

use crate::ca::{
    CERTIFICATE, CHAIN, CaError, CertificateAuthority, KEY, Material, OTHER_CERTIFICATE, OTHER_KEY, PHASE, REVOKED,
    ROOTS,
};

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
    /// What is kept of a replacement of the root does not fit together.
    #[error("Secret `{secret}`: {problem}")]
    Rotation {
        /// The Secret.
        secret: String,
        /// What is wrong.
        problem: String,
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
    if let Some(kept) = read(client, namespace).await? {
        return kept.authority(now);
    }
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |name: &str| {
        let secret = format!("{namespace}/{name}");
        move |source| RootError::Api { secret, source: Box::new(source) }
    };
    match secrets.create(&PostParams::default(), &secret(Material::generate(trust_domain, now)?)).await {
        Ok(secret) => {
            tracing::info!(secret = %format!("{namespace}/{OWN}"), "mesh root created");
            Kept::new(secret, namespace, OWN)?.authority(now)
        }
        // Another replica was first. Its root is everybody's.
        Err(Error::Api(status)) if status.code == CONFLICT => {
            Kept::new(secrets.get(OWN).await.map_err(failed(OWN))?, namespace, OWN)?.authority(now)
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

/// The authority as it is kept.
pub(crate) struct Kept {
    /// Its parts.
    pub(crate) material: Material,
    /// It is an operator's: never written here.
    pub(crate) is_plugged_in: bool,
    /// `Secret NAMESPACE/NAME`.
    pub(crate) place: String,
    metadata: ObjectMeta,
}

/// The authority that is kept in one of the two Secrets, if there is one.
///
/// # Errors
/// When the API server cannot be asked, or a Secret is incomplete.
pub(crate) async fn read(client: &Client, namespace: &str) -> Result<Option<Kept>, RootError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    for name in [PLUGGED_IN, OWN] {
        let failed = |source| RootError::Api { secret: format!("{namespace}/{name}"), source: Box::new(source) };
        if let Some(secret) = secrets.get_opt(name).await.map_err(failed)? {
            return Kept::new(secret, namespace, name).map(Some);
        }
    }
    Ok(None)
}

/// Replaces the authority that was made here, unless somebody else has changed it since it was read.
///
/// # Errors
/// When the API server cannot be asked, or the Secret has changed.
pub(crate) async fn replace(client: &Client, namespace: &str, was: &Kept, next: Material) -> Result<(), RootError> {
    let mut secret = secret(next);
    // With the version that was read: a Secret that has changed since is left alone.
    secret.metadata.clone_from(&was.metadata);
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |source| RootError::Api { secret: format!("{namespace}/{OWN}"), source: Box::new(source) };
    secrets.replace(OWN, &PostParams::default(), &secret).await.map(drop).map_err(failed)
}

fn secret(material: Material) -> Secret {
    let data = material.texts().into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?)));
    let data = data.map(|(name, text)| (name, ByteString(text.into_bytes())));
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

impl Kept {
    /// Of a Secret.
    fn new(secret: Secret, namespace: &str, name: &str) -> Result<Self, RootError> {
        let metadata = ObjectMeta { managed_fields: None, ..secret.metadata.clone() };
        let place = format!("{namespace}/{name}");
        let material = material(secret, &place)?;
        Ok(Self { material, is_plugged_in: name == PLUGGED_IN, place: format!("Secret {place}"), metadata })
    }

    /// The authority that it makes.
    ///
    /// # Errors
    /// When its parts cannot be used.
    pub(crate) fn authority(self, now: SystemTime) -> Result<CertificateAuthority, RootError> {
        Ok(self.material.authority(&PathBuf::from(self.place), now)?)
    }
}

fn material(secret: Secret, place: &str) -> Result<Material, RootError> {
    let mut data = secret.data.unwrap_or_default();
    let is_tls = !data.contains_key(CERTIFICATE) && data.contains_key(TLS_CERTIFICATE);
    let mut text = |key: &'static str| match data.remove(key) {
        Some(ByteString(bytes)) => {
            let failed = |source| RootError::Text { secret: place.to_owned(), key, source };
            String::from_utf8(bytes).map(Some).map_err(failed)
        }
        None => Ok(None),
    };
    let missing = |key| RootError::Missing { secret: place.to_owned(), key };
    let other = Material::other(text(PHASE)?, text(OTHER_CERTIFICATE)?, text(OTHER_KEY)?)
        .map_err(|problem| RootError::Rotation { secret: place.to_owned(), problem })?;
    let revoked = text(REVOKED)?;
    if is_tls {
        let certificate = text(TLS_CERTIFICATE)?.ok_or_else(|| missing(TLS_CERTIFICATE))?;
        Ok(Material {
            chain: Some(certificate.clone()),
            certificate,
            key: text(TLS_KEY)?.ok_or_else(|| missing(TLS_KEY))?,
            roots: text(TLS_ROOTS)?.ok_or_else(|| missing(TLS_ROOTS))?,
            revoked,
            other,
        })
    } else {
        Ok(Material {
            certificate: text(CERTIFICATE)?.ok_or_else(|| missing(CERTIFICATE))?,
            key: text(KEY)?.ok_or_else(|| missing(KEY))?,
            roots: text(ROOTS)?.ok_or_else(|| missing(ROOTS))?,
            chain: text(CHAIN)?,
            revoked,
            other,
        })
    }
}
