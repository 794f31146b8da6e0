//! The mesh's roots as a ClusterTrustBundle, which pods of any namespace can mount, where the API server has that kind.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    discovery::ApiResource,
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Its name; it begins with its signer's, as the API wants it.
pub const NAME: &str = "palisade.dev:mesh:roots";

/// Who vouches for it: `attest` on this signer is the right to write it.
pub const SIGNER: &str = "palisade.dev/mesh";

const GROUP: &str = "certificates.k8s.io";
const KIND: &str = "ClusterTrustBundle";
const PLURAL: &str = "clustertrustbundles";

/// Versions that are known to mean the same, the newest first.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

const FIELD_MANAGER: &str = "palisade-ca-root-cert";

/// What others did to it is undone this often; as often it is asked whether the kind is served by now.
const KEEP: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

const NOT_FOUND: u16 = 404;

/// Keeps the bundle until `stop`. All replicas write the same.
pub async fn publish(client: Client, mut roots: watch::Receiver<String>, stop: CancellationToken) {
    let mut told = None;
    loop {
        let text = roots.borrow_and_update().clone();
        let wait = match write(&client, &text).await {
            Ok(version) => {
                if told.replace(version) != Some(version) {
                    match version {
                        Some(version) => tracing::info!(version, name = NAME, "the roots are a {KIND}, too"),
                        None => tracing::info!("this API server serves no {KIND}: the roots are in ConfigMaps alone"),
                    }
                }
                KEEP
            }
            Err(error) => {
                tracing::warn!(%error, "the {KIND} is not written");
                RETRY
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = roots.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Writes it once, if it is not as it should be; at which version. `None` = the kind is not served.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub async fn write(client: &Client, roots: &str) -> Result<Option<&'static str>, kube::Error> {
    let Some(version) = served(client).await? else { return Ok(None) };
    let resource = ApiResource {
        group: GROUP.to_owned(),
        version: version.to_owned(),
        api_version: format!("{GROUP}/{version}"),
        kind: KIND.to_owned(),
        plural: PLURAL.to_owned(),
    };
    let bundle = json!({
        "apiVersion": resource.api_version,
        "kind": KIND,
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/managed-by": "palisade"}},
        "spec": {"signerName": SIGNER, "trustBundle": roots},
    });
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    api.patch(NAME, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&bundle)).await?;
    Ok(Some(version))
}

/// The newest known version at which the API server serves the kind.
async fn served(client: &Client) -> Result<Option<&'static str>, kube::Error> {
    for version in VERSIONS {
        match client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
            Ok(list) if list.resources.iter().any(|resource| resource.name == PLURAL) => return Ok(Some(version)),
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
