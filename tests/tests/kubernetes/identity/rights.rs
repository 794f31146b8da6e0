//! The rights that the documentation asks for are enough.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::DeleteParams};
use palisade_control::identity::{
    AUDIENCES, TokenReviews,
    bundle::{NAME, publish},
    root::load_or_create,
};
use palisade_tests::{checkout, kubernetes::Cluster, wait::until};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

const SOON: Duration = Duration::from_secs(20);

const BINDINGS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: palisade-control-identity}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: palisade-control-identity}
subjects: [{kind: ServiceAccount, name: control, namespace: palisade-rights}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: palisade-control-identity, namespace: palisade-rights}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: palisade-control-identity}
subjects: [{kind: ServiceAccount, name: control, namespace: palisade-rights}]
";

/// Whom the API server's own tokens are for.
const API_SERVER: &str = "https://kubernetes.default.svc.cluster.local";

#[tokio::test]
async fn identity_works_with_exactly_the_rights_of_the_page() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let page = fs::read_to_string(checkout::root().join("docs/operations/identity.md"))?;
    let rights = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).context("no YAML")?;
    cluster.namespace("palisade-rights").await?;
    cluster.kubectl(&["create", "serviceaccount", "-n", "palisade-rights", "control"]).await?;
    cluster.apply(&rights.replace("palisade-system", "palisade-rights")).await?;
    cluster.apply(BINDINGS).await?;
    let token = cluster.token("palisade-rights", "control", API_SERVER, None).await?;
    let client = cluster.client_of(&cluster.kubeconfig_with(&token)?).await?;

    let domain = "cluster.local".parse()?;
    let authority = until("the root", SOON, async || {
        Ok(load_or_create(&client, "palisade-rights", &domain, SystemTime::now()).await?)
    })
    .await?;
    load_or_create(&client, "palisade-rights", &domain, SystemTime::now()).await.context("again")?;
    ensure!(
        load_or_create(&client, "default", &domain, SystemTime::now()).await.is_err(),
        "Secrets of others are open"
    );

    let reviews = TokenReviews::new(client.clone(), AUDIENCES.map(str::to_owned).to_vec());
    let caller = cluster.token("palisade-rights", "default", "palisade", None).await?;
    reviews.verify(&caller, SystemTime::now()).await?;

    let stop = CancellationToken::new();
    let roots = authority.root_bundle().to_owned();
    let (_roots, published) = tokio::sync::watch::channel(roots.clone());
    let _task = AbortOnDropHandle::new(tokio::spawn(publish(client, published, stop.clone())));
    let maps = Api::<ConfigMap>::namespaced(cluster.client().await?, "palisade-rights");
    until("the roots", SOON, async || Ok(maps.get(NAME).await?)).await?;
    maps.delete(NAME, &DeleteParams::default()).await?;
    until("the roots again", SOON, async || Ok(maps.get(NAME).await?)).await?;
    stop.cancel();
    Ok(())
}
