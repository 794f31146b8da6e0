//! Inputs: everything that compiling may see, in sorted maps. Equal inputs give equal bytes, whatever the order of arrival.

pub(crate) mod addresses;
pub mod core;
mod discovery;
mod gateway_pods;
mod kept;
mod kubernetes;
mod objects;
mod reads;
mod served_gateways;
mod sources;

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::{Broken, gateway_api, istio, palisade};

pub use gateway_pods::GatewayKind;
pub(crate) use gateway_pods::{CONTROLLER, EGRESS_CLASS, GATEWAY_NAME_LABEL, is_served_class};
pub use kept::KeptInputs;
pub use objects::Objects;
pub(crate) use reads::Input;
pub(crate) use served_gateways::ServedGateways;
pub use sources::{SourceDocument, SourceOptions};

use crate::{
    keys::Keys,
    object::{Head, Object, ObjectKey},
    reports::{ObjectName, Reports},
    settings::MeshSettings,
};

/// Everything that compiling may see.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Mesh-wide settings.
    pub settings: MeshSettings,
    /// Namespaces that are declared; others exist without labels.
    pub namespaces: BTreeMap<Arc<str>, core::Namespace>,
    /// Labels of nodes.
    pub nodes: BTreeMap<Arc<str>, BTreeMap<String, String>>,
    /// Services, with addresses.
    pub services: Objects<core::Service>,
    /// EndpointSlices as written.
    pub endpoint_slices: Objects<core::EndpointSlice>,
    /// Pods: written, made from workloads, and those of gateways; with addresses.
    pub pods: Objects<core::Pod>,
    /// Secrets.
    pub secrets: Objects<core::KeyedBytes>,
    /// ConfigMaps.
    pub config_maps: Objects<core::KeyedBytes>,
    /// Gateway API GatewayClasses (no namespace).
    pub gateway_classes: Objects<gateway_api::GatewayClass>,
    /// Gateway API Gateways.
    pub api_gateways: Objects<gateway_api::Gateway>,
    /// Gateway API HTTPRoutes.
    pub http_routes: Objects<gateway_api::HttpRoute>,
    /// Gateway API GRPCRoutes.
    pub grpc_routes: Objects<gateway_api::GrpcRoute>,
    /// Gateway API TLSRoutes.
    pub tls_routes: Objects<gateway_api::TlsRoute>,
    /// Gateway API TCPRoutes.
    pub tcp_routes: Objects<gateway_api::TcpRoute>,
    /// Gateway API UDPRoutes.
    pub udp_routes: Objects<gateway_api::UdpRoute>,
    /// Gateway API BackendTLSPolicies.
    pub backend_tls_policies: Objects<gateway_api::BackendTlsPolicy>,
    /// Gateway API ReferenceGrants.
    pub reference_grants: Objects<gateway_api::ReferenceGrant>,
    /// Istio Gateways.
    pub gateways: Objects<istio::Gateway>,
    /// Istio VirtualServices.
    pub virtual_services: Objects<istio::VirtualService>,
    /// Istio DestinationRules.
    pub destination_rules: Objects<istio::DestinationRule>,
    /// Istio ServiceEntries.
    pub service_entries: Objects<istio::ServiceEntry>,
    /// Istio WorkloadEntries.
    pub workload_entries: Objects<istio::WorkloadEntry>,
    /// Istio Sidecars.
    pub sidecars: Objects<istio::Sidecar>,
    /// Istio AuthorizationPolicies.
    pub authorization_policies: Objects<istio::AuthorizationPolicy>,
    /// Istio PeerAuthentications.
    pub peer_authentications: Objects<istio::PeerAuthentication>,
    /// Istio RequestAuthentications.
    pub request_authentications: Objects<istio::RequestAuthentication>,
    /// Keys that were fetched for the documents' token rules; empty when made from documents alone.
    pub keys: Keys,
    /// CedarPolicies.
    pub cedar_policies: Objects<palisade::CedarPolicy>,
    /// Security documents that were rejected: what they select fails closed.
    pub broken_policies: Vec<(Head, Broken)>,
    /// Findings so far.
    pub reports: Reports,
}

impl Inputs {
    /// As they would be with a document in place of what has its name: what is wrong with it is not among the findings.
    pub fn with(&self, source: &SourceDocument) -> Self {
        let mut inputs = self.clone();
        let name = ObjectName::of(&sources::head(&source.parsed.meta));
        inputs.broken_policies.retain(|(head, _)| ObjectName::of(head) != name);
        // Pods of a cluster are there: none are made from workloads.
        inputs.add(&source.parsed, &mut Vec::new());
        inputs
    }

    /// Pods of a namespace, by name.
    pub fn pods_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Object<core::Pod>> {
        in_namespace(&self.pods, namespace)
    }

    /// Services of a namespace, by name.
    pub fn services_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Object<core::Service>> {
        in_namespace(&self.services, namespace)
    }

    /// A namespace; undeclared ones have no labels.
    pub fn namespace(&self, name: &str) -> core::Namespace {
        self.namespaces.get(name).cloned().unwrap_or_default()
    }
}

fn in_namespace<'a, T>(objects: &'a Objects<T>, namespace: &Arc<str>) -> impl Iterator<Item = &'a Object<T>> {
    let start = ObjectKey::new(Arc::clone(namespace), "");
    let namespace = Arc::clone(namespace);
    objects.range(start..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
}
