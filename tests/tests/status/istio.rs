//! Istio's kinds: our conditions beside those of others, and an object that comes back under another UID.

use anyhow::{Context, ensure};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use palisade_tests::{kubernetes::Cluster, wait::until};
use serde_json::json;

use crate::control::{SOON, Stand, condition};

/// As much of Istio's CRD as statuses need.
pub(crate) const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: authorizationpolicies.security.istio.io}
spec:
  group: security.istio.io
  scope: Namespaced
  names: {kind: AuthorizationPolicy, plural: authorizationpolicies, singular: authorizationpolicy}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

fn policy(namespaces: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: policies}}
spec: {{rules: [{{from: [{{source: {{{namespaces}}}}}]}}]}}
"
    )
}

#[tokio::test]
async fn policies_have_a_status_that_others_share() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "policies").await?;
    cluster.apply(CRD).await?;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/authorizationpolicies.security.istio.io",
            "--timeout=30s",
        ])
        .await?;
    let control = stand.control("one").await?;
    cluster.apply(&policy("namespaces: [policies]")).await?;
    let get = async || stand.get("security.istio.io/v1", "authorizationpolicies", "policies", "p").await;
    let is_about_now = async |accepted: &str| {
        until("a status", SOON, async || {
            let object = get().await?;
            let (truth, _, generation, message) = condition(&object["status"]["conditions"], "Accepted")?;
            ensure!(truth == accepted && Some(generation) == object["metadata"]["generation"].as_i64(), "{object}");
            ensure!(object["status"]["observedGeneration"] == generation, "{object}");
            Ok((object, message))
        })
        .await
        .with_context(|| control.said())
    };
    let (object, _) = is_about_now("True").await?;
    let (truth, reason, _, message) = condition(&object["status"]["conditions"], "Enforced")?;
    ensure!((truth.as_str(), reason.as_str(), message.as_str()) == ("True", "NoProxies", "Enforced 0/0"), "{object}");

    // Istiod has something to say as well.
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("security.istio.io", "v1", "AuthorizationPolicy"));
    let policies: Api<DynamicObject> = Api::namespaced_with(stand.client.clone(), "policies", &kind);
    let theirs = json!({"type": "ZtunnelAccepted", "status": "True", "reason": "Accepted"});
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.insert(0, theirs.clone());
    let both = json!({"status": {"conditions": conditions, "validationMessages": [{"type": {"code": "IST0101"}}]}});
    policies.patch_status("p", &PatchParams::default(), &Patch::Merge(&both)).await?;
    cluster.apply(&policy("ipBlocks: [nonsense]")).await?;
    let (object, message) = is_about_now("False").await?;
    ensure!(message.contains("ipBlocks"), "{message}");
    ensure!(object["status"]["conditions"][0] == theirs, "{object}");
    ensure!(object["status"]["validationMessages"][0]["type"]["code"] == "IST0101", "{object}");

    // Deleted and made anew at once: another UID, generation 1, and a status about just that.
    cluster.kubectl(&["delete", "authorizationpolicy", "-n", "policies", "p"]).await?;
    cluster.apply(&policy("namespaces: [other]")).await?;
    let uid = get().await?["metadata"]["uid"].clone();
    let (object, _) = is_about_now("True").await?;
    ensure!(object["metadata"]["uid"] == uid && object["metadata"]["generation"] == 1, "{object}");
    control.stop().await
}
