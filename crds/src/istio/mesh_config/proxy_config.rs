//! Settings of all proxies, `defaultConfig` of the mesh configuration; also the annotation `proxy.istio.io/config`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::duration::Duration;

record! {
    /// Settings of proxies that Palisade uses.
    #[derive(Default)]
    pub struct ProxyConfig {
        /// Worker threads; absent follows the CPU limit, 0 is one per core.
        concurrency: Option<u32> = "concurrency";
        /// Start the application only when the proxy is ready; absent is no.
        hold_application_until_proxy_starts: Option<bool> = "holdApplicationUntilProxyStarts";
        /// How long a proxy keeps serving after SIGTERM; absent is 5 s.
        termination_drain_duration: Option<Duration> = "terminationDrainDuration";
        /// How long connections are drained on a listener change; absent is 45 s.
        drain_duration: Option<Duration> = "drainDuration";
        /// Proxies in front of a gateway.
        gateway_topology: Option<GatewayTopology> = "gatewayTopology";
        /// Traces.
        tracing: Option<ProxyTracing> = "tracing";
        /// Further settings by name; `ISTIO_META_DNS_CAPTURE` is one.
        proxy_metadata: BTreeMap<String, String> = "proxyMetadata";
        /// Which metrics of the proxy are kept.
        proxy_stats_matcher: Option<ProxyStatsMatcher> = "proxyStatsMatcher";
        /// Further trusted roots, PEM.
        ca_certificates_pem: Vec<String> = "caCertificatesPem";
        /// Image of the proxy.
        image: Option<ProxyImage> = "image";
        /// How the proxy says that it is ready, as a Kubernetes probe.
        readiness_probe: Option<Value> = "readinessProbe";
        /// Headers that the proxy adds or removes by itself.
        proxy_headers: Option<Value> = "proxyHeaders";
        /// Limits of connections and streams.
        connection_settings: Option<ConnectionSettings> = "connectionSettings";
        /// How traffic gets to the proxy.
        interception_mode: Option<InterceptionMode> = "interceptionMode";
    }
}

/// Known keys that Palisade does not use.
pub(super) const UNUSED_PROXY_KEYS: &[&str] = &[
    "configPath",
    "binaryPath",
    "serviceCluster",
    "tracingServiceName",
    "parentShutdownDuration",
    "discoveryAddress",
    "discoveryRefreshDelay",
    "zipkinAddress",
    "connectTimeout",
    "statsdUdpAddress",
    "envoyMetricsServiceAddress",
    "proxyAdminPort",
    "availabilityZone",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "statNameLength",
    "proxyBootstrapTemplatePath",
    "sds",
    "envoyAccessLogService",
    "envoyMetricsService",
    "runtimeValues",
    "statusPort",
    "extraStatTags",
    "meshId",
    "privateKeyProvider",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
    "statsCompression",
];

record! {
    /// Limits of connections and streams. What is absent is as the profile says, else as the proxy was started with.
    #[derive(Default)]
    pub struct ConnectionSettings {
        /// Values of what is absent.
        profile: Option<ConnectionProfile> = "profile";
        /// Bytes buffered for a client's connection.
        listener_per_connection_buffer_limit_bytes: Option<u32> = "listenerPerConnectionBufferLimitBytes";
        /// Bytes buffered for an upstream connection.
        cluster_per_connection_buffer_limit_bytes: Option<u32> = "clusterPerConnectionBufferLimitBytes";
        /// How long a connection may stay without a request; 0 is for ever.
        http_idle_timeout: Option<Duration> = "httpIdleTimeout";
        /// Age at which a connection is given up.
        http_max_connection_duration: Option<Duration> = "httpMaxConnectionDuration";
        /// Between the two GOAWAY frames of a drain.
        http_drain_timeout: Option<Duration> = "httpDrainTimeout";
        /// How long a whole request may take to arrive.
        http_request_timeout: Option<Duration> = "httpRequestTimeout";
        /// How long a request's header section may take to arrive.
        http_request_headers_timeout: Option<Duration> = "httpRequestHeadersTimeout";
        /// How long nothing may move on a stream.
        http_stream_idle_timeout: Option<Duration> = "httpStreamIdleTimeout";
        /// How long a stream may take in all.
        http_max_stream_duration: Option<Duration> = "httpMaxStreamDuration";
        /// Concurrent streams of an HTTP/2 connection.
        http_max_concurrent_streams: Option<u32> = "httpMaxConcurrentStreams";
        /// Receive window of an HTTP/2 stream.
        http2_initial_stream_window_size: Option<u32> = "http2InitialStreamWindowSize";
        /// Receive window of an HTTP/2 connection.
        http2_initial_connection_window_size: Option<u32> = "http2InitialConnectionWindowSize";
        /// Header names with `_`.
        http_headers_with_underscores_action: Option<HeadersWithUnderscoresAction> = "httpHeadersWithUnderscoresAction";
        /// Whether runs of slashes in paths become one.
        http_merge_slashes: Option<bool> = "httpMergeSlashes";
        /// Encoded slashes in paths.
        http_path_with_escaped_slashes_action: Option<PathWithEscapedSlashesAction> = "httpPathWithEscapedSlashesAction";
        /// Connections open at once on one listener.
        listener_connection_limit: Option<u32> = "listenerConnectionLimit";
        /// Connections open at once on all listeners.
        global_downstream_connection_limit: Option<u32> = "globalDownstreamConnectionLimit";
    }
}

choice! {
    /// Values of connection settings that are absent.
    pub enum ConnectionProfile {
        /// None of its own.
        Sidecar = "SIDECAR",
        /// Envoy's advice for the edge; gateways alone follow it.
        Edge = "EDGE",
    }
}

choice! {
    /// Header names with `_`.
    pub enum HeadersWithUnderscoresAction {
        /// As the profile says.
        Unspecified = "HEADERS_WITH_UNDERSCORES_UNSPECIFIED",
        /// They pass.
        Allow = "HEADERS_WITH_UNDERSCORES_ALLOW",
        /// Answered 400.
        RejectRequest = "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
        /// Removed.
        DropHeader = "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
    }
}

choice! {
    /// Encoded slashes in paths.
    pub enum PathWithEscapedSlashesAction {
        /// As the profile says.
        Unspecified = "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED",
        /// They stay.
        KeepUnchanged = "KEEP_UNCHANGED",
        /// Answered 400.
        RejectRequest = "REJECT_REQUEST",
        /// Decoded, and the client is sent there.
        UnescapeAndRedirect = "UNESCAPE_AND_REDIRECT",
        /// Decoded.
        UnescapeAndForward = "UNESCAPE_AND_FORWARD",
    }
}

record! {
    /// What stands in front of a gateway.
    pub struct GatewayTopology {
        /// Proxies whose X-Forwarded-For entries are trusted; 0 trusts the TCP peer only.
        num_trusted_proxies: u32 = "numTrustedProxies" or 0;
        /// What happens to X-Forwarded-Client-Cert; absent is SANITIZE_SET.
        forward_client_cert_details: Option<ForwardClientCertDetails> = "forwardClientCertDetails";
        /// Expect PROXY protocol.
        proxy_protocol: Option<ProxyProtocolConfiguration> = "proxyProtocol";
    }
}

record! {
    /// PROXY protocol is expected; there is nothing to set.
    pub struct ProxyProtocolConfiguration {}
}

choice! {
    /// What happens to X-Forwarded-Client-Cert.
    pub enum ForwardClientCertDetails {
        /// The default.
        Undefined = "UNDEFINED",
        /// Removed.
        Sanitize = "SANITIZE",
        /// Kept on mTLS connections.
        ForwardOnly = "FORWARD_ONLY",
        /// Extended on mTLS connections.
        AppendForward = "APPEND_FORWARD",
        /// Replaced.
        SanitizeSet = "SANITIZE_SET",
        /// Kept always.
        AlwaysForwardOnly = "ALWAYS_FORWARD_ONLY",
    }
}

record! {
    /// Traces.
    pub struct ProxyTracing {
        /// Zipkin.
        zipkin: Option<TracerAddress> = "zipkin";
        /// Lightstep, no longer served.
        lightstep: Option<Value> = "lightstep";
        /// Datadog.
        datadog: Option<TracerAddress> = "datadog";
        /// Stackdriver, no longer served.
        stackdriver: Option<Value> = "stackdriver";
        /// OpenCensus, no longer served.
        open_census_agent: Option<Value> = "openCensusAgent";
        /// Further tags of spans.
        custom_tags: BTreeMap<String, Value> = "customTags";
        /// Longest path in a span; 0 is 256.
        max_path_tag_length: u32 = "maxPathTagLength" or 0;
        /// Share of requests, 0 to 100; absent is 1.
        sampling: Option<f64> = "sampling";
        /// TLS towards the tracer.
        tls_settings: Option<crate::istio::ClientTlsSettings> = "tlsSettings";
        /// Write Istio's own tags; absent is yes.
        enable_istio_tags: Option<bool> = "enableIstioTags";
    }
    at_most_one ["zipkin", "lightstep", "datadog", "stackdriver", "openCensusAgent"];
}

record! {
    /// Where a tracer is.
    pub struct TracerAddress {
        /// `host:port`
        address: String = "address" or String::new();
    }
}

record! {
    /// Which metrics of the proxy are kept.
    pub struct ProxyStatsMatcher {
        /// By prefix.
        inclusion_prefixes: Vec<String> = "inclusionPrefixes";
        /// By suffix.
        inclusion_suffixes: Vec<String> = "inclusionSuffixes";
        /// By regular expression.
        inclusion_regexps: Vec<String> = "inclusionRegexps";
    }
}

record! {
    /// Image of the proxy.
    pub struct ProxyImage {
        /// Such as `default`, `debug`, `distroless`.
        image_type: String = "imageType" or String::new();
    }
}

choice! {
    /// How traffic gets to the proxy.
    pub enum InterceptionMode {
        /// By redirection.
        Redirect = "REDIRECT",
        /// Keeping the client's address.
        Tproxy = "TPROXY",
        /// The application dials it.
        None = "NONE",
    }
}
