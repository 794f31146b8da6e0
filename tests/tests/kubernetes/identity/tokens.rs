//! What the control plane takes a cluster's tokens for.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use palisade_control::{
    identity::{AUDIENCES, Proven, TokenError, TokenReviews},
    token::InvalidToken,
};
use palisade_tests::{kubernetes::Cluster, wait::until};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

async fn reviews(cluster: &Cluster) -> anyhow::Result<TokenReviews> {
    Ok(TokenReviews::new(cluster.client().await?, AUDIENCES.map(str::to_owned).to_vec()))
}

async fn verify(reviews: &TokenReviews, token: &str) -> Result<Proven, TokenError> {
    reviews.verify(token, SystemTime::now()).await
}

async fn pod(cluster: &Cluster, namespace: &str, name: &str) -> anyhow::Result<()> {
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{containers: [{{name: a, image: 'a:1'}}]}}}}"
    );
    cluster.apply(&pod).await
}

/// A token as this cluster's API server signs them, over what it says of itself.
fn sign(cluster: &Cluster, audience: &str, subject: &str, expires: SystemTime) -> anyhow::Result<String> {
    let key = fs::read(cluster.folder().join("pki/service-account.key"))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&key)?;
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der(), &random)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let seconds = expires.duration_since(UNIX_EPOCH)?.as_secs();
    let (_, rest) = subject.split_once("system:serviceaccount:").context("no service account")?;
    let (namespace, account) = rest.split_once(':').context("no service account")?;
    let claims = serde_json::json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "sub": subject, "aud": [audience],
        "iat": seconds - 600, "nbf": seconds - 600, "exp": seconds,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": "x"}},
    });
    let text =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(&random, text.as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[tokio::test]
async fn tokens_prove_their_account_and_pod_for_our_audiences() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.namespace("proofs").await?;
    cluster.kubectl(&["create", "serviceaccount", "-n", "proofs", "web"]).await?;
    pod(&cluster, "proofs", "plain").await?;
    let reviews = reviews(&cluster).await?;
    let uid = cluster.kubectl(&["get", "pod", "-n", "proofs", "plain", "-o", "jsonpath={.metadata.uid}"]).await?;
    for audience in AUDIENCES {
        let token = cluster.token("proofs", "default", audience, Some("plain")).await?;
        let proven = verify(&reviews, &token).await.context(audience)?;
        ensure!((&*proven.namespace, &*proven.service_account) == ("proofs", "default"), "{proven:?}");
        let pod = proven.pod.context("no pod")?;
        ensure!((&*pod.name, &*pod.uid) == ("plain", uid.as_str()), "{pod:?}");
    }
    let unbound = verify(&reviews, &cluster.token("proofs", "web", "palisade", None).await?).await?;
    ensure!(&*unbound.service_account == "web" && unbound.pod.is_none(), "{unbound:?}");

    let other = verify(&reviews, &cluster.token("proofs", "web", "vault", None).await?).await;
    ensure!(matches!(other, Err(TokenError::Invalid(InvalidToken::OtherAudience(_)))), "{other:?}");
    let expired = sign(&cluster, "palisade", "system:serviceaccount:proofs:web", SystemTime::now())?;
    let expired = verify(&reviews, &expired).await;
    ensure!(matches!(expired, Err(TokenError::Invalid(InvalidToken::Expired(_)))), "{expired:?}");
    Ok(())
}

/// What we take for plausible, the API server judges: an account that is not there, a signature that is not its own.
#[tokio::test]
async fn the_api_server_has_the_last_word() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    let reviews = reviews(&cluster).await?;
    let later = SystemTime::now() + Duration::from_secs(300);
    let gone = sign(&cluster, "palisade", "system:serviceaccount:proofs:nobody", later)?;
    let mut forged = cluster.token("default", "default", "palisade", None).await?;
    forged.truncate(forged.rfind('.').context("no signature")? + 1);
    forged.push_str(gone.rsplit('.').next().context("no signature")?);
    for (name, token) in [("an account that is not there", gone), ("a foreign signature", forged)] {
        let refused = verify(&reviews, &token).await;
        ensure!(matches!(refused, Err(TokenError::Invalid(InvalidToken::Refused(_)))), "{name}: {refused:?}");
        ensure!(!refused.is_err_and(|error| error.to_string().contains(&token)), "{name}: the token is told");
    }
    Ok(())
}

#[tokio::test]
async fn the_token_of_a_deleted_pod_proves_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.namespace("departed").await?;
    pod(&cluster, "departed", "short").await?;
    let token = cluster.token("departed", "default", "palisade", Some("short")).await?;
    verify(&reviews(&cluster).await?, &token).await?;
    cluster.kubectl(&["delete", "pod", "-n", "departed", "short", "--grace-period=0", "--force"]).await?;
    // The API server itself remembers an answer for ten seconds; ours is a new one each time.
    until("the end of the token", Duration::from_secs(30), async || {
        let late = verify(&reviews(&cluster).await?, &token).await;
        ensure!(matches!(late, Err(TokenError::Invalid(InvalidToken::Refused(_)))), "{late:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_an_api_server_known_tokens_live_on_and_others_wait() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let reviews = reviews(&cluster).await?;
    let known = cluster.token("default", "default", "palisade", None).await?;
    let unknown = cluster.token("default", "default", "istio-ca", None).await?;
    verify(&reviews, &known).await?;
    cluster.stop_api_server().await?;
    let (known, early) = (verify(&reviews, &known).await, verify(&reviews, &unknown).await);
    cluster.start_api_server().await?;
    ensure!(known.is_ok(), "{known:?}");
    ensure!(matches!(early, Err(TokenError::Unavailable(_))), "{early:?}");
    verify(&reviews, &unknown).await.context("afterwards")?;
    Ok(())
}

/// How many reviews the API server was asked for so far.
async fn asked(cluster: &Cluster) -> anyhow::Result<u64> {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).await?;
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{") && line.contains("resource=\"tokenreviews\""))
        .map(|line| line.rsplit(' ').next().context("no count")?.parse::<u64>().context("no number"));
    counts.sum()
}

#[tokio::test]
async fn a_flood_of_bad_tokens_costs_the_api_server_little() -> anyhow::Result<()> {
    const FLOOD: usize = 300;
    let cluster = Cluster::exclusive().await?;
    let reviews = Arc::new(reviews(&cluster).await?);
    let good = cluster.token("default", "default", "palisade", None).await?;
    verify(&reviews, &good).await?;
    let later = SystemTime::now() + Duration::from_secs(300);
    let forge = |index| sign(&cluster, "palisade", &format!("system:serviceaccount:default:nobody-{index}"), later);
    let bad = (0..FLOOD).map(forge).collect::<anyhow::Result<Vec<String>>>()?;
    let before = asked(&cluster).await?;
    for _ in 0..3 {
        // Ten callers for each.
        let calls = bad.iter().flat_map(|token| std::iter::repeat_n(token, 10)).map(|token| verify(&reviews, token));
        for result in futures::future::join_all(calls).await {
            ensure!(matches!(result, Err(TokenError::Invalid(InvalidToken::Refused(_)))), "{result:?}");
        }
    }
    let garbage = (0..FLOOD).map(|index| format!("{index}.e30.x")).collect::<Vec<_>>();
    for token in &garbage {
        ensure!(verify(&reviews, token).await.is_err());
    }
    let cost = asked(&cluster).await? - before;
    ensure!(cost == FLOOD as u64, "{cost} reviews for {FLOOD} tokens");
    verify(&reviews, &good).await?;
    Ok(())
}
