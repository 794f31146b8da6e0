//! What tests ask of a cluster again and again: namespaces, tokens, simulated nodes.

use std::fmt::Write;

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};

use super::{Cluster, programs::Program};

/// The shortest lifetime of a token that the API server gives.
const TOKEN_SECONDS: i64 = 600;

/// Whether a namespace has the service account that pods are created with.
pub(super) async fn default_account(client: &Client, namespace: &str) -> anyhow::Result<()> {
    Api::<ServiceAccount>::namespaced(client.clone(), namespace).get("default").await?;
    Ok(())
}

impl Cluster {
    /// Makes a namespace in which pods can be created.
    ///
    /// # Errors
    /// When it exists, or the controllers do not look after it.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        self.kubectl(&["create", "namespace", name]).await?;
        let client = self.client().await?;
        self.await_ready(Program::Controllers, async || default_account(&client, name).await).await
    }

    /// A token of a service account, for an audience; `pod` binds it to that pod.
    ///
    /// # Errors
    /// When there is no such account or pod.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        pod: Option<&str>,
    ) -> anyhow::Result<String> {
        let client = self.client().await?;
        let bound = match pod {
            Some(name) => {
                let pod = Api::<Pod>::namespaced(client.clone(), namespace).get(name).await?;
                Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(name.to_owned()),
                    uid: pod.metadata.uid,
                })
            }
            None => None,
        };
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: bound,
            expiration_seconds: Some(TOKEN_SECONDS),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(client, namespace);
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        Ok(made.status.context("the API server gave no token")?.token)
    }

    /// Adds simulated nodes `fake-0` and so on: pods on them become Running and Ready and get addresses, but nothing runs.
    ///
    /// # Errors
    /// When they are not ready within a minute.
    pub async fn fake_nodes(&self, count: usize) -> anyhow::Result<()> {
        ensure!(count > 0, "no nodes");
        if !self.order(|holder| holder.runs(Program::Kwok.name())).await? {
            self.launch(Program::Kwok).await?;
        }
        let mut nodes = String::new();
        for index in 0..count {
            writeln!(
                nodes,
                "---\n{{apiVersion: v1, kind: Node, metadata: {{name: fake-{index}, labels: {{kwok: \"yes\"}}}}}}"
            )?;
        }
        self.apply(&nodes).await?;
        let wait = ["wait", "--for=condition=Ready", "node", "-l", "kwok=yes", "--timeout=60s"];
        self.kubectl(&wait).await.map(drop)
    }
}
