//! Telemetry: what is logged, measured and traced. <https://istio.io/latest/docs/reference/config/telemetry/>

use std::collections::BTreeMap;

use super::{PolicyTargetReference, WorkloadSelector};
use crate::codes::Code;
use crate::duration::Duration;
use crate::schema::Check::{Items, Length, Positive, RangeF};
use crate::schema::Cursor;

record! {
    /// The spec of a Telemetry.
    pub struct Telemetry {
        /// Workloads it applies to.
        selector: Option<WorkloadSelector> = "selector";
        /// Deprecated: one target.
        target_ref: Option<PolicyTargetReference> = "targetRef";
        /// Objects it applies to.
        target_refs: Vec<PolicyTargetReference> = "targetRefs" [Items(0, 16)];
        /// Traces.
        tracing: Vec<Tracing> = "tracing";
        /// Metrics.
        metrics: Vec<Metrics> = "metrics";
        /// Access logs.
        access_logging: Vec<AccessLogging> = "accessLogging";
    }
    at_most_one ["selector", "targetRef", "targetRefs"];
}

record! {
    /// An entry of the mesh's `extensionProviders`.
    pub struct ProviderRef {
        /// Its name.
        name: String = "name" [Length(1, usize::MAX)];
    }
}

choice! {
    /// Which side of a call is meant.
    pub enum WorkloadMode {
        /// Both.
        ClientAndServer = "CLIENT_AND_SERVER",
        /// Outbound.
        Client = "CLIENT",
        /// Inbound.
        Server = "SERVER",
    }
}

record! {
    /// Which side of a call a setting is for.
    pub struct ModeMatch {
        /// Absent is both.
        mode: WorkloadMode = "mode" or WorkloadMode::ClientAndServer;
    }
}

record! {
    /// Settings of traces.
    pub struct Tracing {
        /// Absent is both sides.
        r#match: Option<ModeMatch> = "match";
        /// Where spans go; empty inherits.
        providers: Vec<ProviderRef> = "providers";
        /// Share of requests, 0 to 100; absent inherits.
        random_sampling_percentage: Option<f64> = "randomSamplingPercentage" [RangeF(0.0, 100.0)];
        /// Write no spans; absent inherits.
        disable_span_reporting: Option<bool> = "disableSpanReporting";
        /// Pass no trace context on; absent inherits.
        disable_context_propagation: Option<bool> = "disableContextPropagation";
        /// Further tags of spans.
        custom_tags: BTreeMap<String, CustomTag> = "customTags";
        /// Let the request id decide about sampling; absent inherits.
        use_request_id_for_trace_sampling: Option<bool> = "useRequestIdForTraceSampling";
        /// Write Istio's own tags; absent is yes.
        enable_istio_tags: Option<bool> = "enableIstioTags";
    }
}

one_of! {
    /// Where the value of a tag comes from.
    pub enum CustomTag {
        /// A constant.
        Literal(TagText) = "literal",
        /// An environment variable of the proxy.
        Environment(TagSource) = "environment",
        /// A request header.
        Header(TagSource) = "header",
        /// An access log format.
        Formatter(TagText) = "formatter",
    } otherwise {
        /// Nothing; validation refuses it.
        Unset,
    }
}

record! {
    /// A text for a tag.
    pub struct TagText {
        /// The text.
        value: String = "value" [Length(1, usize::MAX)];
    }
}

record! {
    /// A named source for a tag.
    pub struct TagSource {
        /// Its name.
        name: String = "name" [Length(1, usize::MAX)];
        /// When there is none; empty leaves the tag out.
        default_value: String = "defaultValue" or String::new();
    }
}

record! {
    /// Settings of metrics.
    pub struct Metrics {
        /// Where metrics go; empty inherits.
        providers: Vec<ProviderRef> = "providers";
        /// Changes to single metrics.
        overrides: Vec<MetricsOverrides> = "overrides";
        /// How often metrics are flushed.
        reporting_interval: Option<Duration> = "reportingInterval" [Positive];
    }
}

record! {
    /// Changes to one metric.
    pub struct MetricsOverrides {
        /// Which; absent is all.
        r#match: Option<MetricSelector> = "match";
        /// Switch it off; absent inherits.
        disabled: Option<bool> = "disabled";
        /// Changes to its labels.
        tag_overrides: BTreeMap<String, TagOverride> = "tagOverrides";
    }
}

record! {
    /// Which metrics are meant.
    pub struct MetricSelector {
        /// One of the standard metrics.
        metric: Option<IstioMetric> = "metric";
        /// Another metric, by name.
        custom_metric: Option<String> = "customMetric" [Length(1, usize::MAX)];
        /// Absent is both sides.
        mode: WorkloadMode = "mode" or WorkloadMode::ClientAndServer;
    }
    at_most_one ["metric", "customMetric"];
}

choice! {
    /// Istio's standard metrics.
    pub enum IstioMetric {
        /// All of them.
        AllMetrics = "ALL_METRICS",
        /// `istio_requests_total`
        RequestCount = "REQUEST_COUNT",
        /// `istio_request_duration_milliseconds`
        RequestDuration = "REQUEST_DURATION",
        /// `istio_request_bytes`
        RequestSize = "REQUEST_SIZE",
        /// `istio_response_bytes`
        ResponseSize = "RESPONSE_SIZE",
        /// `istio_tcp_connections_opened_total`
        TcpOpenedConnections = "TCP_OPENED_CONNECTIONS",
        /// `istio_tcp_connections_closed_total`
        TcpClosedConnections = "TCP_CLOSED_CONNECTIONS",
        /// `istio_tcp_sent_bytes_total`
        TcpSentBytes = "TCP_SENT_BYTES",
        /// `istio_tcp_received_bytes_total`
        TcpReceivedBytes = "TCP_RECEIVED_BYTES",
        /// `istio_request_messages_total`
        GrpcRequestMessages = "GRPC_REQUEST_MESSAGES",
        /// `istio_response_messages_total`
        GrpcResponseMessages = "GRPC_RESPONSE_MESSAGES",
    }
}

record! {
    /// A change to one label of a metric.
    pub struct TagOverride {
        /// Absent is UPSERT.
        operation: TagOperation = "operation" or TagOperation::Upsert;
        /// A CEL expression for the value.
        value: Option<String> = "value";
    }
    verify value_fits_operation;
    cel ["!has(self.operation) || self.operation != 'REMOVE' || !has(self.value)", "`value` must not be set with REMOVE"],
        ["(has(self.operation) && self.operation == 'REMOVE') || (has(self.value) && self.value != '')", "`value` must be set with UPSERT"];
}

choice! {
    /// What happens to a label.
    pub enum TagOperation {
        /// Set.
        Upsert = "UPSERT",
        /// Removed.
        Remove = "REMOVE",
    }
}

fn value_fits_operation(tag: &TagOverride, cursor: &mut Cursor<'_>) {
    if tag.operation == TagOperation::Remove && tag.value.is_some() {
        cursor.report_at("value", Code::InvalidCombination, "`value` must not be set with REMOVE");
    }
    if tag.value.as_deref() == Some("") {
        cursor.report_at("value", Code::InvalidCombination, "`value` must be set with UPSERT");
    }
}

record! {
    /// Settings of access logs.
    pub struct AccessLogging {
        /// Absent is both sides.
        r#match: Option<ModeMatch> = "match";
        /// Where lines go; empty inherits.
        providers: Vec<ProviderRef> = "providers";
        /// Write none; absent inherits.
        disabled: Option<bool> = "disabled";
        /// Which requests are logged; absent is all.
        filter: Option<AccessLogFilter> = "filter";
    }
}

record! {
    /// Which requests are logged.
    pub struct AccessLogFilter {
        /// A CEL expression; empty is all.
        expression: String = "expression" or String::new();
    }
}
