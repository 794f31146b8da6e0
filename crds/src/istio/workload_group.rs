//! WorkloadGroup: a template for workloads that are no pods. <https://istio.io/latest/docs/reference/config/networking/workload-group/>

use std::collections::BTreeMap;

use super::workload_entry::{PORT_NAME_RULE, SOCKET_RULE, is_socket_or_other, socket_has_no_ports};
use crate::schema::Check::{Each, EachKey, Entries, Length, Pattern, Range, Rule};
use crate::schema::Cursor;
use crate::schema::formats::{is_port_name, up_to};

record! {
    /// The spec of a WorkloadGroup.
    pub struct WorkloadGroup {
        /// What the entries are given.
        metadata: Option<WorkloadGroupMetadata> = "metadata";
        /// What the entries say.
        template: WorkloadTemplate = "template";
        /// How it is known that a workload is ready.
        probe: Option<ReadinessProbe> = "probe";
    }
}

record! {
    /// Labels and annotations of the entries of a group.
    pub struct WorkloadGroupMetadata {
        /// Labels.
        labels: BTreeMap<String, String> = "labels" [Entries(0, 256)];
        /// Annotations.
        annotations: BTreeMap<String, String> = "annotations" [Entries(0, 256)];
    }
}

record! {
    /// A WorkloadEntry without the duty to have an address.
    pub struct WorkloadTemplate {
        /// IP address, host name, or `unix://` path.
        address: Option<String> = "address" [
            up_to(256),
            Rule("a unix:// address with an absolute path or abstract name", is_socket_or_other, SOCKET_RULE),
        ];
        /// Port numbers by name.
        ports: Option<BTreeMap<String, u32>> = "ports" [Entries(0, 128), EachKey("a port name", is_port_name, PORT_NAME_RULE), Each(&[Range(1, 65535)])];
        /// Labels of the workload.
        labels: BTreeMap<String, String> = "labels" [Entries(0, 256)];
        /// Endpoints of one network reach each other directly.
        network: String = "network" [up_to(2048)] or String::new();
        /// `region/zone/subzone`.
        locality: String = "locality" [up_to(2048)] or String::new();
        /// Share among the endpoints.
        weight: u32 = "weight" or 0;
        /// Names the workload's identity.
        service_account: String = "serviceAccount" [up_to(253)] or String::new();
    }
    verify verify;
    cel ["!has(self.ports) || !has(self.address) || !self.address.startsWith('unix://')", "an address on a unix socket has no ports"];
}

fn verify(template: &WorkloadTemplate, cursor: &mut Cursor<'_>) {
    socket_has_no_ports(template.address.as_deref(), template.ports.is_some(), cursor);
}

record! {
    /// How it is known that a workload is ready.
    pub struct ReadinessProbe {
        /// Seconds before the first try.
        initial_delay_seconds: i32 = "initialDelaySeconds" [Range(0, i64::MAX)] or 0;
        /// Seconds that a try may take.
        timeout_seconds: i32 = "timeoutSeconds" [Range(0, i64::MAX)] or 0;
        /// Seconds between tries.
        period_seconds: i32 = "periodSeconds" [Range(0, i64::MAX)] or 0;
        /// Successes in a row that make it ready.
        success_threshold: i32 = "successThreshold" [Range(0, i64::MAX)] or 0;
        /// Failures in a row that make it unready.
        failure_threshold: i32 = "failureThreshold" [Range(0, i64::MAX)] or 0;
        /// By an HTTP request.
        http_get: Option<HttpProbe> = "httpGet";
        /// By a connection.
        tcp_socket: Option<TcpProbe> = "tcpSocket";
        /// By a command.
        exec: Option<ExecProbe> = "exec";
        /// By a gRPC health check.
        grpc: Option<GrpcProbe> = "grpc";
    }
    at_most_one ["httpGet", "tcpSocket", "exec", "grpc"];
}

record! {
    /// A probe by HTTP.
    pub struct HttpProbe {
        /// Path of the request.
        path: String = "path" or String::new();
        /// Port.
        port: u32 = "port" [Range(1, 65535)];
        /// Host; empty is the workload itself.
        host: String = "host" or String::new();
        /// `HTTP` or `HTTPS`.
        scheme: String = "scheme" [Rule("`HTTP` or `HTTPS`", |scheme| matches!(scheme, "" | "HTTP" | "HTTPS"), "self in ['', 'HTTP', 'HTTPS']")] or String::new();
        /// Headers of the request.
        http_headers: Vec<ProbeHeader> = "httpHeaders";
    }
}

record! {
    /// A header of a probe.
    pub struct ProbeHeader {
        /// Its name.
        name: String = "name" [Pattern("a header name of letters, digits and dashes", is_probe_header, "^[-A-Za-z0-9]+$")];
        /// Its value.
        value: String = "value" or String::new();
    }
}

fn is_probe_header(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

record! {
    /// A probe by TCP.
    pub struct TcpProbe {
        /// Host; empty is the workload itself.
        host: String = "host" or String::new();
        /// Port.
        port: u32 = "port" [Range(1, 65535)];
    }
}

record! {
    /// A probe by gRPC.
    pub struct GrpcProbe {
        /// Port.
        port: Option<u32> = "port" [Range(1, 65535)];
        /// Name of the service that is asked for.
        service: String = "service" or String::new();
    }
}

record! {
    /// A probe by a command.
    pub struct ExecProbe {
        /// Program and arguments.
        command: Vec<String> = "command" [Each(&[Length(1, usize::MAX)])] or_required;
    }
}
