//! What a cluster's tokens prove, by the API server's TokenReview.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::{Api, Client, api::PostParams};
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::{
    Proven, ProvenPod, TokenError,
    answers::{Answers, Key, Limits},
};
use crate::token::{InvalidToken, MAX_TOKEN_BYTES};

/// How long a good answer is kept: the longest that a token outlives its pod here. The mesh, which knows when a pod has
/// gone, is asked besides.
const LIFE: Duration = Duration::from_secs(60);

const LIMITS: Limits = Limits {
    // As many as there may be connections.
    good: 20_000,
    bad: 4_096,
    bad_life: Duration::from_secs(10),
    // A review takes the API server about a millisecond.
    asked: 32,
    waiting: 4_096,
    patience: Duration::from_secs(5),
};

/// Where TokenReview says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// User names of service accounts.
const ACCOUNT: &str = "system:serviceaccount:";

/// The API server's reviews of tokens.
pub struct TokenReviews {
    reviews: Api<TokenReview>,
    audiences: Vec<String>,
    answers: Answers,
}

/// What a token says of itself. Nothing of it is believed; it only spares the API server what it would refuse.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl TokenReviews {
    /// Reviews of tokens for any of these audiences.
    pub fn new(client: Client, audiences: Vec<String>) -> Self {
        Self { reviews: Api::all(client), audiences, answers: Answers::new(LIMITS) }
    }

    /// What a token proves.
    ///
    /// # Errors
    /// When it proves nothing, or the API server cannot be asked.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Proven, TokenError> {
        let (subject, left) = self.plausible(token, now)?;
        self.answers
            .answer(key(token), || {
                let (reviews, audiences, token) = (self.reviews.clone(), self.audiences.clone(), token.to_owned());
                async move { Ok((review(&reviews, audiences, token, &subject).await?, left.min(LIFE))) }
            })
            .await
    }

    /// Whether a token could be good; its subject, and how long it has to live.
    fn plausible(&self, token: &str, now: SystemTime) -> Result<(String, Duration), InvalidToken> {
        let malformed = |why: &str| InvalidToken::Malformed(why.to_owned());
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::Malformed(format!("longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("not three parts"));
        };
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| malformed("its second part is not base64"))?;
        // serde's own words would repeat what the token holds.
        let Claims { sub, aud, exp } =
            serde_json::from_slice(&payload).map_err(|_| malformed("it has no usable `sub`, `aud` and `exp`"))?;
        if !sub.starts_with(ACCOUNT) {
            return Err(malformed("it is not a service account's"));
        }
        let is_ours = |audience: &String| self.audiences.contains(audience);
        let is_for_us = match &aud {
            Audience::One(audience) => is_ours(audience),
            Audience::Many(audiences) => audiences.iter().any(is_ours),
        };
        if !is_for_us {
            return Err(self.other_audience());
        }
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        match Duration::from_secs(exp).checked_sub(since) {
            Some(left) if !left.is_zero() => Ok((sub, left)),
            _ => Err(InvalidToken::Expired(since.as_secs().saturating_sub(exp))),
        }
    }

    fn other_audience(&self) -> InvalidToken {
        InvalidToken::OtherAudience(self.audiences.join("`, `"))
    }
}

fn key(token: &str) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

async fn review(
    reviews: &Api<TokenReview>,
    audiences: Vec<String>,
    token: String,
    subject: &str,
) -> Result<Proven, TokenError> {
    let spec = TokenReviewSpec { audiences: Some(audiences.clone()), token: Some(token) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let review = match reviews.create(&PostParams::default(), &review).await {
        Ok(review) => review,
        Err(error) => {
            tracing::warn!(%error, "the API server reviews no tokens");
            return Err(TokenError::Unavailable(error.to_string()));
        }
    };
    let status =
        review.status.ok_or_else(|| TokenError::Unavailable("the API server says nothing of it".to_owned()))?;
    Ok(judge(status, &audiences, subject)?)
}

/// What a review says. Anything that is not as expected proves nothing.
fn judge(status: TokenReviewStatus, audiences: &[String], subject: &str) -> Result<Proven, InvalidToken> {
    let TokenReviewStatus { audiences: granted, authenticated, error, user } = status;
    if authenticated != Some(true) {
        let why = error.unwrap_or_default();
        return Err(InvalidToken::Refused(if why.is_empty() { "no reason given".to_owned() } else { why }));
    }
    // An authenticator that knows nothing of audiences says none.
    if !granted.unwrap_or_default().iter().any(|audience| audiences.contains(audience)) {
        return Err(InvalidToken::OtherAudience(audiences.join("`, `")));
    }
    let malformed = |why: String| InvalidToken::Malformed(why);
    let UserInfo { username, extra, groups: _, uid: _ } =
        user.ok_or_else(|| malformed("the API server names no user".to_owned()))?;
    let username = username.unwrap_or_default();
    if username != subject {
        return Err(malformed(format!("the API server takes it for `{username}`, it says `{subject}`")));
    }
    let (namespace, service_account) = username
        .strip_prefix(ACCOUNT)
        .and_then(|account| account.split_once(':'))
        .ok_or_else(|| malformed(format!("`{username}` is not a service account")))?;
    let extra = extra.unwrap_or_default();
    let one = |name: &str| match extra.get(name).map(Vec::as_slice) {
        None => Ok(None),
        Some([value]) => Ok(Some(value.as_str())),
        Some(_) => Err(malformed(format!("`{name}` has not exactly one value"))),
    };
    let pod = match (one(POD_NAME)?, one(POD_UID)?) {
        (None, None) => None,
        (Some(name), Some(uid)) => Some(ProvenPod { name: name.into(), uid: uid.into() }),
        (Some(_), None) | (None, Some(_)) => return Err(malformed("half of its pod is missing".to_owned())),
    };
    Ok(Proven { namespace: namespace.into(), service_account: service_account.into(), pod })
}

#[cfg(test)]
mod tests;
