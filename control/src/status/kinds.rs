//! Kinds whose status is written, as the API server serves them.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    core::{ApiResource, GroupVersionKind},
    discovery,
};

use super::merge::Shape;

/// A kind that the API server serves.
#[derive(Debug, Clone)]
pub(super) struct ServedKind {
    /// Where it is.
    pub(super) resource: ApiResource,
    /// What its status looks like.
    pub(super) shape: Shape,
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";

/// Group, kind, shape.
const KINDS: [(&str, &str, Shape); 24] = [
    (GATEWAY_API, "GatewayClass", Shape::Own),
    (GATEWAY_API, "Gateway", Shape::Own),
    (GATEWAY_API, "ListenerSet", Shape::Own),
    (GATEWAY_API, "HTTPRoute", Shape::Entries { list: "parents", reference: "parentRef" }),
    (GATEWAY_API, "GRPCRoute", Shape::Entries { list: "parents", reference: "parentRef" }),
    (GATEWAY_API, "TLSRoute", Shape::Entries { list: "parents", reference: "parentRef" }),
    (GATEWAY_API, "TCPRoute", Shape::Entries { list: "parents", reference: "parentRef" }),
    (GATEWAY_API, "UDPRoute", Shape::Entries { list: "parents", reference: "parentRef" }),
    (GATEWAY_API, "BackendTLSPolicy", Shape::Entries { list: "ancestors", reference: "ancestorRef" }),
    ("palisade.dev", "CedarPolicy", Shape::Policy),
    (SECURITY, "AuthorizationPolicy", Shape::Istio),
    (SECURITY, "PeerAuthentication", Shape::Istio),
    (SECURITY, "RequestAuthentication", Shape::Istio),
    (NETWORKING, "Gateway", Shape::Istio),
    (NETWORKING, "VirtualService", Shape::Istio),
    (NETWORKING, "DestinationRule", Shape::Istio),
    (NETWORKING, "ServiceEntry", Shape::Istio),
    (NETWORKING, "WorkloadEntry", Shape::Istio),
    (NETWORKING, "WorkloadGroup", Shape::Istio),
    (NETWORKING, "Sidecar", Shape::Istio),
    (NETWORKING, "EnvoyFilter", Shape::Istio),
    (NETWORKING, "ProxyConfig", Shape::Istio),
    ("telemetry.istio.io", "Telemetry", Shape::Istio),
    ("extensions.istio.io", "WasmPlugin", Shape::Istio),
];

/// Resources whose status is written, by API group.
pub(crate) fn written() -> BTreeMap<&'static str, Vec<String>> {
    let mut resources: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (group, kind, _) in KINDS {
        resources
            .entry(group)
            .or_default()
            .push(ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind)).plural);
    }
    resources.values_mut().for_each(|plurals| plurals.sort());
    resources
}

/// The kinds among ours that the API server serves now.
///
/// # Errors
/// When it does not answer. A group that is not there is no error.
pub(super) async fn served(client: &Client) -> Result<Vec<ServedKind>, kube::Error> {
    let there = client.list_api_groups().await?;
    let mut kinds = Vec::new();
    let mut groups: Vec<&str> = KINDS.iter().map(|(group, ..)| *group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups.into_iter().filter(|group| there.groups.iter().any(|known| known.name == *group)) {
        let group = discovery::group(client, group).await?;
        for (_, kind, shape) in KINDS.iter().filter(|(own, ..)| *own == group.name()) {
            if let Some((resource, _)) = group.recommended_kind(kind) {
                kinds.push(ServedKind { resource, shape: *shape });
            }
        }
    }
    Ok(kinds)
}

/// The version of the Gateway API's CRDs, as their own annotation says; `None` where it cannot be read.
pub(super) async fn gateway_api_version(client: &Client) -> Option<String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    match api.get_metadata_opt("gateways.gateway.networking.k8s.io").await {
        Ok(found) => found?.metadata.annotations?.remove("gateway.networking.k8s.io/bundle-version"),
        Err(error) => {
            tracing::warn!(%error, "the version of the Gateway API's CRDs cannot be read");
            None
        }
    }
}
