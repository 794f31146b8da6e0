//! From a document to a typed object, with everything that is wrong with it.

mod broken;
mod kind;
mod meta;
mod read;
#[cfg(test)]
mod tests;
mod unused;

pub use broken::{Broken, BrokenTarget};
pub use kind::{KNOWN_KINDS, KnownKind, Support, known_kind};
pub use meta::Meta;
pub use read::parse;

use crate::issue::Issue;
use crate::{gateway_api, istio, kubernetes, palisade};

/// What a document says.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Who it is.
    pub meta: Meta,
    /// What it says.
    pub object: Object,
    /// All findings, in the order of the document.
    pub issues: Vec<Issue>,
}

impl Parsed {
    /// Whether admission rejects the document.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.issues.iter().any(Issue::is_error)
    }
}

macro_rules! objects {
    ($($(#[$doc:meta])* $variant:ident($type:ty),)*) => {
        /// A typed object. Except for AuthorizationPolicy, whose rules stand for themselves, a typed variant means that admission accepts it;
        /// what it rejects is [`Object::Broken`].
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($(#[$doc])* $variant(Box<$type>),)*
            /// A kind that is used, but the document is rejected.
            Broken(Box<Broken>),
            /// A kind that is known by name only, not known at all, or of a version that is not served.
            Unknown {
                /// API group; empty is the core group, or unreadable.
                group: String,
                /// The kind as written.
                kind: String,
            },
        }

        $(impl From<$type> for Object {
            fn from(object: $type) -> Self {
                Self::$variant(Box::new(object))
            }
        })*
    };
}

objects! {
    /// Kubernetes Namespace.
    Namespace(kubernetes::Namespace),
    /// Kubernetes Node.
    Node(kubernetes::Node),
    /// Kubernetes ServiceAccount.
    ServiceAccount(kubernetes::ServiceAccount),
    /// Kubernetes Service.
    Service(kubernetes::Service),
    /// Kubernetes EndpointSlice.
    EndpointSlice(kubernetes::EndpointSlice),
    /// Kubernetes Deployment.
    Deployment(kubernetes::Deployment),
    /// Kubernetes StatefulSet.
    StatefulSet(kubernetes::StatefulSet),
    /// Kubernetes Pod.
    Pod(kubernetes::Pod),
    /// Kubernetes Secret.
    Secret(kubernetes::Secret),
    /// Kubernetes ConfigMap.
    ConfigMap(kubernetes::ConfigMap),
    /// Gateway API GatewayClass.
    GatewayClass(gateway_api::GatewayClass),
    /// Gateway API Gateway.
    Gateway(gateway_api::Gateway),
    /// Gateway API HTTPRoute.
    HttpRoute(gateway_api::HttpRoute),
    /// Gateway API GRPCRoute.
    GrpcRoute(gateway_api::GrpcRoute),
    /// Gateway API TLSRoute.
    TlsRoute(gateway_api::TlsRoute),
    /// Gateway API TCPRoute.
    TcpRoute(gateway_api::TcpRoute),
    /// Gateway API UDPRoute.
    UdpRoute(gateway_api::UdpRoute),
    /// Gateway API ListenerSet.
    ListenerSet(gateway_api::ListenerSet),
    /// Gateway API BackendTLSPolicy.
    BackendTlsPolicy(gateway_api::BackendTlsPolicy),
    /// Gateway API ReferenceGrant.
    ReferenceGrant(gateway_api::ReferenceGrant),
    /// Istio Gateway.
    IstioGateway(istio::Gateway),
    /// Istio VirtualService.
    VirtualService(istio::VirtualService),
    /// Istio DestinationRule.
    DestinationRule(istio::DestinationRule),
    /// Istio ServiceEntry.
    ServiceEntry(istio::ServiceEntry),
    /// Istio WorkloadEntry.
    WorkloadEntry(istio::WorkloadEntry),
    /// Istio Sidecar.
    Sidecar(istio::Sidecar),
    /// Istio AuthorizationPolicy. May be rejected: then its entries say which rules cannot be used.
    AuthorizationPolicy(istio::AuthorizationPolicy),
    /// Istio PeerAuthentication.
    PeerAuthentication(istio::PeerAuthentication),
    /// Istio RequestAuthentication.
    RequestAuthentication(istio::RequestAuthentication),
    /// Istio Telemetry.
    Telemetry(istio::Telemetry),
    /// Palisade CedarPolicy.
    CedarPolicy(palisade::CedarPolicy),
    /// Palisade PolicyTest.
    PolicyTest(palisade::PolicyTest),
}
