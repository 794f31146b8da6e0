//! Parts of Envoy's configuration that listeners of its sidecars have in common.

use super::{indent, policies::envoy_policies};

/// What Istio's default log line says, as JSON.
const LOG: &str = r#"access_log:
- name: file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: FOLDER/LISTENER-access.log
    log_format:
      json_format:
        time: "%START_TIME%"
        source: "%DOWNSTREAM_PEER_URI_SAN%"
        source_address: "%DOWNSTREAM_REMOTE_ADDRESS%"
        destination_address: "%DOWNSTREAM_LOCAL_ADDRESS%"
        protocol: "%PROTOCOL%"
        method: "%REQ(:METHOD)%"
        authority: "%REQ(:AUTHORITY)%"
        path: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"
        status: "%RESPONSE_CODE%"
        grpc_status: "%GRPC_STATUS_NUMBER%"
        reason: "%RESPONSE_FLAGS%"
        details: "%RESPONSE_CODE_DETAILS%"
        connection_details: "%CONNECTION_TERMINATION_DETAILS%"
        route: "%ROUTE_NAME%"
        cluster: "%UPSTREAM_CLUSTER%"
        upstream: "%UPSTREAM_HOST%"
        upstream_local: "%UPSTREAM_LOCAL_ADDRESS%"
        upstream_failure: "%UPSTREAM_TRANSPORT_FAILURE_REASON%"
        upstream_time: "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"
        request_id: "%REQ(X-REQUEST-ID)%"
        trace: "%REQ(TRACEPARENT)%"
        sni: "%REQUESTED_SERVER_NAME%"
        duration_ms: "%DURATION%"
        bytes_received: "%BYTES_RECEIVED%"
        bytes_sent: "%BYTES_SENT%"
"#;

/// An HTTP connection manager that sends everything to one cluster.
fn http(name: &str, cluster: &str, has_policies: bool) -> String {
    let mut text = format!(
        "filters:
- name: envoy.filters.network.http_connection_manager
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
    stat_prefix: {name}
    codec_type: AUTO
    use_remote_address: false
    normalize_path: true
"
    );
    if has_policies {
        text.push_str(
            "    forward_client_cert_details: APPEND_FORWARD\n    set_current_client_cert_details: {uri: true, dns: true, subject: true}\n",
        );
    }
    text.push_str(&indent(&LOG.replace("LISTENER", name), 4));
    text.push_str(&format!(
        "    route_config:
      virtual_hosts:
      - name: all
        domains: [\"*\"]
        routes:
        - {{name: default, match: {{prefix: /}}, route: {{cluster: {cluster}, timeout: 0s}}}}
    http_filters:
"
    ));
    if has_policies {
        text.push_str(&indent(&envoy_policies(), 4));
    }
    text.push_str(
        "    - name: envoy.filters.http.router
      typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
",
    );
    text
}

/// Listeners behind the capture port, one per service port.
pub(super) fn outbound() -> String {
    let listener = |name: &str, port: u16| {
        format!(
            "- name: {name}
  address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}
  bind_to_port: false
  filter_chains:
  - {}",
            indent(&http(name, name, false), 4).trim_start()
        )
    };
    indent(&(listener("outbound-http", 9080) + &listener("outbound-grpc", 9081)), 2)
}

/// Filter chains of the capture port, one per application port.
pub(super) fn inbound() -> String {
    let chain = |name: &str, port: u16| {
        format!(
            "- filter_chain_match: {{destination_port: {port}, transport_protocol: tls}}
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      require_client_certificate: true
      common_tls_context:
        alpn_protocols: [istio-peer-exchange, h2, http/1.1]
        tls_certificates: [{{certificate_chain: {{filename: FOLDER/server-chain.pem}}, private_key: {{filename: FOLDER/server-key.pem}}}}]
        validation_context:
          trusted_ca: {{filename: FOLDER/root-cert.pem}}
          match_typed_subject_alt_names: [{{san_type: URI, matcher: {{prefix: \"spiffe://cluster.local/\"}}}}]
{}",
            indent(&http(name, name, true), 2)
        )
    };
    indent(&(chain("inbound-http", 9080) + &chain("inbound-grpc", 9081)), 4)
}

/// Clusters of both directions; `POD_ADDRESS` is the address of the server's pod.
pub(super) fn clusters() -> String {
    const BREAKERS: &str = "  circuit_breakers:
    thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 100000}]
";
    const HTTP2: &str = "  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {http2_protocol_options: {}}
";
    let outbound = |name: &str, port: u16, alpn: &str, options: &str| {
        format!(
            "- name: {name}
  connect_timeout: 5s
{BREAKERS}{options}  load_assignment:
    cluster_name: {name}
    endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: POD_ADDRESS, port_value: {port}}}}}}}}}]}}]
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: outbound_.{port}_._.server.bench.svc.cluster.local
      common_tls_context:
        alpn_protocols: [{alpn}]
        tls_certificates: [{{certificate_chain: {{filename: FOLDER/caller-chain.pem}}, private_key: {{filename: FOLDER/caller-key.pem}}}}]
        validation_context:
          trusted_ca: {{filename: FOLDER/root-cert.pem}}
          match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"spiffe://cluster.local/ns/bench/sa/server\"}}}}]
"
        )
    };
    let inbound = |name: &str, options: &str| {
        format!(
            "- name: {name}
  type: ORIGINAL_DST
  lb_policy: CLUSTER_PROVIDED
  connect_timeout: 5s
{BREAKERS}{options}  upstream_bind_config: {{source_address: {{address: 127.0.0.6, port_value: 0}}}}
"
        )
    };
    let all = [
        outbound("outbound-http", 9080, "istio-http/1.1, istio, http/1.1", ""),
        outbound("outbound-grpc", 9081, "istio-h2, istio, h2", HTTP2),
        inbound("inbound-http", ""),
        inbound("inbound-grpc", HTTP2),
    ];
    indent(&all.concat(), 2)
}
