//! Mesh-wide settings: what the mesh configuration says, and what the control plane was started with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::istio::{
    ExtensionProvider, ForwardClientCertDetails, GatewayTopology, HttpRetry, MeshConfig, MeshH2UpgradePolicy,
    MeshOutboundMode, MinTlsVersion, NamespaceSelector, NormalizationType, TlsDefaults,
};
use palisade_model::{
    cluster::{OutlierDetection, TcpKeepalive},
    identity::TrustDomain,
    listener::{SPOKEN_CIPHER_SUITES, SPOKEN_CURVES, TlsAlgorithms, TlsLimits, TlsVersion},
    settings::{ForwardClientCert, OutboundPolicy, PathNormalization},
};

use crate::resolve::{
    conversions::traffic,
    destination_rules::{ConnectionPool, LocalityPreference},
};

pub(crate) mod connections;
mod control;
mod revisions;

pub use control::{ControlSettings, InvalidSetting};
pub use revisions::Revisions;

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
    /// What stands in front of gateways.
    pub gateway_topology: Topology,
    /// Bounds of TLS between the mesh's proxies (`meshMTLS`).
    pub mesh_tls: TlsLimits,
    /// Bounds of all other TLS (`tlsDefaults`), where a document says nothing of its own.
    pub tls_defaults: TlsLimits,
    /// Limits of clients' connections, as written.
    pub(crate) connections: Option<palisade_crds::istio::ConnectionSettings>,
    /// Named services that decide about requests, and others.
    pub extension_providers: Vec<ExtensionProvider>,
    /// One workload may have several external authorizers.
    pub multiple_custom_providers: bool,
    /// Istio's policies with a selector, or for a whole namespace, apply to gateways of the Gateway API too.
    pub selects_gateways: bool,
    /// Gateways of class `istio` are served.
    pub istio_classes: bool,
    /// A gateway's workload serves the Gateways of its own namespace only.
    pub gateways_in_own_namespace: bool,
    /// Namespaces that are part of the mesh; empty = all.
    pub(crate) discovery_selectors: Vec<NamespaceSelector>,
}

/// What stands in front of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Trusted proxies.
    pub trusted_hops: u32,
    /// The PROXY protocol is expected.
    pub proxy_protocol: bool,
    /// What becomes of forwarded client certificates.
    pub forward_client_cert: ForwardClientCert,
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
            selects_gateways: control.selects_gateways,
            istio_classes: control.istio_classes,
            gateways_in_own_namespace: control.gateways_in_own_namespace,
            discovery_selectors: mesh.discovery_selectors.clone(),
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
            gateway_topology: Topology::of(mesh.default_config.gateway_topology.as_ref()),
            connections: mesh.default_config.connection_settings.clone(),
            mesh_tls: tls_limits(mesh.mesh_mtls.as_ref()),
            tls_defaults: tls_limits(mesh.tls_defaults.as_ref()),
            extension_providers: mesh.extension_providers.clone(),
            multiple_custom_providers: control.multiple_custom_providers,
        };
        (settings, malformed)
    }
}

impl Topology {
    fn of(written: Option<&GatewayTopology>) -> Self {
        Self {
            trusted_hops: written.map_or(0, |topology| topology.num_trusted_proxies),
            proxy_protocol: written.is_some_and(|topology| topology.proxy_protocol.is_some()),
            forward_client_cert: match written.and_then(|topology| topology.forward_client_cert_details) {
                None | Some(ForwardClientCertDetails::Undefined | ForwardClientCertDetails::SanitizeSet) => {
                    ForwardClientCert::SanitizeSet
                }
                Some(ForwardClientCertDetails::Sanitize) => ForwardClientCert::Sanitize,
                Some(ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
                Some(ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward,
                Some(ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
            },
        }
    }

    /// That of one gateway: its pod's annotation `proxy.istio.io/config`, where that says something readable about it.
    pub(crate) fn of_pod(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let written = annotations.get("proxy.istio.io/config")?;
        // It is what the mesh configuration calls `defaultConfig`.
        let text: String = written.lines().fold("defaultConfig:\n".to_owned(), |text, line| text + "  " + line + "\n");
        let (config, _) = MeshConfig::parse(&text);
        config?.default_config.gateway_topology.as_ref().map(|topology| Self::of(Some(topology)))
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
        (!mesh.ca_certificates.is_empty(), "caCertificates"),
        (mesh.protocol_detection_timeout.is_some(), "protocolDetectionTimeout"),
    ];
    let connections = mesh.default_config.connection_settings.as_ref().map(connections::not_served);
    let written = written.into_iter().filter(|(is_written, _)| *is_written).map(|(_, name)| name);
    written.chain(connections.into_iter().flatten()).collect()
}

/// What is named and not spoken, by setting: handshakes do without it.
pub(crate) fn not_spoken(mesh: &MeshConfig) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    for (setting, limits) in [("meshMTLS", &mesh.mesh_mtls), ("tlsDefaults", &mesh.tls_defaults)] {
        let Some(TlsDefaults { min_protocol_version: _, ecdh_curves, cipher_suites }) = limits else { continue };
        let suites = cipher_suites.iter().filter(|name| !SPOKEN_CIPHER_SUITES.contains(&name.as_str()));
        found.extend(suites.map(|name| (format!("{setting}.cipherSuites"), name.as_str())));
        let curves = ecdh_curves.iter().filter(|name| !SPOKEN_CURVES.contains(&name.as_str()));
        found.extend(curves.map(|name| (format!("{setting}.ecdhCurves"), name.as_str())));
    }
    found
}

fn tls_limits(written: Option<&TlsDefaults>) -> TlsLimits {
    let Some(TlsDefaults { min_protocol_version, ecdh_curves, cipher_suites }) = written else {
        return TlsLimits::default();
    };
    TlsLimits {
        min_version: match min_protocol_version {
            MinTlsVersion::Auto | MinTlsVersion::V1_2 => TlsVersion::V1_2,
            MinTlsVersion::V1_3 => TlsVersion::V1_3,
        },
        algorithms: tls_algorithms(cipher_suites, ecdh_curves),
    }
}

/// Names as written.
pub(crate) fn tls_algorithms(cipher_suites: &[String], curves: &[String]) -> TlsAlgorithms {
    let list = |names: &[String]| names.iter().map(|name| Arc::from(name.as_str())).collect();
    TlsAlgorithms { cipher_suites: list(cipher_suites), curves: list(curves) }
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

    #[test]
    fn a_gateways_annotation_says_what_stands_in_front_of_it() {
        let of =
            |text: &str| Topology::of_pod(&BTreeMap::from([("proxy.istio.io/config".to_owned(), text.to_owned())]));
        for text in ["gatewayTopology:\n  numTrustedProxies: 2", r#"{"gatewayTopology": {"numTrustedProxies": 2}}"#] {
            assert_eq!(of(text).map(|topology| topology.trusted_hops), Some(2), "{text}");
        }
        assert!(of("gatewayTopology: {proxyProtocol: {}}").is_some_and(|topology| topology.proxy_protocol));
        for text in ["concurrency: 2", "{", "", "gatewayTopology: many"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(Topology::of_pod(&BTreeMap::new()), None);
    }
}
