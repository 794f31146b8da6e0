//! Webhooks: registered, by the roots that are in force, and answering.

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        core::v1::ConfigMap,
    },
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::json;

use super::{Checkup, Finding, Level, told};
use crate::{ca::ROOTS, identity::bundle};

/// Label of everything that control planes register.
const OURS: &str = "app.kubernetes.io/part-of=palisade";

const CHECK: &str = "webhooks";

impl Checkup {
    /// Whether they are there, and reach a control plane.
    pub(super) async fn webhooks(&self) -> Vec<Finding> {
        let ours = ListParams::default().labels(OURS);
        let validating = Api::<ValidatingWebhookConfiguration>::all(self.client.clone()).list(&ours).await;
        let mutating = Api::<MutatingWebhookConfiguration>::all(self.client.clone()).list(&ours).await;
        let (validating, mutating) = match (validating, mutating) {
            (Ok(validating), Ok(mutating)) => (validating.items, mutating.items),
            (Err(error), _) | (_, Err(error)) => return vec![Finding::unseen(CHECK, &error)],
        };
        if validating.is_empty() || mutating.is_empty() {
            let text = "webhooks are not registered: documents are not checked, and pods get no sidecars";
            return vec![Finding::new(CHECK, Level::Error, text).cure("see the control plane's logs")];
        }
        let of_validating = validating.iter().flat_map(|own| {
            own.webhooks.iter().flatten().map(|webhook| (own.name_any(), webhook.client_config.clone()))
        });
        let of_mutating = mutating.iter().flat_map(|own| {
            own.webhooks.iter().flatten().map(|webhook| (own.name_any(), webhook.client_config.clone()))
        });
        let all: Vec<(String, WebhookClientConfig)> = of_validating.chain(of_mutating).collect();
        vec![self.bundles(&all).await, self.answers().await]
    }

    /// Whether they are verified by the roots that are in force.
    async fn bundles(&self, all: &[(String, WebhookClientConfig)]) -> Finding {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let roots = match maps.get_opt(bundle::NAME).await {
            Ok(map) => map.and_then(|map| map.data?.remove(ROOTS)).unwrap_or_default(),
            Err(error) => return Finding::unseen(CHECK, &error),
        };
        let is_other = |config: &WebhookClientConfig| {
            config.ca_bundle.as_ref().is_none_or(|ByteString(bytes)| bytes.trim_ascii() != roots.trim().as_bytes())
        };
        let mut wrong: Vec<&str> =
            all.iter().filter(|(_, config)| is_other(config)).map(|(name, _)| name.as_str()).collect();
        wrong.dedup();
        if wrong.is_empty() {
            return Finding::ok(CHECK, "webhooks are verified by the mesh's roots");
        }
        let text = format!("webhooks are verified by other roots than the mesh's: {}", wrong.join(", "));
        Finding::new(CHECK, Level::Error, text).cure("a control plane writes them anew every half minute; see its logs")
    }

    /// Whether one answers: a document that is never stored is sent past it.
    async fn answers(&self) -> Finding {
        let kind = GroupVersionKind::gvk("security.istio.io", "v1", "AuthorizationPolicy");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let policy = DynamicObject::new("palisade-check", &resource).data(
            json!({"spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/palisade-check"]}}]}]}}),
        );
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match api.create(&dry, &policy).await {
            Ok(_) => Finding::ok(CHECK, "the webhooks answer the API server"),
            Err(kube::Error::Api(status)) if status.message.contains("failed calling webhook") => {
                let text = format!("the API server cannot reach the webhooks: {}", status.message);
                Finding::new(CHECK, Level::Error, text)
                    .cure("pods must be ready, and the network must let the API server in on port 15017")
            }
            // Without Istio's definitions there is nothing to ask about.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let text = "whether the webhooks answer cannot be tried without Istio's definitions";
                Finding::new(CHECK, Level::Unknown, text).cure("palisade crds apply --istio")
            }
            Err(error) => {
                Finding::new(CHECK, Level::Unknown, format!("the webhooks could not be tried: {}", told(&error)))
            }
        }
    }
}
