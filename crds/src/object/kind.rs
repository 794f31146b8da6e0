//! The kinds that are known, and what is done with them.

use crate::gateway_api;

/// A kind that is known by name.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownKind {
    /// API group; empty is the core group.
    pub group: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// API versions, which all share one schema.
    pub versions: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub is_namespaced: bool,
    /// What is done with it.
    pub support: Support,
}

/// What is done with a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Read and used.
    Served,
    /// Read and checked, with a warning that it is not enforced yet.
    Checked,
    /// Known by name; a warning says that it is not enforced.
    Named,
}

impl KnownKind {
    /// Whether the kind is one of Istio's, whose webhook is stricter about what stands beside `spec`.
    #[must_use]
    pub fn is_istio(&self) -> bool {
        self.group.ends_with(".istio.io")
    }

    /// Whether it decides about traffic, so that a rejected one must fail closed.
    #[must_use]
    pub fn is_policy(&self) -> bool {
        self.group == SECURITY || (self.group == crate::palisade::GROUP && self.kind == "CedarPolicy")
    }
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";

const fn known(
    group: &'static str,
    kind: &'static str,
    versions: &'static [&'static str],
    support: Support,
) -> KnownKind {
    KnownKind { group, kind, versions, is_namespaced: true, support }
}

const fn cluster_wide(kind: KnownKind) -> KnownKind {
    KnownKind { is_namespaced: false, ..kind }
}

/// Every kind that is known by name.
pub static KNOWN_KINDS: &[KnownKind] = &[
    cluster_wide(known("", "Namespace", &["v1"], Support::Served)),
    cluster_wide(known("", "Node", &["v1"], Support::Served)),
    known("", "ServiceAccount", &["v1"], Support::Served),
    known("", "Service", &["v1"], Support::Served),
    known("", "Pod", &["v1"], Support::Served),
    known("", "Secret", &["v1"], Support::Served),
    known("", "ConfigMap", &["v1"], Support::Served),
    known("apps", "Deployment", &["v1"], Support::Served),
    known("apps", "StatefulSet", &["v1"], Support::Served),
    known("discovery.k8s.io", "EndpointSlice", &["v1"], Support::Served),
    cluster_wide(known(gateway_api::GROUP, "GatewayClass", &["v1", "v1beta1"], Support::Served)),
    known(gateway_api::GROUP, "Gateway", &["v1", "v1beta1"], Support::Served),
    known(gateway_api::GROUP, "HTTPRoute", &["v1", "v1beta1"], Support::Served),
    known(gateway_api::GROUP, "ReferenceGrant", &["v1", "v1beta1"], Support::Served),
    known(gateway_api::GROUP, "GRPCRoute", &["v1", "v1alpha2"], Support::Served),
    known(gateway_api::GROUP, "TLSRoute", &["v1", "v1alpha3", "v1alpha2"], Support::Served),
    known(gateway_api::GROUP, "TCPRoute", &["v1", "v1alpha2"], Support::Served),
    known(gateway_api::GROUP, "UDPRoute", &["v1", "v1alpha2"], Support::Served),
    known(gateway_api::GROUP, "BackendTLSPolicy", &["v1", "v1alpha3"], Support::Served),
    known(gateway_api::GROUP, "ListenerSet", &["v1"], Support::Served),
    known(NETWORKING, "Gateway", &["v1", "v1beta1", "v1alpha3"], Support::Served),
    known(NETWORKING, "VirtualService", &["v1", "v1beta1", "v1alpha3"], Support::Served),
    known(NETWORKING, "DestinationRule", &["v1", "v1beta1", "v1alpha3"], Support::Served),
    known(NETWORKING, "ServiceEntry", &["v1", "v1beta1", "v1alpha3"], Support::Served),
    known(NETWORKING, "WorkloadEntry", &["v1", "v1beta1", "v1alpha3"], Support::Served),
    known(NETWORKING, "Sidecar", &["v1", "v1beta1", "v1alpha3"], Support::Served),
    known(NETWORKING, "WorkloadGroup", &["v1", "v1beta1", "v1alpha3"], Support::Checked),
    known(NETWORKING, "EnvoyFilter", &["v1alpha3"], Support::Checked),
    known(NETWORKING, "ProxyConfig", &["v1beta1"], Support::Checked),
    known(SECURITY, "AuthorizationPolicy", &["v1", "v1beta1"], Support::Served),
    known(SECURITY, "PeerAuthentication", &["v1", "v1beta1"], Support::Served),
    known(SECURITY, "RequestAuthentication", &["v1", "v1beta1"], Support::Served),
    known("telemetry.istio.io", "Telemetry", &["v1", "v1alpha1"], Support::Checked),
    known("extensions.istio.io", "WasmPlugin", &["v1alpha1"], Support::Checked),
    known("extensions.istio.io", "TrafficExtension", &["v1alpha1"], Support::Checked),
    known(crate::palisade::GROUP, "CedarPolicy", &["v1alpha1"], Support::Served),
    known(crate::palisade::GROUP, "PolicyTest", &["v1alpha1"], Support::Served),
    known(crate::palisade::GROUP, "EgressPolicy", &["v1alpha1"], Support::Named),
    known(crate::palisade::GROUP, "RateLimitPolicy", &["v1alpha1"], Support::Named),
    known(crate::palisade::GROUP, "HealthCheckPolicy", &["v1alpha1"], Support::Named),
];

/// The known kind of that group and name.
#[must_use]
pub fn known_kind(group: &str, kind: &str) -> Option<&'static KnownKind> {
    KNOWN_KINDS.iter().find(|known| known.group == group && known.kind == kind)
}
