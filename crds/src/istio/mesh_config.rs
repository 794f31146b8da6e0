//! Istio's mesh configuration, as the ConfigMap `istio` carries it. <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>

use std::collections::BTreeMap;

use serde_json::{Map, Value};

mod extension_provider;
mod outbound;
mod proxy_config;

pub use extension_provider::*;
pub use outbound::*;
pub use proxy_config::*;

use super::{ConnectionPoolSettings, HttpRetry, LocalityLbSetting, OutlierDetection, TcpKeepalive};
use crate::codes::Code;
use crate::document;
use crate::duration::Duration;
use crate::issue::Issue;
use crate::path::Path;
use crate::schema::{Cursor, Decode, nearest};

record! {
    /// Mesh-wide settings that Palisade uses.
    pub struct MeshConfig {
        /// Where access logs go, such as `/dev/stdout`; empty is nowhere.
        access_log_file: String = "accessLogFile" or String::new();
        /// Form of a line.
        access_log_encoding: AccessLogEncoding = "accessLogEncoding" or AccessLogEncoding::Text;
        /// Fields of a line; empty is the default line.
        access_log_format: String = "accessLogFormat" or String::new();
        /// Whether traces are written; absent is yes.
        enable_tracing: Option<bool> = "enableTracing";
        /// Settings of all proxies.
        default_config: ProxyConfig = "defaultConfig" or ProxyConfig::default();
        /// Traffic to unknown hosts; absent lets it pass.
        outbound_traffic_policy: Option<MeshOutboundTrafficPolicy> = "outboundTrafficPolicy";
        /// Traffic to undeclared inbound ports; absent lets it pass.
        inbound_traffic_policy: Option<InboundTrafficPolicy> = "inboundTrafficPolicy";
        /// Named services that decide, trace or log.
        extension_providers: Vec<ExtensionProvider> = "extensionProviders";
        /// Those that are used where none is named.
        default_providers: Option<DefaultProviders> = "defaultProviders";
        /// Domain of the mesh's identities.
        trust_domain: String = "trustDomain" or "cluster.local".to_owned();
        /// Other domains whose identities count as those of this mesh.
        trust_domain_aliases: Vec<String> = "trustDomainAliases";
        /// mTLS between sidecars without configuration; absent is yes.
        enable_auto_mtls: Option<bool> = "enableAutoMtls";
        /// How paths are normalised before they are judged and forwarded.
        path_normalization: Option<PathNormalization> = "pathNormalization";
        /// Retries where a route has none; absent is two tries on failures to connect.
        default_http_retry_policy: Option<HttpRetry> = "defaultHttpRetryPolicy";
        /// Preference by locality; absent is on.
        locality_lb_setting: Option<LocalityLbSetting> = "localityLbSetting";
        /// Namespaces that are part of the mesh; empty is all.
        discovery_selectors: Vec<NamespaceSelector> = "discoverySelectors";
        /// Class of Ingresses served.
        ingress_class: String = "ingressClass" or "istio".to_owned();
        /// Which Ingresses are served.
        ingress_controller_mode: Option<IngressControllerMode> = "ingressControllerMode";
        /// Service of the gateway that serves Ingresses.
        ingress_service: String = "ingressService" or "istio-ingressgateway".to_owned();
        /// Its `istio` label.
        ingress_selector: String = "ingressSelector" or String::new();
        /// TLS between sidecars.
        mesh_mtls: Option<TlsDefaults> = "meshMTLS";
        /// TLS of everything else.
        tls_defaults: Option<TlsDefaults> = "tlsDefaults";
        /// Namespace whose policies apply to the mesh; absent is that of the control plane.
        root_namespace: Option<String> = "rootNamespace";
        /// Who sees Services without a word of their own.
        default_service_export_to: Vec<String> = "defaultServiceExportTo";
        /// Who sees VirtualServices without a word of their own.
        default_virtual_service_export_to: Vec<String> = "defaultVirtualServiceExportTo";
        /// Who sees DestinationRules without a word of their own.
        default_destination_rule_export_to: Vec<String> = "defaultDestinationRuleExportTo";
        /// Merge the application's metrics with the proxy's; absent is yes.
        enable_prometheus_merge: Option<bool> = "enablePrometheusMerge";
        /// Further trusted roots.
        ca_certificates: Vec<CertificateData> = "caCertificates";
        /// Limit of connecting; absent is 10 s.
        connect_timeout: Option<Duration> = "connectTimeout";
        /// How long to wait for the first bytes on ports of unknown protocol; 0 is for ever.
        protocol_detection_timeout: Option<Duration> = "protocolDetectionTimeout";
        /// Keep-alive probes of all connections; absent is none.
        tcp_keepalive: Option<TcpKeepalive> = "tcpKeepalive";
        /// Whether HTTP/1.1 is turned into HTTP/2.
        h2_upgrade_policy: Option<MeshH2UpgradePolicy> = "h2UpgradePolicy";
        /// Pool and outlier settings of services that have none.
        default_traffic_policy: Option<DefaultTrafficPolicy> = "defaultTrafficPolicy";
    }
}

/// Keys that are used: those of [`MeshConfig`]; a test compares them.
pub(crate) const MESH_KEYS: &[&str] = &[
    "accessLogFile",
    "accessLogEncoding",
    "accessLogFormat",
    "enableTracing",
    "defaultConfig",
    "outboundTrafficPolicy",
    "inboundTrafficPolicy",
    "extensionProviders",
    "defaultProviders",
    "trustDomain",
    "trustDomainAliases",
    "enableAutoMtls",
    "pathNormalization",
    "defaultHttpRetryPolicy",
    "localityLbSetting",
    "discoverySelectors",
    "ingressClass",
    "ingressControllerMode",
    "ingressService",
    "ingressSelector",
    "meshMTLS",
    "tlsDefaults",
    "rootNamespace",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "defaultDestinationRuleExportTo",
    "enablePrometheusMerge",
    "caCertificates",
    "connectTimeout",
    "protocolDetectionTimeout",
    "tcpKeepalive",
    "h2UpgradePolicy",
    "defaultTrafficPolicy",
];

/// Known keys that Palisade does not use.
const UNUSED: &[&str] = &[
    "proxyListenPort",
    "proxyInboundListenPort",
    "proxyHttpPort",
    "hboneIdleTimeout",
    "enableEnvoyAccessLogService",
    "disableEnvoyListenerLog",
    "configSources",
    "zoneAwareLbSetting",
    "dnsRefreshRate",
    "inboundClusterStatName",
    "outboundClusterStatName",
    "certificates",
    "serviceSettings",
    "serviceScopeConfigs",
    "verifyCertificateAtClient",
    "ca",
    "serviceEntryVisibility",
    "mixerCheckServer",
    "mixerReportServer",
    "disablePolicyChecks",
    "disableMixerHttpReports",
    "policyCheckFailOpen",
    "sidecarToTelemetrySessionAffinity",
    "authPolicy",
    "rdsRefreshDelay",
    "mixerAddress",
    "enableClientSidePolicyCheck",
    "sdsUdsPath",
    "sdsRefreshDelay",
    "enableSdsTokenMount",
    "sdsUseK8sSaJwt",
    "terminationDrainDuration",
    "disableReportBatch",
    "reportBatchMaxEntries",
    "reportBatchMaxTime",
    "fileFlushInterval",
    "fileFlushMinSize",
    "thriftConfig",
];

choice! {
    /// Form of an access log line.
    pub enum AccessLogEncoding {
        /// One line of text.
        Text = "TEXT",
        /// One JSON object.
        Json = "JSON",
    }
}

record! {
    /// Traffic to undeclared inbound ports.
    pub struct InboundTrafficPolicy {
        /// Absent is PASSTHROUGH.
        mode: InboundMode = "mode" or InboundMode::Passthrough;
    }
}

choice! {
    /// Where inbound traffic is delivered.
    pub enum InboundMode {
        /// At the pod's address.
        Passthrough = "PASSTHROUGH",
        /// At the loopback address.
        Localhost = "LOCALHOST",
    }
}

record! {
    /// Providers used where none is named.
    pub struct DefaultProviders {
        /// For traces.
        tracing: Vec<String> = "tracing";
        /// For metrics.
        metrics: Vec<String> = "metrics";
        /// For access logs.
        access_logging: Vec<String> = "accessLogging";
    }
}

record! {
    /// How paths are normalised.
    pub struct PathNormalization {
        /// Absent is DEFAULT.
        normalization: NormalizationType = "normalization" or NormalizationType::Default;
    }
}

choice! {
    /// How paths are normalised before they are judged and forwarded.
    pub enum NormalizationType {
        /// The same as BASE.
        Default = "DEFAULT",
        /// Not at all.
        None = "NONE",
        /// RFC 3986: dot segments, unreserved escapes, backslashes.
        Base = "BASE",
        /// BASE, and runs of slashes become one.
        MergeSlashes = "MERGE_SLASHES",
        /// Escaped slashes are decoded first.
        DecodeAndMergeSlashes = "DECODE_AND_MERGE_SLASHES",
    }
}

record! {
    /// A Kubernetes label selector. All that is written must hold.
    pub struct NamespaceSelector {
        /// Labels compared for equality.
        match_labels: BTreeMap<String, String> = "matchLabels";
        /// Further conditions.
        match_expressions: Vec<SelectorRequirement> = "matchExpressions";
    }
}

record! {
    /// A condition on a label.
    pub struct SelectorRequirement {
        /// The label.
        key: String = "key";
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        operator: String = "operator";
        /// For `In` and `NotIn`.
        values: Vec<String> = "values";
    }
}

choice! {
    /// Which Ingresses are served.
    pub enum IngressControllerMode {
        /// The same as STRICT.
        Unspecified = "UNSPECIFIED",
        /// None.
        Off = "OFF",
        /// Those of the class and those without class.
        Default = "DEFAULT",
        /// Those of the class.
        Strict = "STRICT",
    }
}

record! {
    /// Limits of TLS.
    pub struct TlsDefaults {
        /// Absent is 1.2.
        min_protocol_version: MinTlsVersion = "minProtocolVersion" or MinTlsVersion::Auto;
        /// Curves for the key exchange; empty is a safe list.
        ecdh_curves: Vec<String> = "ecdhCurves";
        /// Names as OpenSSL has them; empty is a safe list.
        cipher_suites: Vec<String> = "cipherSuites";
    }
}

choice! {
    /// The oldest version of TLS accepted.
    pub enum MinTlsVersion {
        /// 1.2
        Auto = "TLS_AUTO",
        /// 1.2
        V1_2 = "TLSV1_2",
        /// 1.3
        V1_3 = "TLSV1_3",
    }
}

record! {
    /// A further trusted root.
    pub struct CertificateData {
        /// PEM text.
        pem: Option<String> = "pem";
        /// Where a SPIFFE bundle is served.
        spiffe_bundle_url: Option<String> = "spiffeBundleUrl";
        /// Kubernetes signers that it belongs to.
        cert_signers: Vec<String> = "certSigners";
        /// Trust domains that it belongs to.
        trust_domains: Vec<String> = "trustDomains";
    }
    at_most_one ["pem", "spiffeBundleUrl"];
}

choice! {
    /// Whether HTTP/1.1 is turned into HTTP/2.
    pub enum MeshH2UpgradePolicy {
        /// No.
        DoNotUpgrade = "DO_NOT_UPGRADE",
        /// Yes.
        Upgrade = "UPGRADE",
    }
}

record! {
    /// Settings of services that have none.
    pub struct DefaultTrafficPolicy {
        /// Limits of connections and requests.
        connection_pool: Option<ConnectionPoolSettings> = "connectionPool";
        /// Ejection of failing endpoints.
        outlier_detection: Option<OutlierDetection> = "outlierDetection";
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        let mut issues = Vec::new();
        match Self::decode(&Value::Object(Map::new()), &mut Cursor::new(Path::root(), &mut issues)) {
            Some(config) => config,
            None => unreachable!("every key of the mesh configuration has a default"),
        }
    }
}

impl MeshConfig {
    /// What counts where the mesh's own settings cannot be read: no way out that no document names, and the paths that leave an
    /// attacker the least room. Everything else is as by default.
    #[must_use]
    pub fn strict() -> Self {
        quietly(STRICT.iter().map(|(key, value)| ((*key).to_owned(), value())).collect()).unwrap_or_default()
    }

    /// Reads the text of the ConfigMap's key `mesh`. Paths of issues start at `data.mesh`. A setting that cannot be read takes its
    /// strict value, else its default; the others count. `None` if nothing in the text can be used: [`MeshConfig::strict`].
    #[must_use]
    pub fn parse(text: &str) -> (Option<Self>, Vec<Issue>) {
        let place = Path::root().join("data").join("mesh");
        let documents = document::read("", text.as_bytes());
        let mut issues = Vec::new();
        if let Some(unreadable) = documents.unreadable.first() {
            issues.push(Issue::new(
                Code::InvalidMeshConfig,
                place,
                format!("line {}: {}", unreadable.line, unreadable.message),
            ));
            return (None, issues);
        }
        let mut documents = documents.documents.into_iter();
        let value = documents.next().map_or_else(|| Value::Object(Map::new()), |document| document.value);
        if documents.next().is_some() {
            issues.push(Issue::new(Code::InvalidMeshConfig, place, "more than one document"));
            return (None, issues);
        }
        let mut cursor = Cursor::new(place, &mut issues);
        let value = used_keys(value, &mut cursor);
        let config = Self::decode(&value, &mut cursor).or_else(|| Self::readable_part(value));
        (config, issues)
    }

    /// The settings that can be read by themselves, with strict values in place of the others. `None`: these are no settings.
    fn readable_part(value: Value) -> Option<Self> {
        let Value::Object(mut settings) = value else { return None };
        // One wrong limit of the proxies leaves all others.
        if let Some(Value::Object(proxy)) = settings.get_mut("defaultConfig") {
            if let Some(Value::Object(connections)) = proxy.get_mut("connectionSettings") {
                *connections = readable::<ConnectionSettings>(std::mem::take(connections), &STRICT_CONNECTIONS);
            }
            *proxy = readable::<ProxyConfig>(std::mem::take(proxy), &[]);
        }
        quietly(readable::<Self>(settings, &STRICT))
    }
}

/// The settings that can be read by themselves, with strict values in place of the others.
fn readable<T: Decode>(settings: Map<String, Value>, strict: &[Setting]) -> Map<String, Value> {
    let mut readable = Map::new();
    for (key, value) in settings {
        if quietly::<T>(Map::from_iter([(key.clone(), value.clone())])).is_some() {
            readable.insert(key, value);
        } else if let Some((_, strict)) = strict.iter().find(|(known, _)| *known == key) {
            readable.insert(key, strict());
        }
    }
    readable
}

/// Decodes what has been reported on already.
fn quietly<T: Decode>(settings: Map<String, Value>) -> Option<T> {
    T::decode(&Value::Object(settings), &mut Cursor::new(Path::root(), &mut Vec::new()))
}

/// A setting's name and its value.
type Setting = (&'static str, fn() -> Value);

/// Values of the settings whose defaults would open something.
const STRICT: [Setting; 2] = [
    ("outboundTrafficPolicy", || serde_json::json!({"mode": "REGISTRY_ONLY"})),
    ("pathNormalization", || serde_json::json!({"normalization": "DECODE_AND_MERGE_SLASHES"})),
];

/// The same for limits of clients' connections: an unknown profile is the edge's.
const STRICT_CONNECTIONS: [Setting; 4] = [
    ("profile", || serde_json::json!("EDGE")),
    ("httpMergeSlashes", || serde_json::json!(true)),
    ("httpPathWithEscapedSlashesAction", || serde_json::json!("REJECT_REQUEST")),
    ("httpHeadersWithUnderscoresAction", || serde_json::json!("HEADERS_WITH_UNDERSCORES_REJECT_REQUEST")),
];

/// Protobuf's JSON reader takes both spellings of a key. Keys that are not used are reported here and left out.
fn used_keys(value: Value, cursor: &mut Cursor<'_>) -> Value {
    let Value::Object(fields) = value else { return value };
    let mut used = Map::new();
    for (key, value) in fields {
        let name = lower_camel(&key);
        if UNUSED.contains(&name.as_str()) {
            cursor.report_at(key.as_str(), Code::MeshSettingIgnored, format!("mesh setting `{key}` is not used"));
            continue;
        }
        let value = if name == "defaultConfig" {
            cursor.within(key.as_str(), |cursor| used_proxy_keys(value, cursor))
        } else {
            value
        };
        if MESH_KEYS.contains(&name.as_str()) {
            used.insert(name, value);
        } else {
            let hint = nearest(&name, MESH_KEYS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            cursor.report_at(key.as_str(), Code::UnknownMeshSetting, format!("unknown mesh setting `{key}`{hint}"));
        }
    }
    Value::Object(used)
}

fn used_proxy_keys(value: Value, cursor: &mut Cursor<'_>) -> Value {
    let Value::Object(fields) = value else { return value };
    let mut used = Map::new();
    for (key, value) in fields {
        let name = lower_camel(&key);
        if UNUSED_PROXY_KEYS.contains(&name.as_str()) {
            cursor.report_at(key.as_str(), Code::MeshSettingIgnored, format!("proxy setting `{key}` is not used"));
        } else {
            used.insert(name, value);
        }
    }
    Value::Object(used)
}

/// The JSON name of a protobuf field. `mesh_mTLS` is the one field whose name has capitals.
fn lower_camel(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            name.push(c.to_ascii_uppercase());
            upper = false;
        } else {
            name.push(c);
        }
    }
    name
}

#[cfg(test)]
mod tests;
