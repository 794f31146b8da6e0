//! The GatewayClasses of this controller: made where the cluster has none of their names.

use std::time::{Duration, Instant};

use kube::{
    Api, Client,
    api::PostParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use palisade_compile::{Mesh, status::CONTROLLER_NAME};
use serde_json::json;

/// One that could not be made is tried again this late.
const AGAIN: Duration = Duration::from_secs(30);

/// Name, and what it says to people.
const CLASSES: [(&str, &str); 3] = [
    ("palisade", "Gateways of Palisade behind a LoadBalancer Service"),
    ("palisade-egress", "Gateways of Palisade inside the cluster"),
    ("istio", "Gateways of Palisade by Istio's name"),
];

/// The classes that are to be made.
pub(super) struct Classes {
    client: Client,
    istio: bool,
    missing: Vec<&'static str>,
    due: Instant,
}

impl Classes {
    /// None yet; `istio` = that class too.
    pub(super) fn new(client: Client, istio: bool) -> Self {
        Self { client, istio, missing: Vec::new(), due: Instant::now() }
    }

    /// Looks which classes a mesh has.
    pub(super) fn note(&mut self, mesh: &Mesh) {
        let there = &mesh.inputs().gateway_classes;
        let names = CLASSES.iter().map(|(name, _)| *name).filter(|name| self.istio || *name != "istio");
        self.missing = names.filter(|name| !there.keys().any(|key| *key.name == **name)).collect();
    }

    /// Completes when some are missing and it is time to make them. Cancel-safe.
    pub(super) async fn due(&self) {
        if self.missing.is_empty() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.due.into()).await;
    }

    /// Makes those that are missing. To be awaited to its end: nothing is tried again for a while.
    pub(super) async fn make(&mut self) {
        self.due = Instant::now() + AGAIN;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "GatewayClass"));
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        for (name, description) in CLASSES.iter().filter(|(name, _)| self.missing.contains(name)) {
            let class = DynamicObject::new(name, &resource)
                .data(json!({"spec": {"controllerName": CONTROLLER_NAME, "description": description}}));
            match api.create(&PostParams::default(), &class).await {
                Ok(_) => tracing::info!(class = name, "GatewayClass made"),
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                // Without the Gateway API there are no classes.
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(error) => tracing::warn!(class = name, %error, "a GatewayClass cannot be made"),
            }
        }
    }
}
