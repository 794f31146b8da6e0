//! How callers and the mesh itself prove who they are: tokens, and in a cluster the root that replicas share.
//!
//! What a token proves is asked of whoever issued it: this process for documents from files ([`TokenKey`]), the API server
//! for those of a cluster ([`TokenReviews`]).

use std::{sync::Arc, time::SystemTime};

use crate::token::{BoundPod, InvalidToken, TokenKey};

mod answers;
pub mod bundle;
mod reviews;
pub mod root;
pub mod trust_bundle;

pub use reviews::TokenReviews;

/// The audiences of tokens for this control plane in a cluster: our proxies', and those of Istio's own agents.
pub const AUDIENCES: [&str; 2] = ["palisade", "istio-ca"];

/// Who says what a token proves.
#[derive(Clone)]
pub enum Verifier {
    /// This process, which issued it.
    Local(TokenKey),
    /// The API server.
    Cluster(Arc<TokenReviews>),
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The service account.
    pub service_account: Arc<str>,
    /// The pod that the token is bound to, and ends with; `None` = to none, so whoever holds it is anywhere.
    pub pod: Option<ProvenPod>,
}

/// The pod of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenPod {
    /// Its name.
    pub name: Arc<str>,
    /// Its uid.
    pub uid: Arc<str>,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not good.
    #[error(transparent)]
    Invalid(#[from] InvalidToken),
    /// Nobody could be asked. It may be good.
    #[error("the token cannot be reviewed: {0}")]
    Unavailable(String),
}

impl Verifier {
    /// What a token proves at this time.
    ///
    /// # Errors
    /// When it proves nothing, or nobody can say.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Proven, TokenError> {
        match self {
            Self::Local(key) => {
                let BoundPod { namespace, name, uid, service_account } = key.verify(token, now)?;
                Ok(Proven { namespace, service_account, pod: Some(ProvenPod { name, uid }) })
            }
            Self::Cluster(reviews) => reviews.verify(token, now).await,
        }
    }
}
