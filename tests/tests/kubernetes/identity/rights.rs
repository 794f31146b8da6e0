//! The rights that the documentation asks for are enough.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::DeleteParams};
use palisade_compile::SourceOptions;
use palisade_control::{
    ca::Direction,
    identity::{
        AUDIENCES, TokenReviews,
        bundle::{NAME, publish},
        root::load_or_create,
        trust_bundle,
    },
    rotation::{Place, Rotation, StepQuestion},
    standalone,
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
    let rights = page
        .split("## Rights")
        .nth(1)
        .and_then(|rest| rest.split("```yaml\n").nth(1))
        .and_then(|rest| rest.split("```").next())
        .context("no YAML")?;
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
    let _task = AbortOnDropHandle::new(tokio::spawn(publish(client.clone(), published, stop.clone())));
    let maps = Api::<ConfigMap>::namespaced(cluster.client().await?, "palisade-rights");
    until("the roots", SOON, async || Ok(maps.get(NAME).await?)).await?;
    maps.delete(NAME, &DeleteParams::default()).await?;
    until("the roots again", SOON, async || Ok(maps.get(NAME).await?)).await?;
    let version = trust_bundle::write(&client, &roots).await?.context("the kind is not served")?;
    let pem = cluster
        .kubectl(&["get", "clustertrustbundle", trust_bundle::NAME, "-o", "jsonpath={.spec.trustBundle}"])
        .await?;
    ensure!(pem.trim() == roots.trim(), "{version}: {pem}");

    // A step of the root: Secret, records of replicas, namespaces.
    let documents = tempfile::tempdir()?;
    fs::write(documents.path().join("empty.yaml"), "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n")?;
    let options = SourceOptions { is_files: true, ..SourceOptions::default() };
    let files = vec![documents.path().join("empty.yaml")];
    // It begins with a root of its own, and follows the cluster's.
    let control = standalone(files, "default", options, &documents.path().join("ca"), stop.clone())?;
    let place = Place::Cluster { client: client.clone(), namespace: "palisade-rights".to_owned() };
    let rotation = Rotation::new(place, control.shared(), "rights");
    let _rotating = AbortOnDropHandle::new(tokio::spawn(rotation.clone().run(stop.clone())));
    let question = StepQuestion { direction: Direction::Forward, is_dry_run: false };
    let answer = until("a step", SOON, async || {
        let answer = rotation.step(&question).await?;
        ensure!(answer.is_done, "{answer:?}");
        Ok(answer)
    })
    .await?;
    ensure!(control.shared().authority().current().trusted().len() == 2, "{answer:?}");
    let status = rotation.status().await;
    ensure!(status.problem.is_none() && status.replicas.len() == 1, "{status:?}");
    stop.cancel();
    Ok(())
}
