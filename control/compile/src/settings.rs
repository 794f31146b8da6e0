//! Mesh-wide settings: what the mesh configuration says, and what the control plane was started with.

use std::{collections::BTreeSet, sync::Arc};

use palisade_crds::istio::{
    ExtensionProvider, ForwardClientCertDetails, HttpRetry, MeshConfig, MeshH2UpgradePolicy, MeshOutboundMode,
    NormalizationType,
};
use palisade_model::{
    cluster::{OutlierDetection, TcpKeepalive},
    identity::TrustDomain,
    settings::{ForwardClientCert, OutboundPolicy, PathNormalization},
};

use crate::resolve::{
    conversions::traffic,
    destination_rules::{ConnectionPool, LocalityPreference},
};

mod control;

pub use control::{ControlSettings, InvalidSetting};

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshSettings {
    /// Domain of the mesh's identities.
    pub trust_domain: TrustDomain,
    /// Further domains whose identities count.
    pub trust_domain_aliases: BTreeSet<TrustDomain>,
    /// DNS domain of the cluster.
    pub cluster_domain: Arc<str>,
    /// Namespace whose policies apply to the mesh.
    pub root_namespace: Arc<str>,
    /// mTLS between sidecars without configuration.
    pub enable_auto_mtls: bool,
    /// How paths are normalised.
    pub path_normalization: PathNormalization,
    /// Paths with `;` parameters are refused.
    pub reject_path_parameters: bool,
    /// Calls to unknown hosts.
    pub outbound: OutboundPolicy,
    /// Who sees Services without a word of their own; empty = everyone.
    pub default_service_export_to: Vec<String>,
    /// The same for VirtualServices.
    pub default_virtual_service_export_to: Vec<String>,
    /// The same for DestinationRules.
    pub default_destination_rule_export_to: Vec<String>,
    /// Retries of routes that have none of their own.
    pub default_retries: Option<HttpRetry>,
    /// TCP connect timeout of clusters that have none of their own.
    pub connect_timeout: Option<std::time::Duration>,
    /// Client-side defaults of all destinations.
    pub(crate) destinations: DestinationDefaults,
    /// Trusted proxies in front of gateways.
    pub gateway_trusted_hops: u32,
    /// Gateways expect the PROXY protocol.
    pub gateway_proxy_protocol: bool,
    /// What gateways do with forwarded client certificates.
    pub gateway_forward_client_cert: ForwardClientCert,
    /// Named services that decide about requests, and others.
    pub extension_providers: Vec<ExtensionProvider>,
    /// One workload may have several external authorizers.
    pub multiple_custom_providers: bool,
    /// Gateways of class `istio` are served.
    pub istio_classes: bool,
    /// A gateway's workload serves the Gateways of its own namespace only.
    pub gateways_in_own_namespace: bool,
}

/// Client-side defaults of all destinations.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DestinationDefaults {
    /// `localityLbSetting`; `None` = enabled, with nothing said.
    pub(crate) locality: Option<LocalityPreference>,
    /// `tcpKeepalive`.
    pub(crate) keepalive: Option<TcpKeepalive>,
    /// `h2UpgradePolicy: UPGRADE`.
    pub(crate) upgrades_to_http2: bool,
    /// `defaultTrafficPolicy.connectionPool`.
    pub(crate) pool: Option<ConnectionPool>,
    /// `defaultTrafficPolicy.outlierDetection`.
    pub(crate) outlier: Option<OutlierDetection>,
}

impl MeshSettings {
    /// Settings from the mesh configuration and the control plane's own. A malformed trust domain is replaced by the default,
    /// which trusts nobody else's identities; the second value names such values.
    pub fn new(mesh: &MeshConfig, control: &ControlSettings) -> (Self, Vec<String>) {
        let mut malformed = Vec::new();
        let domain = |text: &str, malformed: &mut Vec<String>| {
            // Istio reads `@` as `.` in a trust domain.
            let parsed = text.replace('@', ".").to_ascii_lowercase().parse::<TrustDomain>();
            if parsed.is_err() {
                malformed.push(text.to_owned());
            }
            parsed.ok()
        };
        let trust_domain = domain(&mesh.trust_domain, &mut malformed);
        let aliases = mesh.trust_domain_aliases.iter().filter_map(|alias| domain(alias, &mut malformed)).collect();
        let topology = mesh.default_config.gateway_topology.as_ref();
        let settings = Self {
            trust_domain: trust_domain.unwrap_or_else(default_trust_domain),
            trust_domain_aliases: aliases,
            cluster_domain: Arc::clone(&control.cluster_domain),
            root_namespace: control
                .root_namespace
                .clone()
                .or_else(|| mesh.root_namespace.as_deref().filter(|ns| !ns.is_empty()).map(Arc::from))
                .unwrap_or_else(|| Arc::clone(&control.control_namespace)),
            enable_auto_mtls: mesh.enable_auto_mtls.unwrap_or(true),
            path_normalization: match mesh.path_normalization.as_ref().map(|n| n.normalization) {
                None | Some(NormalizationType::Default | NormalizationType::Base) => PathNormalization::Base,
                Some(NormalizationType::None) => PathNormalization::None,
                Some(NormalizationType::MergeSlashes) => PathNormalization::MergeSlashes,
                Some(NormalizationType::DecodeAndMergeSlashes) => PathNormalization::DecodeAndMergeSlashes,
            },
            reject_path_parameters: control.reject_path_parameters,
            istio_classes: control.istio_classes,
            gateways_in_own_namespace: control.gateways_in_own_namespace,
            outbound: match mesh.outbound_traffic_policy.as_ref().map(|policy| policy.mode) {
                // Sent in the clear they would lose what was asked for.
                Some(_) if mesh.outbound_traffic_policy.as_ref().is_some_and(|policy| policy.tls.is_some()) => {
                    OutboundPolicy::RegistryOnly
                }
                None | Some(MeshOutboundMode::AllowAny | MeshOutboundMode::AllowAnyDynamicDns) => {
                    OutboundPolicy::AllowAny
                }
                Some(MeshOutboundMode::RegistryOnly) => OutboundPolicy::RegistryOnly,
            },
            default_service_export_to: mesh.default_service_export_to.clone(),
            default_virtual_service_export_to: mesh.default_virtual_service_export_to.clone(),
            default_destination_rule_export_to: mesh.default_destination_rule_export_to.clone(),
            default_retries: mesh.default_http_retry_policy.clone(),
            connect_timeout: mesh.connect_timeout.and_then(crate::time::positive),
            destinations: DestinationDefaults::of(mesh),
            gateway_trusted_hops: topology.map_or(0, |topology| topology.num_trusted_proxies),
            gateway_proxy_protocol: topology.is_some_and(|topology| topology.proxy_protocol.is_some()),
            gateway_forward_client_cert: match topology.and_then(|topology| topology.forward_client_cert_details) {
                None | Some(ForwardClientCertDetails::Undefined | ForwardClientCertDetails::SanitizeSet) => {
                    ForwardClientCert::SanitizeSet
                }
                Some(ForwardClientCertDetails::Sanitize) => ForwardClientCert::Sanitize,
                Some(ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
                Some(ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward,
                Some(ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
            },
            extension_providers: mesh.extension_providers.clone(),
            multiple_custom_providers: control.multiple_custom_providers,
        };
        (settings, malformed)
    }
}

impl DestinationDefaults {
    fn of(mesh: &MeshConfig) -> Self {
        let policy = mesh.default_traffic_policy.as_ref();
        Self {
            locality: mesh.locality_lb_setting.as_ref().map(traffic::locality),
            keepalive: mesh.tcp_keepalive.as_ref().map(traffic::keepalive),
            upgrades_to_http2: mesh.h2_upgrade_policy == Some(MeshH2UpgradePolicy::Upgrade),
            pool: policy.and_then(|policy| policy.connection_pool.as_ref()).map(traffic::pool),
            outlier: policy.and_then(|policy| policy.outlier_detection.as_ref()).map(traffic::outlier),
        }
    }
}

/// Known settings that are written and not served yet, by name.
pub(crate) fn not_served(mesh: &MeshConfig) -> Vec<&'static str> {
    let written = [
        (mesh.inbound_traffic_policy.is_some(), "inboundTrafficPolicy"),
        (mesh.extension_providers.iter().any(|provider| !is_authorizer(provider)), "extensionProviders"),
        (!mesh.discovery_selectors.is_empty(), "discoverySelectors"),
        (mesh.mesh_mtls.is_some(), "meshMTLS"),
        (mesh.tls_defaults.is_some(), "tlsDefaults"),
        (!mesh.ca_certificates.is_empty(), "caCertificates"),
        (mesh.protocol_detection_timeout.is_some(), "protocolDetectionTimeout"),
    ];
    written.into_iter().filter(|(is_written, _)| *is_written).map(|(_, name)| name).collect()
}

/// External authorizers are served; where spans, logs and metrics go is not.
fn is_authorizer(provider: &ExtensionProvider) -> bool {
    provider.envoy_ext_authz_http.is_some() || provider.envoy_ext_authz_grpc.is_some() || provider.prometheus.is_some()
}

#[expect(clippy::expect_used, reason = "a constant that a test parses")]
fn default_trust_domain() -> TrustDomain {
    "cluster.local".parse().expect("a trust domain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_beats_the_mesh_configuration_beats_the_control_namespace() {
        let root = |mesh: Option<&str>, flag: Option<&str>| {
            let mesh = MeshConfig { root_namespace: mesh.map(str::to_owned), ..MeshConfig::default() };
            let control = ControlSettings { root_namespace: flag.map(Arc::from), ..ControlSettings::default() };
            MeshSettings::new(&mesh, &control).0.root_namespace.to_string()
        };
        assert_eq!(root(None, None), "istio-system");
        assert_eq!(root(Some("a"), None), "a");
        assert_eq!(root(Some("a"), Some("b")), "b");
    }

    #[test]
    fn calls_that_should_have_tls_are_not_made_without() {
        let outbound =
            |text: &str| MeshSettings::new(&MeshConfig::parse(text).0.unwrap(), &ControlSettings::default()).0.outbound;
        assert_eq!(outbound("outboundTrafficPolicy: {mode: ALLOW_ANY}"), OutboundPolicy::AllowAny);
        let text = "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE}}";
        assert_eq!(outbound(text), OutboundPolicy::RegistryOnly);
    }
}
