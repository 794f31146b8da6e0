//! Projected service account tokens, as pods have them.

use anyhow::{Context, ensure};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, api::PostParams};
use palisade_tests::kubernetes::Cluster;

async fn review(cluster: &Cluster, token: &str, audience: &str) -> anyhow::Result<TokenReviewStatus> {
    let spec = TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: Some(token.to_owned()) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviews: Api<TokenReview> = Api::all(cluster.client().await?);
    reviews.create(&PostParams::default(), &review).await?.status.context("no status")
}

#[tokio::test]
async fn a_bound_token_is_good_for_its_audience_and_as_long_as_its_pod() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.namespace("tokens").await?;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: caller, namespace: tokens}, \
               spec: {containers: [{name: a, image: 'a:1'}]}}";
    cluster.apply(pod).await?;
    let token = cluster.token("tokens", "default", "palisade", Some("caller")).await?;

    let good = review(&cluster, &token, "palisade").await?;
    ensure!(good.authenticated == Some(true), "{good:?}");
    let user = good.user.context("nobody")?;
    ensure!(user.username.as_deref() == Some("system:serviceaccount:tokens:default"), "{user:?}");
    let extra = user.extra.context("nothing of the pod")?;
    ensure!(extra.get("authentication.kubernetes.io/pod-name") == Some(&vec!["caller".to_owned()]), "{extra:?}");
    ensure!(extra.contains_key("authentication.kubernetes.io/pod-uid"), "{extra:?}");

    let other = review(&cluster, &token, "vault").await?;
    ensure!(other.authenticated != Some(true), "{other:?}");

    cluster.kubectl(&["delete", "pod", "-n", "tokens", "caller", "--grace-period=0", "--force"]).await?;
    let late = review(&cluster, &token, "palisade").await?;
    ensure!(late.authenticated != Some(true), "{late:?}");
    Ok(())
}
