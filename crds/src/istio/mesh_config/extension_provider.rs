//! Named services that decide about requests, or take traces and logs.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::duration::Duration;

record! {
    /// A named service. Exactly one of the kinds is set.
    pub struct ExtensionProvider {
        /// How policies call it.
        name: String = "name";
        /// Decides over HTTP.
        envoy_ext_authz_http: Option<ExtAuthzHttp> = "envoyExtAuthzHttp";
        /// Decides over gRPC.
        envoy_ext_authz_grpc: Option<ExtAuthzGrpc> = "envoyExtAuthzGrpc";
        /// Takes spans.
        zipkin: Option<Value> = "zipkin";
        /// Takes spans; no longer served.
        lightstep: Option<Value> = "lightstep";
        /// Takes spans.
        datadog: Option<Value> = "datadog";
        /// Takes spans, metrics and logs; no longer served.
        stackdriver: Option<Value> = "stackdriver";
        /// Takes spans; no longer served.
        opencensus: Option<Value> = "opencensus";
        /// Takes spans.
        skywalking: Option<Value> = "skywalking";
        /// Takes spans.
        opentelemetry: Option<Value> = "opentelemetry";
        /// Reads metrics.
        prometheus: Option<Value> = "prometheus";
        /// A file that takes access log lines.
        envoy_file_access_log: Option<FileAccessLog> = "envoyFileAccessLog";
        /// Takes access logs of HTTP over gRPC.
        envoy_http_als: Option<Value> = "envoyHttpAls";
        /// Takes access logs of TCP over gRPC.
        envoy_tcp_als: Option<Value> = "envoyTcpAls";
        /// Takes access logs over OpenTelemetry.
        envoy_otel_als: Option<Value> = "envoyOtelAls";
        /// Serves certificates.
        sds: Option<Value> = "sds";
    }
    at_most_one [
        "envoyExtAuthzHttp", "envoyExtAuthzGrpc", "zipkin", "lightstep", "datadog", "stackdriver", "opencensus", "skywalking",
        "opentelemetry", "prometheus", "envoyFileAccessLog", "envoyHttpAls", "envoyTcpAls", "envoyOtelAls", "sds",
    ];
}

record! {
    /// A service that decides over HTTP.
    pub struct ExtAuthzHttp {
        /// `host` or `namespace/host`.
        service: String = "service";
        /// Its port.
        port: u32 = "port";
        /// Absent is 600 s.
        timeout: Option<Duration> = "timeout";
        /// Put before the path of the check.
        path_prefix: String = "pathPrefix" or String::new();
        /// Let requests pass when it cannot be reached.
        fail_open: bool = "failOpen";
        /// Choose the route anew after the check.
        clear_route_cache: bool = "clearRouteCache";
        /// Status when it cannot be reached; empty is 403.
        status_on_error: String = "statusOnError" or String::new();
        /// Deprecated name of the next.
        include_headers_in_check: Vec<String> = "includeHeadersInCheck";
        /// Request headers that the check carries: exact, prefix or suffix, case ignored.
        include_request_headers_in_check: Vec<String> = "includeRequestHeadersInCheck";
        /// Further headers of the check.
        include_additional_headers_in_check: BTreeMap<String, String> = "includeAdditionalHeadersInCheck";
        /// The body in the check; absent is none.
        include_request_body_in_check: Option<ExtAuthzRequestBody> = "includeRequestBodyInCheck";
        /// Headers of the answer that go upstream.
        headers_to_upstream_on_allow: Vec<String> = "headersToUpstreamOnAllow";
        /// Headers of a refusal that go downstream; empty is all.
        headers_to_downstream_on_deny: Vec<String> = "headersToDownstreamOnDeny";
        /// Headers of the answer that go downstream.
        headers_to_downstream_on_allow: Vec<String> = "headersToDownstreamOnAllow";
    }
}

record! {
    /// A service that decides over gRPC.
    pub struct ExtAuthzGrpc {
        /// `host` or `namespace/host`.
        service: String = "service";
        /// Its port.
        port: u32 = "port";
        /// Absent is 600 s.
        timeout: Option<Duration> = "timeout";
        /// Let requests pass when it cannot be reached.
        fail_open: bool = "failOpen";
        /// Choose the route anew after the check.
        clear_route_cache: bool = "clearRouteCache";
        /// Status when it cannot be reached; empty is 403.
        status_on_error: String = "statusOnError" or String::new();
        /// The body in the check; absent is none.
        include_request_body_in_check: Option<ExtAuthzRequestBody> = "includeRequestBodyInCheck";
    }
}

record! {
    /// The body in a check.
    pub struct ExtAuthzRequestBody {
        /// Larger bodies are refused, or cut.
        max_request_bytes: u32 = "maxRequestBytes" or 0;
        /// Cut instead of refusing.
        allow_partial_message: bool = "allowPartialMessage";
        /// As bytes instead of text.
        pack_as_bytes: bool = "packAsBytes";
    }
}

record! {
    /// A file that takes access log lines.
    pub struct FileAccessLog {
        /// Such as `/dev/stdout`.
        path: String = "path" or String::new();
        /// Form of a line; absent is the default.
        log_format: Option<LogFormat> = "logFormat";
        /// Leave out fields without a value.
        omit_empty_values: bool = "omitEmptyValues";
    }
}

one_of! {
    /// Form of an access log line.
    pub enum LogFormat {
        /// A line of text.
        Text(String) = "text",
        /// A JSON object.
        Labels(BTreeMap<String, Value>) = "labels",
    } otherwise {
        /// The default line.
        Default,
    }
}
